"""gatewayd.config: every mistake at once, each with its line; secrets and environment read in one place."""

import json
import re
from pathlib import Path

import pytest
import tomli
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gatewayd.config import Config, ConfigErrors, check, gateway_id, load, read_environment, read_secret, resolve_paths
from gatewayd.config.describe import dotted
from gatewayd.config.load import Problem, examine_text
from gatewayd.config.locate import line_of, locate
from gatewayd.config.render import render_example, render_reference
from gatewayd.config.schema import Secret
from gatewayd.errors import ConfigError

ROUTE = '[routes.pumps]\ntopics = ["plant/+/vibration"]\nhandler = "threshold"\n'


def problems_of(text: str) -> list[Problem]:
    return examine_text(text, "config.toml")[1]


def lines_and_keys(text: str) -> list[tuple[int, str]]:
    return [(problem.line, problem.key) for problem in problems_of(text)]


def test_an_empty_file_is_the_default_config(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("")

    config = load(path)

    assert config == Config()


def test_every_problem_is_reported_at_once_in_order_of_lines(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[source]\nport = "1883"\nkeepalive_s = 1\n[web]\nprot = 80\n[routes.a]\nhandler = "threshold"\n')

    found = [(problem.line, problem.key) for problem in check(path)]

    assert found == [(2, "source.port"), (3, "source.keepalive_s"), (5, "web.prot"), (6, "routes.a.topics")]


def test_load_raises_with_all_errors_and_exits_by_config_error(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[source]\nport = 0\nkeepalive_s = 1\n")

    with pytest.raises(ConfigErrors) as raised:
        load(path)

    assert isinstance(raised.value, ConfigError)
    assert [problem.key for problem in raised.value.problems] == ["source.port", "source.keepalive_s"]
    assert f"{path}:2: source.port: 0 is too small (allowed: 1 to 65535)" in str(raised.value)


def test_a_syntax_error_has_its_line_and_column() -> None:
    [problem] = problems_of("[web]\nport = = 1\n")

    assert problem.line == 2
    assert "column 8" in problem.problem


def test_a_file_that_is_not_there_or_not_text_is_a_problem_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b"# ok\n# caf\xe9\n")

    [missing] = check(tmp_path / "none.toml")
    [latin] = check(tmp_path / "latin.toml")

    assert missing.problem == "cannot be read: No such file or directory"
    assert (latin.line, latin.problem) == (2, "is not UTF-8")


def test_an_unknown_key_names_the_nearest_known_one() -> None:
    [problem] = problems_of(ROUTE + "[routes.pumps.batch]\nmax_mesages = 5\n")

    assert problem.key == "routes.pumps.batch.max_mesages"
    assert "did you mean `max_messages`?" in problem.problem


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[source]\nport = true\n", "source.port"),
        ("[source]\nport = 1883.0\n", "source.port"),
        ("[source]\nport = 65536\n", "source.port"),
        ("[source]\nprotocol = 5\n", "source.protocol"),
        ('[source]\nprotocol = "3.1"\n', "source.protocol"),
        ("[source.reconnect]\ninitial_s = 0\n", "source.reconnect.initial_s"),
        ("[source.reconnect]\ninitial_s = nan\n", "source.reconnect.initial_s"),
        (ROUTE + "window.grace_s = inf\n", "routes.pumps.window.grace_s"),
        (ROUTE + "qos = true\n", "routes.pumps.qos"),
        (ROUTE + "qos = 2\n", "routes.pumps.qos"),
        ('[gateway]\nid = "a b"\n', "gateway.id"),
        ('[gateway]\nid = "a\\n"\n', "gateway.id"),
        ("source = 5\n", "source"),
        ("routes = []\n", "routes"),
        ("[handlers]\npaths = [1]\n", "handlers.paths[0]"),
        ("[web]\nhost = 1979-05-27\n", "web.host"),
        ('[sinks.s]\ntype = "ftp"\n', "sinks.s.type"),
        ("[sinks.s]\nurl = 'http://h'\n", "sinks.s.type"),
        ('[sinks.s]\ntype = "http"\nurl = "h"\n', "sinks.s.url"),
        ('[sinks.s]\ntype = "http"\n', "sinks.s.url"),
        ("[routes.a]\nhandler = 'x'\ntopics = []\n", "routes.a.topics"),
    ],
)
def test_a_value_of_the_wrong_type_or_out_of_range_is_refused(text: str, key: str) -> None:
    problems = problems_of(text)

    assert [key] == [problem.key for problem in problems]
    assert not problems[0].is_warning


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        (ROUTE + 'sinks = ["cloud"]\n', 4, "routes.pumps.sinks[0]"),
        (ROUTE.replace("plant/+/vibration", "plant/#/x"), 2, "routes.pumps.topics[0]"),
        (ROUTE + 'mode = "direct"\nwindow.every_s = 60\n', 4, "routes.pumps.mode"),
        (
            ROUTE + '[routes.pumps.payload]\nfields = {t = "a"}\noptional = ["u"]\n',
            6,
            "routes.pumps.payload.optional[0]",
        ),
        ('[sinks.f]\ntype = "file"\npath = "x"\ntimeout_s = 120\n', 4, "sinks.f.timeout_s"),
        (ROUTE + 'payload.fields = {t = "a["}\n', 4, "routes.pumps.payload.fields.t"),
        (ROUTE + 'payload.time = "$now"\n', 4, "routes.pumps.payload.time"),
        (ROUTE + 'payload.id = ""\n', 4, "routes.pumps.payload.id"),
        (ROUTE + 'window.key = "a..b"\n', 4, "routes.pumps.window.key"),
        (ROUTE + 'payload.columns = ["a",\n"a"]\n', 5, "routes.pumps.payload.columns[1]"),
        (ROUTE + "payload.delimiter = ' '\n", 4, "routes.pumps.payload.delimiter"),
        (ROUTE + 'sinks = ["s",\n "s"]\n[sinks.s]\ntype = "file"\npath = "x"\n', 5, "routes.pumps.sinks[1]"),
        ("[source.password]\n", 1, "source.password"),
        ('[source]\npassword = {file = "a", env = "B"}\n', 2, "source.password"),
        ('[source.tls]\ncert_file = "c.pem"\n', 2, "source.tls.cert_file"),
        ('[source.tls]\nkey_file = "k.pem"\n', 2, "source.tls.key_file"),
        ("[source.reconnect]\ninitial_s = 60\nmax_s = 30\n", 2, "source.reconnect.initial_s"),
        (ROUTE.replace("routes.pumps", 'routes."a b"'), 1, 'routes."a b"'),
        ('[sinks."ü"]\ntype = "file"\npath = "x"\n', 1, 'sinks."ü"'),
    ],
)
def test_two_keys_that_contradict_each_other_are_refused(text: str, line: int, key: str) -> None:
    assert [(line, key)] == lines_and_keys(text)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[web]\nhost = "0.0.0.0"\n', "web.host"),
        ('[source]\nadapter = "aiomqtt"\n' + ROUTE, "source.adapter"),
        ("[source.tls]\ninsecure = true\n", "source.tls.insecure"),
        (ROUTE + 'when_full = "block"\n', "routes.pumps.when_full"),
        (ROUTE + "live = false\n", "routes.pumps"),
    ],
)
def test_what_is_unwise_is_a_warning_and_loads(text: str, key: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)

    [warning] = check(path)
    load(path)

    assert (key, True) == (warning.key, warning.is_warning)


