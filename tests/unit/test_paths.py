import pytest

from gatewayd.errors import RejectedError
from gatewayd.payloads.paths import compile_path, follow


@pytest.mark.parametrize(
    ("text", "root", "steps"),
    [
        ("a", "value", ("a",)),
        ("a.b-c.0", "value", ("a", "b-c", "0")),
        ("a[0][-1].b", "value", ("a", 0, -1, "b")),
        ("[2].x", "value", (2, "x")),
        ('"a.b"."c[0]"', "value", ("a.b", "c[0]")),
        (r'"say \"hi\" \\"', "value", ('say "hi" \\',)),
        ("übertemperatur", "value", ("übertemperatur",)),
        ("$value", "value", ()),
        ("$time", "time", ()),
        ("$topic", "topic", ()),
        ("$topic[-2]", "topic", (-2,)),
    ],
)
def test_a_path_is_read_step_by_step(text: str, root: str, steps: tuple[str | int, ...]) -> None:
    path = compile_path(text)

    assert (path.root, path.steps) == (root, steps)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ".",
        ".a",
        "a.",
        "a..b",
        "a[",
        "a[x]",
        "a[]",
        "a b",
        'a"b"',
        '"',
        '"a"b',
        "a]",
        "$",
        "$x",
        "$topic[x]",
        "$time.a",
        "a.[0]",
    ],
)
def test_what_is_no_path_is_told_in_words(text: str) -> None:
    with pytest.raises(ValueError, match=r"path|write it like|is not known"):
        compile_path(text)


def test_a_text_is_not_indexed_like_a_list() -> None:
    with pytest.raises(RejectedError):
        follow({"a": "text"}, compile_path("a[0]"))
