"""The command line for a user who makes mistakes: words, a hint, and the exit status that is documented."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from gatewayd import __version__
from gatewayd.cli import EXIT_CONFIG, EXIT_FAILED, EXIT_UNAVAILABLE, EXIT_USAGE, main
from tests.sim.mosquitto import free_port

GOOD = """
[gateway]
id = "hall-3"
state_dir = "state"
[source]
port = {port}
[web]
port = {port}
[sinks.file]
type = "file"
path = "out.ndjson"
[routes.ovens]
topics = ["ovens/#"]
handler = "threshold"
sinks = ["file"]
[[routes.ovens.options.rules]]
above = 80.0
label = "hot"
"""


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    status: int
    out: str
    err: str


Command = Callable[..., Answer]


@pytest.fixture
def gatewayd(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Runs a command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["gatewayd", *arguments])
        try:
            main()
            status = 0
        except SystemExit as ended:
            status = int(ended.code or 0)
        said = capsys.readouterr()
        return Answer(status, said.out, said.err)

    return run


@pytest.fixture
def good(tmp_path: Path) -> str:
    path = tmp_path / "good.toml"
    path.write_text(GOOD.format(port=free_port()))
    return str(path)


def test_the_version_is_printed(gatewayd: Command) -> None:
    assert gatewayd("--version") == Answer(0, f"gatewayd {__version__}\n", "")


def test_a_good_config_is_ok(gatewayd: Command, good: str) -> None:
    assert gatewayd("check", "-c", good) == Answer(0, f"{good}: ok\n", "")


def test_every_mistake_in_a_config_is_named_with_its_line(gatewayd: Command, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text('[routes.x]\ntopics = ["a/#"]\nhandler = "nope"\nsinks = ["q"]\n')

    words, as_json = gatewayd("check", "-c", "bad.toml"), gatewayd("check", "-c", "bad.toml", "--json")

    assert words.status == as_json.status == EXIT_CONFIG
    assert [line.split(" ")[0] for line in words.err.splitlines()] == ["bad.toml:3:", "bad.toml:4:"]
    assert [problem["line"] for problem in json.loads(as_json.out)] == [3, 4]


@pytest.mark.parametrize("command", [["check"], ["run"], ["spool", "audit"], ["status"], ["models", "ls"]])
def test_a_config_that_is_not_there_is_named_with_how_to_name_another(gatewayd: Command, command: list[str]) -> None:
    answer = gatewayd(*command, "-c", "missing.toml")

    assert answer.status == EXIT_CONFIG
    assert "missing.toml:1: cannot be read: No such file or directory" in answer.err
    assert "hint: name the config with --config" in answer.err
    assert answer.out == ""


@pytest.mark.parametrize(("text", "said"), [(None, "Is a directory"), ("a = [\n", "is not TOML"), ("\udcff", "UTF-8")])
def test_a_config_that_is_none_is_named(gatewayd: Command, tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "none.toml"
    if text is None:
        path.mkdir()
    else:
        path.write_bytes(text.encode(errors="surrogateescape"))

    answer = gatewayd("check", "-c", "none.toml")

    assert answer.status == EXIT_CONFIG
    assert said in answer.err


@pytest.mark.parametrize("command", ["status", "audit", "dead"])
def test_before_the_first_run_there_is_no_spool(gatewayd: Command, good: str, command: str) -> None:
    answer = gatewayd("spool", command, "-c", good)

    assert answer.status == EXIT_FAILED
    assert "no spool yet; it is made when the daemon first runs" in answer.err


def test_a_file_that_is_no_spool_is_said_to_be_none(gatewayd: Command, good: str, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "spool.db").write_bytes(b"anything but a database" * 100)

    answer, doctor = gatewayd("spool", "audit", "-c", good), gatewayd("doctor", "-c", good)

    assert answer.status == doctor.status == EXIT_FAILED
    assert "spool.db cannot be read: file is not a database" in answer.err
    assert "failed  spool" in doctor.out


def test_no_daemon_is_its_own_exit_status(gatewayd: Command, good: str) -> None:
    answer = gatewayd("status", "-c", good)

    assert answer.status == EXIT_UNAVAILABLE
    assert "Connection refused" in answer.err
    assert "hint: is it running?" in answer.err


def test_the_doctor_says_what_is_wrong_and_what_to_do(gatewayd: Command, good: str) -> None:
    answer, as_json = gatewayd("doctor", "-c", good), gatewayd("doctor", "-c", good, "--json")

    assert answer.status == as_json.status == EXIT_FAILED
    assert "failed  broker" in answer.out
    assert "Connection refused\n        -> is Mosquitto running?" in answer.out
    found = {one["what"]: one["ok"] for one in json.loads(as_json.out)}
    assert {what for what, ok in found.items() if not ok} == {"broker"}
    assert {"config", "clock", "disk", "filesystem", "fsync", "spool", "board", "web", "systemd"} <= set(found)


def test_handlers_are_listed_and_described(gatewayd: Command) -> None:
    names = [one["name"] for one in json.loads(gatewayd("handlers", "--json").out)]
    one = json.loads(gatewayd("handlers", "threshold", "--json").out)

    assert names == ["classify_llm", "classify_series", "classify_text", "summarize_text", "threshold"]
    assert one["inline"]
    assert "rules" in [option["name"] for option in one["options"]]
    assert "rules" in gatewayd("handlers", "threshold").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["handlers", "nope"], "there is no handler 'nope'"),
        (["models", "fetch", "nope", "-c", "GOOD"], "cannot fetch nope"),
        (["replay", "missing.ndjson", "-c", "GOOD"], "does not exist"),
        (["replay", ".", "-c", "GOOD"], "is a directory"),
        (["demo", "--seconds", "1"], "greater than or equal to 8"),
        (["frobnicate"], "No such command"),
    ],
)
def test_wrong_usage_is_exit_status_2(gatewayd: Command, good: str, arguments: list[str], said: str) -> None:
    answer = gatewayd(*[good if one == "GOOD" else one for one in arguments])

    assert answer.status == EXIT_USAGE
    assert said in " ".join(answer.err.replace("│", " ").split())


def test_an_empty_models_folder_says_where_models_come_from(gatewayd: Command, good: str) -> None:
    assert "`gatewayd models fetch`" in gatewayd("models", "ls", "-c", good).out
    assert json.loads(gatewayd("models", "ls", "-c", good, "--json").out) == []
    missing = gatewayd("models", "verify", "nope", "-c", good)
    assert missing.status == EXIT_FAILED
    assert 'no model "nope"' in missing.out


def test_completion_is_on(gatewayd: Command) -> None:
    assert "--install-completion" in gatewayd("--help").out


def test_what_a_quick_command_loads_is_little() -> None:
    slow = {"asyncio", "aiohttp", "apsw", "structlog", "opentelemetry", "numpy", "onnxruntime", "rich.live"}
    code = "import sys, gatewayd.cli.app, gatewayd.checked, gatewayd.cli.check; print(' '.join(sys.modules))"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert slow & set(loaded) == set()


def test_a_folder_that_cannot_be_made_is_named(gatewayd: Command) -> None:
    answer = gatewayd("demo", "--seconds", "8", "--keep", "/dev/null/kept", "--models", "/dev/null/models")

    assert answer.status == EXIT_FAILED
    assert answer.err == "gatewayd: /dev/null/models: Not a directory\n"


def test_a_reader_that_has_seen_enough_is_no_error(good: str, tmp_path: Path) -> None:
    (tmp_path / "many.ndjson").write_text(
        '{"topic": "ovens/1", "payload": {"value": 90}}\n{"topic": "ovens/1", "payload": {"value": 10}}\n' * 5_000
    )
    command = f"{sys.executable} -m gatewayd replay many.ndjson -c {good} | true"

    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert "Traceback" not in done.stderr
