"""Months and caps, with clocks that are wrong in every way they can be."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.quota import Meter, Tally, day_of, month_after, month_of
from tests.sim.clock import ManualClock

DAY_S = 86_400.0


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


class Rig:
    """A meter, and a clock that can be set to anything."""

    def __init__(self, now: str, *, max_bytes: int = 1000, starts_on: int = 1) -> None:
        self.book = Tally()
        self._max_bytes = max_bytes
        self._starts_on = starts_on
        self.set(now)

    def set(self, now: str, *, synced: bool | None = True) -> None:
        self.clock = ManualClock(seconds(now))
        self.clock.synced = synced
        self.meter = Meter(
            "cloud", book=self.book, max_bytes=self._max_bytes, starts_on=self._starts_on, clock=self.clock
        )


@pytest.mark.parametrize(
    ("day", "starts_on", "begins", "ends"),
    [
        ("2026-11-21", 1, "2026-11-01", "2026-12-01"),
        ("2026-11-21", 21, "2026-11-21", "2026-12-21"),
        ("2026-11-21", 22, "2026-10-22", "2026-11-22"),
        ("2026-12-31", 1, "2026-12-01", "2027-01-01"),
        ("2027-01-05", 15, "2026-12-15", "2027-01-15"),
        ("2028-02-29", 28, "2028-02-28", "2028-03-28"),
        ("2028-03-01", 28, "2028-02-28", "2028-03-28"),
    ],
)
def test_a_month_begins_on_its_day(day: str, starts_on: int, begins: str, ends: str) -> None:
    assert month_of(day, starts_on) == begins
    assert month_after(begins) == ends


@given(st.dates(date(1970, 2, 1), date(9990, 1, 1)), st.integers(1, 28))
def test_every_day_lies_in_its_month_and_months_follow_each_other(day: date, starts_on: int) -> None:
    begins = month_of(day.isoformat(), starts_on)
    ends = month_after(begins)

    assert begins <= day.isoformat() < ends
    assert month_of(ends, starts_on) == ends
    assert month_of((date.fromisoformat(ends) - timedelta(days=1)).isoformat(), starts_on) == begins


@pytest.mark.parametrize("now", [-1e18, -1.0, 0.0, 1e12, 1e300])
def test_no_clock_is_too_wrong_to_have_a_day(now: float) -> None:
    assert month_of(day_of(now), 15) <= day_of(now)


def test_the_month_adds_up_and_its_cap_is_reached() -> None:
    rig = Rig("2026-11-20")
    rig.meter.count(400)
    rig.set("2026-11-21")
    rig.meter.count(500)

    month = rig.meter.month()
    assert (month.n_bytes, month.today_bytes, month.rest_bytes, month.is_over) == (900, 500, 100, False)
    rig.meter.count(250)  # the one request that may go beyond
    assert rig.meter.month().is_over
    assert rig.meter.month().rest_bytes == 0


def test_the_next_month_starts_from_nothing() -> None:
    rig = Rig("2026-11-30T23:59:59")
    rig.meter.count(5000)

    rig.set("2026-12-01")

    assert rig.meter.month().n_bytes == 0
    assert not rig.meter.month().is_over


def test_without_a_cap_nothing_is_ever_over() -> None:
    rig = Rig("2026-11-30", max_bytes=0)

    rig.meter.count(10**15)

    assert rig.meter.month().rest_bytes is None
    assert not rig.meter.month().is_over


@pytest.mark.parametrize("is_synced", [True, False, None])
def test_a_clock_set_back_opens_no_cap_and_forgets_nothing(is_synced: bool | None) -> None:
    rig = Rig("2026-11-21")
    rig.meter.count(1200)

    rig.set("1970-01-01", synced=is_synced)
    assert rig.meter.month().is_over
    rig.meter.count(10)
    rig.set("2026-11-22")

    assert rig.meter.month().is_over
    assert rig.meter.month().n_bytes >= 1200


@pytest.mark.parametrize("now", ["2026-12-21", "2036-11-21"])
def test_a_clock_that_jumps_ahead_opens_no_cap_until_it_is_synchronized(now: str) -> None:
    rig = Rig("2026-11-21")
    rig.meter.count(1200)

    rig.set(now, synced=False)

    assert rig.meter.month().is_over
    rig.clock.synced = True  # it was right after all
    assert not rig.meter.month().is_over


def test_what_is_sent_before_the_clock_is_synchronized_counts_and_gets_its_day_afterwards() -> None:
    rig = Rig("1970-01-01")
    rig.clock.synced = False
    rig.meter.count(300)
    assert rig.meter.month().n_bytes == 300
    assert rig.meter.month().today_bytes == 300

    rig.set("2026-11-21")

    assert rig.meter.month().n_bytes == 300
    assert rig.book.days("cloud") == {"2026-11-21": 300}


def test_a_clock_of_which_nobody_can_say_is_believed() -> None:
    rig = Rig("2026-11-21")
    rig.meter.count(1200)

    rig.set("2026-12-01", synced=None)

    assert not rig.meter.month().is_over


def test_a_clock_that_never_is_synchronized_keeps_the_cap() -> None:
    rig = Rig("2026-11-21")
    rig.clock.synced = False
    rig.meter.count(1200)

    rig.set("2027-03-01", synced=False)

    assert rig.meter.month().is_over
