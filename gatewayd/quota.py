"""How much a metered link has carried, day by day, and how much it may carry in a month. No I/O.

Invariant: a byte that was counted counts until its month is over, whatever the clock does meanwhile.

- Days and months are UTC. A month begins on `month_starts_on`, at midnight.
- While the clock is known not to be synchronized nobody knows the day. What is sent then is booked without one
  (`UNDATED`), counts in the month that is, and gets the day of the moment at which the clock is synchronized. The month
  does not turn meanwhile: a clock that jumps a month ahead opens no cap, and one that is never synchronized never does
  (a site without a time server names any file that exists in `gateway.clock_sync_file`, and its clock is believed).
- A synchronized clock that is set back finds the days after its own counted in its month.
"""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Protocol

import msgspec

from gatewayd.ports import Clock

UNDATED = ""  # the day of what was sent while the clock was not synchronized; sorts before every other
_FIRST_DAY_S = 0.0
_FIRST = date(1970, 1, 28)  # no month that began before the epoch is known
_LAST_DAY_S = 253_402_300_799.0  # 9999-12-31: no clock is right that says more


def day_of(now: float) -> str:
    """The day of a time in seconds since the epoch, as YYYY-MM-DD."""
    return datetime.fromtimestamp(min(max(now, _FIRST_DAY_S), _LAST_DAY_S), UTC).date().isoformat()


def month_of(day: str, starts_on: int) -> str:
    """The first day of the month that `day` lies in, when months begin on the day `starts_on` (1 to 28)."""
    at = date.fromisoformat(day)
    begins = at.replace(day=starts_on)
    if begins > at:
        begins = (at.replace(day=1) - timedelta(days=1)).replace(day=starts_on) if at > _FIRST else at
    return begins.isoformat()


def month_after(first_day: str) -> str:
    """The first day of the month after the one that begins on `first_day`."""
    begins = date.fromisoformat(first_day)
    return (begins.replace(day=1) + timedelta(days=31)).replace(day=begins.day).isoformat()


class Book(Protocol):
    """Where the counts are kept: durable, by sink and day."""

    def add(self, sink: str, day: str, n_bytes: int) -> None:
        """One request of the sink took `n_bytes` on that day."""

    def days(self, sink: str) -> Mapping[str, int]:
        """Bytes by day."""

    def date(self, sink: str, day: str) -> None:
        """What is booked without a day belongs to this one."""


class Tally:
    """A Book in memory alone: for who counts and keeps nothing."""

    def __init__(self) -> None:
        self._days: dict[str, dict[str, int]] = {}

    def add(self, sink: str, day: str, n_bytes: int) -> None:
        """See Book."""
        days = self._days.setdefault(sink, {})
        days[day] = days.get(day, 0) + n_bytes

    def days(self, sink: str) -> Mapping[str, int]:
        """See Book."""
        return dict(self._days.get(sink, {}))

    def date(self, sink: str, day: str) -> None:
        """See Book."""
        n_bytes = self._days.get(sink, {}).pop(UNDATED, 0)
        if n_bytes:
            self.add(sink, day, n_bytes)


class Month(msgspec.Struct, frozen=True, kw_only=True):
    """Where a sink stands."""

    begins: str  # its first day; "" while nothing was ever sent with a clock that was synchronized
    ends: str  # the first day of the next one; "" likewise
    n_bytes: int
    today_bytes: int  # without a synchronized clock: what has no day yet
    max_bytes: int  # 0: no cap

    @property
    def rest_bytes(self) -> int | None:
        """How much may still be sent; None: no cap."""
        return max(0, self.max_bytes - self.n_bytes) if self.max_bytes else None

    @property
    def is_over(self) -> bool:
        """Whether nothing more may be sent."""
        return self.rest_bytes == 0


class Meter:
    """Counts for one sink, and knows its month."""

    def __init__(self, sink: str, *, book: Book, max_bytes: int, starts_on: int, clock: Clock) -> None:
        self._sink = sink
        self._book = book
        self._max_bytes = max_bytes
        self._starts_on = starts_on
        self._clock = clock

    def count(self, n_bytes: int) -> None:
        """A request was made: it took `n_bytes`, whatever was answered."""
        self._book.add(self._sink, day_of(self._clock.now()) if self._is_dated() else UNDATED, n_bytes)

    def month(self) -> Month:
        """As of now."""
        is_dated, today = self._is_dated(), day_of(self._clock.now())
        if is_dated:
            self._book.date(self._sink, today)
        days = self._book.days(self._sink)
        day = today if is_dated else max(days, default=UNDATED)
        begins = month_of(day, self._starts_on) if day else ""
        return Month(
            begins=begins,
            ends=month_after(begins) if begins else "",
            n_bytes=sum(n for known, n in days.items() if known >= begins or known == UNDATED),
            today_bytes=days.get(today if is_dated else UNDATED, 0),
            max_bytes=self._max_bytes,
        )

    def _is_dated(self) -> bool:
        return self._clock.is_synced() is not False  # None: nobody can say, and nothing speaks against it
