"""`gatewayd audit`: what a person sees of the trail, and what a third party can check without gatewayd."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gatewayd.cascade.chain_files import trail_files
from gatewayd.cascade.trail import AuditTrail
from gatewayd.cli.app import app
from gatewayd.clock import SystemClock
from gatewayd.config.environment import Paths
from gatewayd.config.schema import Audit
from tests.sim.decisions import decision

ROOT = Path(__file__).parents[2]
N = 40
START = 1_763_724_000  # of decision 0, seconds since the epoch


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A config, and a trail with decisions of two routes, one a second, in several files."""
    (tmp_path / "config.toml").write_text(
        '[gateway]\nstate_dir = "state"\n[routes.logs]\ntopics = ["a"]\nhandler = "threshold"\n'
        'options = { rules = [{ above = 1.0, label = "hot" }] }\n'
    )
    root = tmp_path / "state"
    paths = Paths(gateway="g", config_dir=root, state_dir=root, spool=root / "s", models=root / "m")
    trail = AuditTrail(paths, Audit(max_file_bytes=4096, max_files=100), SystemClock())
    trail.start()
    for number in range(N):
        trail.record(decision(number, route="logs" if number % 4 else "pumps"))
    trail.close(50.0)
    return tmp_path


def run(state: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["audit", *arguments, "--config", str(state / "config.toml")])


def the_script() -> str:
    (script,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/guides/audit.md").read_text(), re.DOTALL)
    return str(script)


def third_party(export: bytes) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-I", "-c", the_script()]
    return subprocess.run(command, input=export, capture_output=True, timeout=120, check=False)


def lines_of(state: Path) -> bytes:
    return b"".join(path.read_bytes() for path in trail_files(state / "state/audit"))


def change(state: Path, old: bytes, new: bytes) -> None:
    path = next(path for path in trail_files(state / "state/audit") if old in path.read_bytes())
    path.write_bytes(path.read_bytes().replace(old, new, 1))


def test_a_trail_that_holds_verifies(state: Path) -> None:
    done = run(state, "verify")

    assert done.exit_code == 0
    assert f"{N + 2} lines in" in done.output
    assert "the chain holds" in done.output


def test_the_first_line_that_does_not_fit_is_named(state: Path) -> None:
    change(state, b'"key":"0f-0000000019"', b'"key":"0f-0000000018"')

    done = run(state, "verify", "--json")

    assert done.exit_code == 1
    problem = json.loads(done.output)["problem"]
    assert re.match(r"audit-0000000\d\.ndjson, line \d+: its hash is not that of its content", problem)


def test_a_hash_noted_elsewhere_must_be_in_the_trail(state: Path) -> None:
    noted = json.loads(lines_of(state).splitlines()[7])["hash"]

    assert run(state, "verify", "--noted", noted).exit_code == 0
    assert run(state, "verify", "--noted", "0" * 64).exit_code == 1


def test_gaps_are_told(state: Path) -> None:
    (path, *_) = reversed(trail_files(state / "state/audit"))
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))  # without "stopped": as if killed
    (state / "state/audit/head").write_bytes(b"")
    root = state / "state"
    paths = Paths(gateway="g", config_dir=root, state_dir=root, spool=root / "s", models=root / "m")
    trail = AuditTrail(paths, Audit(max_file_bytes=4096, max_files=2), SystemClock())
    trail.start()
    for number in range(N):
        trail.record(decision(number))
    trail.close(50.0)

    gaps = [gap["what"] for gap in json.loads(run(state, "verify", "--json").output)["gaps"]]

    assert len([gap for gap in gaps if "were removed with audit-" in gap]) == 1
    assert run(state, "verify").exit_code == 0


def test_a_process_that_was_killed_is_told(state: Path) -> None:
    (path, *_) = reversed(trail_files(state / "state/audit"))
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    (state / "state/audit/head").write_bytes(b"")
    root = state / "state"
    paths = Paths(gateway="g", config_dir=root, state_dir=root, spool=root / "s", models=root / "m")
    trail = AuditTrail(paths, Audit(), SystemClock())
    trail.start()
    trail.close(50.0)

    done = run(state, "verify")

    assert "the process before it was killed" in done.output
    assert done.exit_code == 0


def test_decisions_are_shown_newest_last_and_of_one_route(state: Path) -> None:
    shown: list[dict[str, Any]] = json.loads(run(state, "show", "--route", "pumps", "--limit", "3", "--json").output)

    assert [each["key"] for each in shown] == ["0f-000000001c", "0f-0000000020", "0f-0000000024"]
    assert {each["route"] for each in shown} == {"pumps"}
    assert "0f-0000000024" in run(state, "show", "--route", "pumps").output


def test_since_is_inclusive_and_until_is_not(state: Path) -> None:
    done = run(state, "show", "--since", "2025-11-21T11:20:05Z", "--until", str(START + 8), "--json")

    assert [each["time"] for each in json.loads(done.output)] == [START + 5, START + 6, START + 7]


def test_a_time_that_is_none_is_wrong_usage(state: Path) -> None:
    assert run(state, "show", "--since", "yesterday").exit_code == 2


def test_the_script_of_the_guide_verifies_an_export(state: Path) -> None:
    whole = run(state, "export").stdout_bytes

    done = third_party(whole)

    assert whole == lines_of(state)
    assert done.returncode == 0, done.stderr
    assert f"{N + 2} lines, the chain holds".encode() in done.stdout
    assert sum(map(bool, the_script().splitlines())) <= 15


def test_an_export_of_one_route_holds_and_shows_nothing_of_the_others(state: Path) -> None:
    export = run(state, "export", "--route", "pumps", "--since", str(START), "--until", str(START + N)).stdout_bytes

    assert third_party(export).returncode == 0
    assert b'"route":"logs"' not in export
    assert export.count(b'"route":"pumps"') == N // 4
    assert export.count(b'{"digest":') == 36 - 9  # between the first and the last line of the route


def test_the_script_finds_any_line_of_an_export_that_was_touched(state: Path) -> None:
    lines = run(state, "export", "--route", "pumps").stdout_bytes.splitlines(keepends=True)
    touched = [
        [*lines[:9], *lines[10:]],
        [*lines[:9], lines[10], lines[9], *lines[11:]],
        [*lines[:9], lines[9].replace(b'"', b"'", 1), *lines[10:]],
        [line.replace(b'"label":"normal"', b'"label":"alert!"') for line in lines],
    ]

    assert [third_party(b"".join(each)).returncode for each in touched] == [1] * 4


def test_nothing_is_exported_after_a_line_that_does_not_fit(state: Path) -> None:
    change(state, b'"key":"0f-0000000019"', b'"key":"0f-0000000018"')

    done = run(state, "export")

    assert done.exit_code == 1
    assert len(done.stdout_bytes.splitlines()) == 26


def test_without_a_trail_there_is_nothing_to_verify(state: Path) -> None:
    for path in (state / "state/audit").iterdir():
        path.unlink()

    done = run(state, "verify")

    assert done.exit_code == 0
    assert "There is no audit trail" in done.output
