"""The bench itself: a part that fails, ends or hangs is a line that does not hold, and leaves no process behind."""

import os
import subprocess
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped,unused-ignore]
import pytest

from benchmarks.faults.bench import Part
from benchmarks.faults.broker import redeliver
from benchmarks.faults.fuzz_targets import SEEDS, TARGETS
from benchmarks.faults.runner import play_all
from benchmarks.faults.table import markdown, table
from tests.sim.oracle import FIELDS, Line


def holds(folder: Path) -> Line:
    folder.mkdir(parents=True)
    return Line(test="it holds", subject="gatewayd", seed=1, fresh_event_ok=True)


def fails(folder: Path) -> Line:
    raise ValueError("on purpose")


def ends(folder: Path) -> Line:
    os._exit(3)


def leaves_a_process(folder: Path) -> Line:
    child = subprocess.Popen(["sleep", "600"])
    return Line(test="left", subject=str(child.pid), seed=1)


def test_each_part_is_a_line_and_those_that_fail_say_why(tmp_path: Path) -> None:
    parts = [(n, Part(f"{n}", "gatewayd", play)) for n, play in enumerate((holds, fails, ends), 1)]

    lines = dict(play_all(parts, tmp_path, 2))

    assert lines[1].holds
    assert not lines[2].holds
    assert "on purpose" in lines[2].problems[0]
    assert "without a line" in lines[3].problems[0]


def test_what_a_part_started_is_gone_afterwards(tmp_path: Path) -> None:
    ((_, line),) = play_all([(1, Part("left", "gatewayd", leaves_a_process))], tmp_path, 1)

    for _ in range(100):
        if not psutil.pid_exists(int(line.subject)) or psutil.Process(int(line.subject)).status() == "zombie":
            return
        time.sleep(0.05)
    raise AssertionError("it still runs")


def test_a_line_has_every_field_that_the_tables_promise() -> None:
    line = Line(test="1 kill", subject="gatewayd", seed=1)
    other = Line(test="1 kill", subject="a script", seed=1, is_compared=True, problems=["lost: 3"])

    page = markdown([line, other], {1: "kills"}, {1: 2.0}, "quick")

    assert all(f'"{name}"' in line.as_json() for name in FIELDS)
    assert "| a script |" in page
    assert table([line, other]).splitlines()[2].endswith("-")


@pytest.mark.parametrize("name", TARGETS)
def test_what_the_fuzzers_begin_with_is_taken(name: str) -> None:
    assert all(TARGETS[name](data) for data in SEEDS[name])


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.usefixtures("mosquitto_binary")
@pytest.mark.parametrize("mode", ["direct", "journaled"])
def test_what_the_broker_delivers_again_is_stored_once(tmp_path: Path, mode: str) -> None:
    line = redeliver(tmp_path / "bench", 9, mode=mode, n_cuts=3)

    assert line.problems == []