def test_a_sink_that_is_itself_wrong_is_not_reported_as_missing() -> None:
    found = lines_and_keys(ROUTE + 'sinks = ["cloud"]\n[sinks.cloud]\ntype = "http"\nurl = 5\n')

    assert found == [(7, "sinks.cloud.url")]


def test_a_value_in_the_wrong_place_is_not_repeated_in_the_message() -> None:
    [problem] = problems_of('[source]\npassword = "hunter2"\n')

    assert "hunter2" not in str(problem)


def test_the_caller_adds_what_only_it_knows() -> None:
    _, problems = examine_text(ROUTE, "c.toml", lambda config: [(("routes", "pumps", "handler"), "is not installed")])

    assert [str(problem) for problem in problems] == ["c.toml:3: routes.pumps.handler: is not installed"]


# --- the locator ---

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


# --- secrets ---


def test_a_secret_in_the_credentials_folder_wins_over_one_beside_the_config(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "token").write_text("from systemd\n")
    (tmp_path / "token").write_text("from beside\n")
    environment = read_environment({"CREDENTIALS_DIRECTORY": str(credentials)})

    given = read_secret(Secret(file="token"), key="k", beside=tmp_path, environment=environment)
    beside = read_secret(Secret(file="token"), key="k", beside=tmp_path, environment=read_environment({}))

    assert (given, beside) == ("from systemd", "from beside")


def test_a_secret_comes_from_the_environment_where_the_config_says_so() -> None:
    environment = read_environment({"TOKEN": "t"})

    assert read_secret(Secret(env="TOKEN"), key="k", beside=Path(), environment=environment) == "t"


