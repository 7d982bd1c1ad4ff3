"""The terminal's picture: it fits any size, says what is wrong, and takes no control character from a device."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.cli.tail import log_line, result_line
from gatewayd.cli.top.picture import MIN_HEIGHT, MIN_WIDTH, PANELS, View, duration, picture, plain_line
from gatewayd.cli.top.screen import Seen, _split, press


def route(**changes: Any) -> dict[str, Any]:
    return {
        "state": "running", "received_per_s": 12.34, "results_per_s": 0.5, "age_ms": {"p50": 0.2, "p99": 1500.0},
        "call_ms": None, "waiting": 2, "journaled": 3, "latest": [],
    } | changes  # fmt: skip


def flow(n_routes: int = 2, **changes: Any) -> dict[str, Any]:
    sink = {
        "state": "away", "reachable": False, "delivered_per_s": 0.0, "delivered": 7, "pending": 5, "refused": 1,
        "evicted": 2, "expired": 3,
    }  # fmt: skip
    model = {
        "version": "3", "memory_bytes": 1048576, "loaded": True, "calls_per_s": 4.0, "tokens_per_s": 61.5,
        "is_language": True,
    }  # fmt: skip
    return {
        "gateway": "hall-3", "version": "1", "uptime_s": 3700.0, "time": 1763700000.0,
        "broker": {
            "host": "127.0.0.1", "port": 1883, "connected": True, "subscribed": True, "received_per_s": 1234.0,
        },
        "routes": {f"route-{n}": route() for n in range(n_routes)},
        "sinks": {"cloud": sink},
        "models": {"tiny": model},
        "spool": {
            "used_bytes": 90, "max_bytes": 100, "pending_total": 5, "journaled": 3, "dead_letters": 1,
            "oldest_age_s": 61.0,
        },
        "troubles": [{"level": "error", "where": "sink cloud", "words": "is away", "hint": "look at its link"}],
    } | changes  # fmt: skip


RESULT = {
    "route": "ovens", "number": 1, "time": 1763700000.0, "kind": "alert", "label": "hot", "subject": "ovens/1",
    "data": {"label": "hot", "state": "raised", "value": 91.5},
}  # fmt: skip


def test_a_usual_terminal_shows_it_all() -> None:
    text = "\n".join(line.text for line in picture(flow(), [], View(), 80, 24))

    assert "gatewayd 1 on hall-3   up 1 h 1 min" in text
    assert "in 1234/s   results 1.0/s" in text
    assert "[#########.] 90% of 100 B  pending 5 (oldest 1 min)" in text
    assert "sink cloud: is away" in text
    assert "0.20 ms" in text
    assert "1.5 s" in text
    assert "tiny" in text
    assert "61.5/s" in text
    assert all(len(line.text) <= 80 for line in picture(flow(), [], View(), 80, 24))


@given(
    st.integers(1, 300), st.integers(1, 100), st.integers(0, 60), st.integers(-5, 99), st.sampled_from(PANELS),
    st.text(max_size=30),
)  # fmt: skip
def test_it_fits_every_size(width: int, height: int, n_routes: int, chosen: int, panel: Any, said: str) -> None:
    shown = flow(n_routes)
    for one in shown["routes"].values():
        one["latest"] = [{**RESULT, "subject": said, "data": {said: said}}]
    log = [{"time": 0.0, "level": "warning", "event": said, "fields": {"x": said}, "number": 1}] * 5

    lines = picture(shown, log, View(chosen=chosen, panel=panel), width, height)

    assert len(lines) == max(MIN_HEIGHT, height)
    assert all(len(line.text) <= max(MIN_WIDTH, width) for line in lines)
    assert all(line.text.isprintable() for line in lines)


def test_the_chosen_route_is_always_in_sight() -> None:
    for chosen in range(40):
        lines = picture(flow(40), [], View(chosen=chosen), 80, 24)
        assert [line.text.split()[0] for line in lines if line.style == "chosen"] == [f"route-{chosen}"]


def test_keys() -> None:
    seen = Seen(flow(3))

    assert list(_split("j\x1b[Aq\t")) == ["j", "\x1b[A", "q", "\t"]
    for action in ("down", "down", "down", "up"):
        press(seen, action)
    press(seen, "panel")
    assert (seen.view.chosen, seen.view.panel, seen.ended.is_set()) == (1, "results", False)
    press(seen, "quit")
    assert seen.ended.is_set()


def test_lines_for_people_and_pipes() -> None:
    assert result_line(RESULT).endswith("ovens  alert hot raised 91.5  ovens/1")
    assert "\x1b" not in result_line({**RESULT, "subject": "a\x1b[2Jb"})
    assert "lost the broker  broker=x" in log_line(
        {"time": 0.0, "level": "warning", "event": "lost the broker", "fields": {"broker": "x"}}
    )
    assert "broker=up in=1234.0/s results=1.0/s" in plain_line(flow())


@pytest.mark.parametrize(("seconds", "said"), [(5, "5 s"), (61, "1 min"), (7260, "2 h 1 min"), (200000, "2 days")])
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
