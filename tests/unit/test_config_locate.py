"""gatewayd.config.locate: the line of every key, in any document that tomli takes."""

import json

import tomli
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewayd.config.describe import dotted
from gatewayd.config.locate import line_of, locate

NASTY = '''
# [not.a.table]
a = 1
"q.uo\\"ted" = { x = 1, "y z".w = [1,
  2, # comment with ] and "
  { deep = true } ] }
text = """
[fake]
b = 1
quotes "" inside and at the end"""""
lit = \'\'\'
[fake2]
it's''\'\'\'
[t . "u v"]
k = [
  "a]",
  'b#',
]
[[list]]
n = 1
[list.sub]
m = 2
[[list]]
n = 3
  [[list.inner]]
  d.e = 1979-05-27 07:32:00Z  # date
'''


def test_the_locator_finds_every_kind_of_key() -> None:
    lines = locate(NASTY)

    wanted = {
        ("a",): 3,
        ('q.uo"ted', "x"): 4,
        ('q.uo"ted', "y z", "w", 1): 5,
        ('q.uo"ted', "y z", "w", 2, "deep"): 6,
        ("text",): 7,
        ("lit",): 11,
        ("t", "u v"): 14,
        ("t", "u v", "k", 1): 17,
        ("list", 0, "n"): 20,
        ("list", 0, "sub", "m"): 22,
        ("list", 1, "n"): 24,
        ("list", 1, "inner", 0, "d", "e"): 26,
    }
    assert wanted == {path: lines.get(path) for path in wanted}
    assert not any("fake" in str(path) or "not" in path for path in lines)


def test_what_is_not_in_the_text_gets_the_line_of_its_parent() -> None:
    lines = locate("\n[a.b]\nc = 1\n")

    assert (line_of(lines, ("a", "b", "c", "x")), line_of(lines, ("a", "b", "z")), line_of(lines, ("n",))) == (3, 2, 1)


SCALARS = st.one_of(
    st.integers(-9, 9),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=8),
)
NAMES = st.one_of(
    st.sampled_from(["a", "b", "c-d", "e.f", "[x]", "#", '"', "ü"]), st.text("ab=.'[]\"# ", min_size=1, max_size=4)
)
INLINE = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=6,
)
TREES = st.recursive(
    st.dictionaries(NAMES, INLINE, max_size=3),
    lambda inner: st.dictionaries(NAMES, st.one_of(INLINE, inner, st.lists(inner, min_size=1, max_size=3)), max_size=3),
    max_leaves=5,
)


def to_inline(value: object, draw: st.DataObject) -> str:
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{json.dumps(k, ensure_ascii=False)} = {to_inline(v, draw)}" for k, v in value.items())
            + "}"
        )
    if isinstance(value, list):
        gap = draw.draw(st.sampled_from(["", " ", "\n", "\n# ] \" ' [t]\n"]))
        return "[" + "".join(f"{gap}{to_inline(v, draw)}{gap}," for v in value) + gap + "]"
    if isinstance(value, str) and "'" not in value and draw.draw(st.booleans()):
        return f"'''\n{value}'''"
    return json.dumps(value, ensure_ascii=False) if not isinstance(value, float) else repr(value)


def to_toml(tree: dict[str, object], path: tuple[str, ...], draw: st.DataObject, out: list[str]) -> None:
    """Writes tables as headers where that is possible, and marks each key's line by a comment before it."""
    tables = []
    for name, value in tree.items():
        as_tables = isinstance(value, list) and value and all(isinstance(item, dict) for item in value)
        if (isinstance(value, dict) or as_tables) and draw.draw(st.booleans()):
            tables.append(name)
            continue
        out.append(f'{json.dumps(name, ensure_ascii=False)} = {to_inline(value, draw)} # = [x] "\n')
    for name in tables:
        header = ".".join(json.dumps(part, ensure_ascii=False) for part in (*path, name))
        value = tree[name]
        for item in value if isinstance(value, list) else [value]:
            out.append(f"\n[[{header}]]\n" if isinstance(value, list) else f"\n [ {header} ] # c\n")
            to_toml(item, (*path, name), draw, out)


def paths_of(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [each for name, item in children for each in [(*path, name), *paths_of(item, (*path, name))]]


@settings(max_examples=150, deadline=None)
@given(tree=TREES, draw=st.data())
def test_every_value_of_any_document_is_located_on_a_line_that_names_it(
    tree: dict[str, object], draw: st.DataObject
) -> None:
    out: list[str] = []
    to_toml(tree, (), draw, out)
    text = "".join(out)
    data = tomli.loads(text)

    lines = locate(text)

    written = text.split("\n")
    assert set(paths_of(data)) == set(lines)
    for path, line in lines.items():
        if isinstance(path[-1], str):
            assert json.dumps(path[-1], ensure_ascii=False) in written[line - 1]


def test_a_dotted_key_is_quoted_where_toml_needs_it() -> None:
    assert dotted(("routes", "a b", "topics", 0)) == 'routes."a b".topics[0]'