@pytest.mark.parametrize(
    "secret", [Secret(env="NOT_SET"), Secret(file="none"), Secret(file="empty"), Secret(file="binary")]
)
def test_a_secret_that_cannot_be_had_names_its_key_and_shows_nothing(secret: Secret, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"hunter2\xff")

    with pytest.raises(ConfigError) as raised:
        read_secret(secret, key="sinks.cloud.token", beside=tmp_path, environment=read_environment({}))

    assert raised.value.key.startswith("sinks.cloud.token.")
    assert "hunter2" not in repr(raised.value)
    assert raised.value.__cause__ is None


def test_a_secret_that_everybody_may_read_is_warned_about_without_showing_it(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hunter2")
    (tmp_path / "token").chmod(0o644)

    with capture_logs() as logs:
        read_secret(Secret(file="token"), key="k", beside=tmp_path, environment=read_environment({}))

    assert [line["log_level"] for line in logs] == ["warning"]
    assert "hunter2" not in str(logs)


# --- environment ---


def test_the_state_folder_follows_systemd_then_xdg_then_home(tmp_path: Path) -> None:
    config = Config()
    everything = {"STATE_DIRECTORY": "/s:/t", "XDG_STATE_HOME": "/x", "HOME": "/h"}

    found = []
    for missing in ((), ("STATE_DIRECTORY",), ("STATE_DIRECTORY", "XDG_STATE_HOME")):
        variables = {name: value for name, value in everything.items() if name not in missing}
        found.append(str(resolve_paths(config, read_environment(variables), tmp_path / "config.toml").state_dir))

    assert found == ["/s", "/x/gatewayd", "/h/.local/state/gatewayd"]


def test_without_any_folder_for_the_spool_the_daemon_does_not_start() -> None:
    with pytest.raises(ConfigError, match=r"gateway\.state_dir"):
        resolve_paths(Config(), read_environment({}), "config.toml")


def test_the_environment_does_not_show_its_variables() -> None:
    environment = read_environment({"TOKEN": "hunter2", "WATCHDOG_USEC": "abc", "WATCHDOG_PID": "12"})

    assert "hunter2" not in repr(environment)
    assert (environment.watchdog_usec, environment.watchdog_pid) == (None, 12)


def test_the_gateway_is_named_after_the_host_unless_it_has_a_name() -> None:
    _, problems = examine_text(f'[gateway]\nid = "{gateway_id(Config())}"\n', "c")

    assert problems == []


# --- the files made from the structs ---


def toggles(lines: list[str]) -> list[tuple[int, int | None]]:
    """Every commented-out key: its line, and the line of its table's header when that is commented out too."""
    found: list[tuple[int, int | None]] = []
    header: int | None = None
    for number, line in enumerate(lines):
        if re.match(r"#?\[", line):
            header = number if line.startswith("#") else None
        elif re.match(r"#[a-z_]+ = ", line):
            found.append((number, header))
    return found


def test_the_example_has_nothing_wrong_with_it() -> None:
    assert problems_of(render_example()) == []


def test_every_key_of_the_example_is_right_when_it_is_switched_on() -> None:
    lines = render_example().split("\n")
    keys = toggles(lines)
    assert len(keys) > 100

    wrong = []
    for number, header in keys:
        changed = {number, header} if header is not None else {number}
        # A sink that is commented out as a whole needs its type, and its secrets' tables need it.
        if header is not None and "sinks.plant" in lines[header]:
            changed |= {at for at, line in enumerate(lines) if line in ("#[sinks.plant]", '#type = "mqtt"')}
        text = "\n".join(line.removeprefix("#") if at in changed else line for at, line in enumerate(lines))
        wrong += [str(problem) for problem in problems_of(text) if problem.allowed != "both or neither"]

    assert wrong == []


def test_a_default_shown_in_the_example_is_the_default() -> None:
    lines = render_example().split("\n")
    shown = [line for line in lines if not line.startswith("# ")]
    plain = [line.removeprefix("#") if re.match(r"#[a-z_]+ = ", line) else line for line in shown]

    cut = plain.index("[spool]")
    config, problems = examine_text("\n".join(plain[cut:]), "config.toml")

    assert problems == []
    assert config is not None
    default = Config()
    assert (config.spool, config.models, config.web, config.log) == (
        default.spool,
        default.models,
        default.web,
        default.log,
    )


def test_every_key_has_its_anchor_in_the_reference() -> None:
    page = render_reference()

    anchors = set(re.findall(r'<a id="([^"]+)">', page))

    wanted = {"gateway.id", "source.tls.ca_file", "routes.<name>.window.every_s", "sinks.http.token.file"}
    assert wanted | {"sinks.mqtt.reconnect.max_s", "sinks.file.path", "log.repeat_s"} <= anchors
    assert len(anchors) == page.count("<a id=")
