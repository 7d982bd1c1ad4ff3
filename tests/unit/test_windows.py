from typing import Any

import pytest

from gatewayd.config.schema import WindowLimits
from gatewayd.windows import Closed, Windows


def by_arrival(**limits: Any) -> Windows:
    return Windows(WindowLimits(**limits), event_time=False)


def by_own_time(**limits: Any) -> Windows:
    return Windows(WindowLimits(**limits), event_time=True)


def arrive(windows: Windows, entry: int, now: float, key: str = "", size: int = 1) -> list[Closed]:
    return list(windows.add(entry, key, now, size, now).closed)


def ids(closed: Any) -> list[tuple[int, ...]]:
    return [one.ids for one in closed]


def test_a_window_is_aligned_to_the_epoch_and_closes_at_its_end() -> None:
    windows = by_arrival(every_s=10)
    arrive(windows, 1, 1003.0)
    arrive(windows, 2, 1009.9)

    assert windows.deadline() == 1010.0
    assert windows.tick(1009.99) == []
    assert windows.tick(1010.0) == [Closed(key="", start=1000.0, end=1010.0, ids=(1, 2), late=0, why="end")]
    assert windows.deadline() is None


def test_a_message_of_the_next_interval_closes_the_window_without_a_tick() -> None:
    windows = by_arrival(every_s=10)
    arrive(windows, 1, 1003.0)

    assert ids(arrive(windows, 2, 1010.0)) == [(1,)]
    assert ids(windows.flush()) == [(2,)]


def test_grace_keeps_a_window_open_past_its_end() -> None:
    windows = by_arrival(every_s=10, grace_s=2)
    arrive(windows, 1, 1003.0)

    assert windows.deadline() == 1012.0
    assert windows.tick(1011.9) == []
    assert ids(windows.tick(1012.0)) == [(1,)]


def test_each_key_has_a_window_of_its_own() -> None:
    windows = by_arrival(every_s=10)
    arrive(windows, 1, 1001.0, "a")
    arrive(windows, 2, 1002.0, "b")
    arrive(windows, 3, 1003.0, "a")

    assert [(one.key, one.ids) for one in windows.tick(1010.0)] == [("a", (1, 3)), ("b", (2,))]


@pytest.mark.parametrize(("limits", "why"), [({"max_messages": 2}, "max_messages"), ({"max_bytes": 2}, "max_bytes")])
def test_a_full_window_closes_early_and_the_rest_of_its_interval_opens_a_new_one(limits: Any, why: str) -> None:
    windows = by_arrival(every_s=10, **limits)
    arrive(windows, 1, 1001.0)

    early = arrive(windows, 2, 1002.0)
    arrive(windows, 3, 1003.0)

    assert [(one.ids, one.why) for one in early] == [((1, 2), why)]
    assert [(one.ids, one.start, one.end) for one in windows.tick(1010.0)] == [((3,), 1000.0, 1010.0)]


def test_without_a_length_windows_are_cut_by_count_alone() -> None:
    windows = by_arrival(max_messages=2)
    arrive(windows, 1, 1001.0)

    assert windows.deadline() is None
    assert windows.tick(1e9) == []
    assert arrive(windows, 2, 2e9) == [Closed(key="", start=1001.0, end=2e9, ids=(1, 2), late=0, why="max_messages")]


def test_one_window_too_many_closes_the_oldest() -> None:
    windows = by_arrival(every_s=10, max_open=2)
    arrive(windows, 1, 1001.0, "a")
    arrive(windows, 2, 1002.0, "b")

    closed = arrive(windows, 3, 1003.0, "c")

    assert [(one.key, one.why) for one in closed] == [("a", "max_open")]
    assert len(windows) == 2


def test_by_own_time_a_window_closes_when_a_later_message_passed_its_end_and_the_grace() -> None:
    windows = by_own_time(every_s=10, grace_s=5)
    windows.add(1, "", 101.0, 1, now=1000.0)

    assert windows.add(2, "", 114.9, 1, now=1001.0).closed == []
    assert windows.add(3, "", 103.0, 1, now=1002.0).fate == "kept"
    assert ids(windows.add(4, "", 115.0, 1, now=1003.0).closed) == [(1, 3)]


def test_by_own_time_the_wall_clock_alone_closes_a_window_after_idleness_only() -> None:
    windows = by_own_time(every_s=10, idle_close_s=30)
    windows.add(1, "", 101.0, 1, now=1000.0)

    assert windows.deadline() == 1030.0
    assert windows.tick(1029.9) == []
    assert [(one.ids, one.why) for one in windows.tick(1030.0)] == [((1,), "idle")]


def test_a_late_message_goes_into_the_next_window_and_is_counted_there() -> None:
    windows = by_own_time(every_s=10)
    windows.add(1, "", 101.0, 1, now=1000.0)
    windows.add(2, "", 112.0, 1, now=1001.0)

    placed = windows.add(3, "", 105.0, 1, now=1002.0)

    assert placed.fate == "next"
    assert [(one.start, one.ids, one.late) for one in windows.flush()] == [(110.0, (2, 3), 1)]


@pytest.mark.parametrize("late", ["drop", "bury"])
def test_a_late_message_is_in_no_window_when_the_route_says_so(late: Any) -> None:
    windows = by_own_time(every_s=10, late=late)
    windows.add(1, "", 112.0, 1, now=1001.0)

    assert windows.add(2, "", 105.0, 1, now=1002.0).fate == late
    assert ids(windows.flush()) == [(1,)]


@pytest.mark.parametrize("time", [float("nan"), float("inf"), -float("inf"), -1.0, 1000.0 + 3600.1, 1e300])
def test_an_absurd_own_time_is_replaced_by_the_arrival(time: float) -> None:
    windows = by_own_time(every_s=10)

    placed = windows.add(1, "", time, 1, now=1000.0)

    assert placed.fate == "kept"
    assert [(one.start, one.end) for one in windows.flush()] == [(1000.0, 1010.0)]


def test_a_message_we_were_slow_to_place_is_never_dropped() -> None:
    windows = by_arrival(every_s=10, late="drop")
    arrive(windows, 1, 1009.0)
    windows.tick(1010.5)

    placed = windows.add(2, "", 1009.9, 1, now=1009.9)

    assert placed.fate == "next"
    assert [(one.start, one.ids, one.late) for one in windows.flush()] == [(1010.0, (2,), 1)]


def test_a_clock_set_back_closes_what_is_open_and_time_goes_on_from_there() -> None:
    windows = by_arrival(every_s=10)
    arrive(windows, 1, 5001.0)

    assert [(one.ids, one.why) for one in windows.tick(1001.0)] == [((1,), "clock")]
    arrive(windows, 2, 1002.0)
    assert [(one.ids, one.start) for one in windows.tick(1010.0)] == [((2,), 1000.0)]


def test_a_clock_that_slips_back_a_little_reopens_nothing() -> None:
    windows = by_arrival(every_s=10)
    arrive(windows, 1, 1009.9)
    first = windows.tick(1010.0)

    assert windows.tick(1009.5) == []
    arrive(windows, 2, 1009.6)

    assert ids(first) == [(1,)]
    assert [(one.start, one.ids) for one in windows.tick(1020.0)] == [(1010.0, (2,))]


def test_a_clock_set_back_does_not_put_off_the_close_for_idleness() -> None:
    windows = by_own_time(every_s=10, idle_close_s=30)
    windows.add(1, "", 101.0, 1, now=9000.0)

    assert windows.tick(1000.0) == []
    assert windows.deadline() == 1030.0
    assert ids(windows.tick(1030.0)) == [(1,)]
