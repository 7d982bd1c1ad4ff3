"""Keep a route's open windows: which journal ids belong together in time, never their payloads.

Invariants: every id added comes out in exactly one `Closed`, or its `Placed` said that it was late and not kept; a
closed window never gets another id; the same calls again give the same windows (they are rebuilt from the journal
after a crash). Pure: `now` is an argument, in seconds of the wall clock.

Two notions of time:

- time of arrival (`event_time=False`): a window closes when the clock reaches its end plus `grace_s`. A message whose
  window has closed (our own delay, or a clock that went back a little) always goes into the next window, counted in it
  as late: the `late` policy is for publishers, not for our own lag.
- the payload's own time (`event_time=True`): a window closes when a message `grace_s` past its end was seen, or when
  nothing has arrived for `idle_close_s`. A time that is not finite, negative, or more than `max_ahead_s` ahead of the
  arrival is not believed: the time of arrival counts instead, so that one wrong clock cannot make all others late.

A clock set back by more than a second (seen by `tick`) closes what is open by time of arrival, and time goes on from
there. A smaller step is waited out. After a crash a window that was handled is not remembered: a message late for it
makes a window of its own interval.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import floor, isfinite
from typing import Literal

from gatewayd.config.schema import WindowLimits

Fate = Literal["kept", "next", "drop", "bury"]
Why = Literal["end", "max_messages", "max_bytes", "max_open", "idle", "clock", "flush"]

_STEP_BACK_S = 1.0  # a clock further back than this was set, not slewed


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """A window that gets no more messages."""

    key: str
    start: float  # seconds since the epoch, inclusive; cut by count: time of the earliest message
    end: float  # seconds since the epoch, exclusive; cut by count: time of the latest message
    ids: tuple[int, ...]  # journal ids in order of arrival
    late: int  # how many of them belong to a window that had closed before they came
    why: Why  # what closed it


@dataclass(frozen=True, slots=True)
class Placed:
    """What became of a message, and which windows its arrival closed."""

    fate: Fate  # "kept" in its own window, "next": in a later one; "drop" and "bury": in none, the caller does it
    closed: Sequence[Closed] = ()


@dataclass(slots=True)
class _Open:
    key: str
    start: float
    end: float
    ids: "array[int]" = field(default_factory=lambda: array("q"))  # 8 bytes an id
    n_bytes: int = 0
    late: int = 0


class Windows:
    """The keeper of one route's open windows, by interval and key."""

    def __init__(self, limits: WindowLimits, *, event_time: bool) -> None:
        self._limits = limits
        self._event_time = event_time
        self._every_s = limits.every_s
        # By interval (0 when windows are cut by count alone), then by key in order of opening; no interval is empty.
        self._open: dict[int, dict[str, _Open]] = {}
        self._first: int | None = None  # the earliest interval
        self._n_open = 0
        self._clock = -float("inf")  # the latest wall clock we were told
        self._seen = -float("inf")  # the latest own time of a message
        self._arrived = -float("inf")  # when the last message arrived

    def __len__(self) -> int:
        """How many windows are open."""
        return self._n_open

    def add(self, entry_id: int, key: str, time: float, size: int, now: float) -> Placed:
        """Put a message into its window.

        Args:
            entry_id: journal id.
            key: which of the route's windows; "" when there is one for the whole route.
            time: the message's time, seconds since the epoch.
            size: bytes of its payload.
            now: when it arrived, seconds since the epoch.
        """
        closed = self._advance(now)
        if not self._event_time or not (isfinite(time) and 0 <= time <= now + self._limits.max_ahead_s):
            time = now
        self._arrived = self._clock
        if time > self._seen:
            self._seen = time
            closed += self._close_ended()
        interval, fate = self._place(time)
        if fate in ("kept", "next"):
            closed += self._put(interval, key, time, entry_id, size, is_late=fate == "next")
        return Placed(fate, closed)

    def tick(self, now: float) -> list[Closed]:
        """The windows that are due. `now` is the true clock, never earlier than a `now` of `add` unless it was set."""
        if now >= self._clock - _STEP_BACK_S:
            return self._advance(now)
        self._clock = self._arrived = now
        if self._event_time or self._every_s is None:
            return []
        return self._close_all("clock")

    def flush(self) -> list[Closed]:
        """Close all that is open: at the end of a replay."""
        return self._close_all("flush")

    def deadline(self) -> float | None:
        """When `tick` may have something, seconds since the epoch; None while only a message can close a window."""
        if self._first is None:
            return None
        if self._event_time:
            return self._arrived + self._limits.idle_close_s
        if self._every_s is None:
            return None
        return self._end(self._first) + self._limits.grace_s

    def _advance(self, now: float) -> list[Closed]:
        """Time goes on to `now`, never back."""
        self._clock = max(self._clock, now)
        if self._event_time:
            is_idle = self._first is not None and self._clock >= self._arrived + self._limits.idle_close_s
            return self._close_all("idle") if is_idle else []
        return self._close_ended()

    def _has_ended(self, interval: int) -> bool:
        mark = self._seen if self._event_time else self._clock
        return self._end(interval) + self._limits.grace_s <= mark

    def _place(self, time: float) -> tuple[int, Fate]:
        """The interval a message of that time goes into, and whether it is the message's own."""
        if self._every_s is None:
            return 0, "kept"
        interval = _interval(time, self._every_s)
        if not self._has_ended(interval):
            return interval, "kept"
        if self._event_time and self._limits.late != "next":
            return interval, self._limits.late
        mark = self._seen if self._event_time else self._clock
        interval = _interval(mark - self._limits.grace_s, self._every_s)
        while self._has_ended(interval):  # at most once or twice: the sum in `_has_ended` may round the other way
            interval += 1
        return interval, "next"

    def _put(self, interval: int, key: str, time: float, entry_id: int, size: int, *, is_late: bool) -> list[Closed]:
        closed: list[Closed] = []
        window = self._open.get(interval, {}).get(key)
        if window is None:
            if self._n_open >= self._limits.max_open and self._first is not None:
                closed.append(self._close(self._first, next(iter(self._open[self._first])), "max_open"))
            window = self._new(interval, key, time)
        window.ids.append(entry_id)
        window.n_bytes += size
        window.late += is_late
        if self._every_s is None:
            window.start, window.end = min(window.start, time), max(window.end, time)
        if len(window.ids) >= self._limits.max_messages:
            closed.append(self._close(interval, key, "max_messages"))
        elif window.n_bytes >= self._limits.max_bytes:
            closed.append(self._close(interval, key, "max_bytes"))
        return closed

    def _new(self, interval: int, key: str, time: float) -> _Open:
        start, end = (time, time) if self._every_s is None else (interval * self._every_s, self._end(interval))
        window = self._open.setdefault(interval, {})[key] = _Open(key, start, end)
        self._first = interval if self._first is None else min(self._first, interval)
        self._n_open += 1
        return window

    def _close_ended(self) -> list[Closed]:
        closed: list[Closed] = []
        if self._every_s is None:
            return closed
        while self._first is not None and self._has_ended(self._first):
            closed += self._close_interval(self._first, "end")
        return closed

    def _close_all(self, why: Why) -> list[Closed]:
        return [closed for interval in sorted(self._open) for closed in self._close_interval(interval, why)]

    def _close_interval(self, interval: int, why: Why) -> list[Closed]:
        return [self._close(interval, key, why) for key in list(self._open[interval])]

    def _close(self, interval: int, key: str, why: Why) -> Closed:
        windows = self._open[interval]
        window = windows.pop(key)
        self._n_open -= 1
        if not windows:
            del self._open[interval]
            if interval == self._first:
                self._first = min(self._open, default=None)
        return Closed(
            key=window.key, start=window.start, end=window.end, ids=tuple(window.ids), late=window.late, why=why
        )

    def _end(self, interval: int) -> float:
        return (interval + 1) * (self._every_s or 0.0)  # asked only where there is a length


def _interval(time: float, every_s: float) -> int:
    """The interval n with n * every_s <= time < (n + 1) * every_s, whatever the division rounds to."""
    interval = floor(time / every_s)
    if interval * every_s > time:
        return interval - 1
    if (interval + 1) * every_s <= time:
        return interval + 1
    return interval
