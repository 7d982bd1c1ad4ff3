"""Log lines that repeat are said a few times, then counted, and the count is never lost."""

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pytest
import structlog

from gatewayd.config import read_environment
from gatewayd.config.schema import Log
from gatewayd.logs import set_up
from gatewayd.repeats import Repeats


class Lines:
    """What is said through one Repeats."""

    def __init__(self, repeat_s: float = 30.0, burst: int = 2) -> None:
        self.now_s = 100.0
        self.repeats = Repeats(lambda: self.now_s)
        self.repeats.configure(repeat_s, burst)

    def log(self, event: str, level: str = "warning", **values: Any) -> dict[str, Any] | None:
        try:
            return dict(self.repeats(None, level, {"event": event, "level": level, **values}))
        except structlog.DropEvent:
            return None


def test_the_first_few_are_said_and_the_next_after_their_time_says_how_many_were_not() -> None:
    lines = Lines()
    said = [lines.log("away", sink="a", attempt=n) for n in range(5)]

    assert [one is not None for one in said] == [True, True, False, False, False]
    lines.now_s += 30
    again = lines.log("away", sink="a", attempt=9)
    assert again == {"event": "away", "level": "warning", "sink": "a", "attempt": 9, "left_out": 3}
    lines.now_s += 30
    assert "left_out" not in (lines.log("away", sink="a") or {})


@pytest.mark.parametrize("other", [{"sink": "b"}, {"sink": "a", "reason": "x"}, {"sink": "a", "level": "error"}])
def test_another_object_is_another_line(other: dict[str, str]) -> None:
    lines = Lines(burst=1)
    lines.log("away", sink="a")

    assert lines.log("away", sink="a") is None
    assert lines.log("away", **other) is not None  # type: ignore[arg-type]


def test_what_happens_once_in_a_life_is_always_said() -> None:
    lines = Lines(burst=1)

    assert all(lines.log("started", level="info") for _ in range(10))


def test_nothing_is_held_back_where_the_config_says_so() -> None:
    lines = Lines(repeat_s=0.0, burst=1)

    assert all(lines.log("away") for _ in range(10))


def test_what_does_not_come_again_is_counted_all_the_same() -> None:
    lines = Lines(burst=1)
    for _ in range(4):
        lines.log("away", sink="a")
    assert lines.repeats.take_left_out() == []

    lines.now_s += 30

    assert lines.repeats.take_left_out() == [({"event": "away", "level": "warning", "sink": "a"}, 3)]
    assert lines.repeats.take_left_out() == []


def test_memory_is_bounded_however_many_lines_there_are() -> None:
    lines = Lines()
    for number in range(5000):
        lines.log("away", reason=str(number))

    assert len(lines.repeats._said) <= 1000


async def test_the_log_itself_says_a_flood_a_few_times_and_then_how_many(tmp_path: Path) -> None:
    from gatewayd.logs import tell_left_out

    out = io.StringIO()
    set_up(Log(format="json", repeat_s=0.2, repeat_burst=3), read_environment({}), out)
    for _ in range(1000):
        structlog.get_logger("gatewayd.route").warning("message buried", route="flood", reason="decode")
    telling = asyncio.get_running_loop().create_task(tell_left_out(0.2))
    while "left_out" not in out.getvalue():
        await asyncio.sleep(0.01)
    telling.cancel()

    said = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [one["event"] for one in said] == ["message buried"] * 3 + ["log lines were left out"]
    assert (said[-1]["line"], said[-1]["route"], said[-1]["left_out"]) == ("message buried", "flood", 997)
