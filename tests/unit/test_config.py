"""gatewayd.config: every mistake at once, each with its line; secrets and environment read in one place."""

from pathlib import Path

import pytest

from gatewayd.config import Config, ConfigErrors, check, load
from gatewayd.config.load import Problem, examine_text
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


def test_a_ttl_within_which_a_window_never_closes_is_a_mistake() -> None:
    window = "[routes.pumps.window]\nevery_s = 60\ngrace_s = 5\n"

    [problem] = problems_of(f"{ROUTE}ttl_s = 64\n{window}")

    assert (problem.line, problem.key) == (4, "routes.pumps.ttl_s")
    assert "at least 65" in str(problem)
    assert problems_of(f"{ROUTE}ttl_s = 65\n{window}") == []


def test_a_deadline_within_which_a_window_never_closes_is_a_mistake() -> None:
    window = "window = { every_s = 60, grace_s = 5 }\n"

    [problem] = problems_of(f"{ROUTE}deadline_s = 64\n{window}")

    assert (problem.line, problem.key) == (4, "routes.pumps.deadline_s")
    assert problems_of(f"{ROUTE}deadline_s = 65\n{window}") == []


def test_cores_that_count_down_are_a_mistake() -> None:
    [problem] = problems_of('[models]\nworker_cpus = "0,3-1"\n')

    assert (problem.line, problem.key) == (2, "models.worker_cpus")
    assert problems_of('[models]\nworker_cpus = "0,1-3"\n') == []


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
        ("[board]\nhot_c = 70\ncool_c = 70.0\n", 3, "board.cool_c"),
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
        ('[web]\nhost = "0.0.0.0"\ntoken = { env = "T" }\n', "web.token"),
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
