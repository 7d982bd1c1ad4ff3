"""What lets the requests of one sink through: its pace, and what is left of its month.

Invariants: a month's cap is overrun by one request at most, for what that takes on the wire is known when it is over;
what was sent is counted whatever was answered; results wait in the spool, never here.
"""

from collections.abc import Mapping
from typing import Protocol

import structlog

from gatewayd.config import schema
from gatewayd.gate import GateReport
from gatewayd.pace import Fare, Pace, Rank
from gatewayd.ports import Clock, StoredResult
from gatewayd.quota import Book, Meter, Month, Tally

log = structlog.get_logger(__name__)

_LOOK_S = 60.0  # while the month's cap is reached: how often it is asked whether the month is over
_SHORT_S = 0.05  # while a request is under way that may use up what is left
_ENVELOPE_BYTES = 300  # of a result, about: the attributes of an event

QUOTA = "quota"


class Counter(Protocol):
    """Of a sink, what is needed here: see ports.Sink."""

    @property
    def sent_bytes(self) -> int:
        """On the wire so far."""


class Throttle:
    """One sink's. Used by the tasks of one event loop."""

    def __init__(
        self,
        sink_name: str,
        sink: Counter,
        *,
        pace: Pace,
        meter: Meter,
        priorities: Mapping[str, int],
        clock: Clock,
        report: GateReport,
    ) -> None:
        """`priorities` are those of routes, 0 to 9; 4 for a route that is not among them."""
        self._name = sink_name
        self._sink = sink
        self._pace = pace
        self._meter = meter
        self._priorities = priorities
        self._clock = clock
        self._report = report
        self._counted_bytes = sink.sent_bytes
        self._under_way: list[Fare] = []
        self._most_bytes = 0  # that a request has taken
        self._paused_at_s: float | None = None

    @classmethod
    def of(
        cls,
        sink_name: str,
        sink: Counter,
        config: schema.Sink,
        *,
        book: Book,
        priorities: Mapping[str, int],
        clock: Clock,
        report: GateReport,
    ) -> "Throttle":
        """As `[sinks.<name>]` says."""
        meter = Meter(
            sink_name, book=book, max_bytes=config.max_bytes_per_month, starts_on=config.month_starts_on, clock=clock
        )
        pace = Pace(max_results_per_s=config.max_results_per_s, max_bytes_per_s=config.max_bytes_per_s, clock=clock)
        return cls(sink_name, sink, pace=pace, meter=meter, priorities=priorities, clock=clock, report=report)

    @classmethod
    def none(cls, sink_name: str, sink: Counter, *, clock: Clock, report: GateReport) -> "Throttle":
        """No limits; what is sent is counted in memory alone."""
        pace = Pace(max_results_per_s=0.0, max_bytes_per_s=0.0, clock=clock)
        meter = Meter(sink_name, book=Tally(), max_bytes=0, starts_on=1, clock=clock)
        return cls(sink_name, sink, pace=pace, meter=meter, priorities={}, clock=clock, report=report)

    @property
    def is_paused(self) -> bool:
        """Whether the sink waits for its month to end."""
        return self._paused_at_s is not None

    def month(self) -> Month:
        """What was sent in the month that is, and its cap."""
        return self._meter.month()

    def limits(self, max_results: int, max_bytes: int) -> tuple[int, int]:
        """Most results and most bytes of the next lease: a second's worth, and no more than the month has left."""
        max_results, max_bytes = self._pace.limits(max_results, max_bytes)
        rest_bytes = self._meter.month().rest_bytes
        return max_results, max_bytes if rest_bytes is None else max(1, min(max_bytes, rest_bytes))

    async def wait(self) -> bool:
        """Return when the month has room. Whether that took a while: what waits is no longer fresh then."""
        month = self._meter.month()
        if not month.is_over and self._paused_at_s is None:
            return False
        while month.is_over:
            self._pause(month)
            await self._clock.sleep(_LOOK_S)
            month = self._meter.month()
        self._resume()
        return True

    async def enter(self, route: str, part: tuple[StoredResult, ...], *, is_live: bool, until_s: float) -> Fare | None:
        """Wait for the request's turn; None when it has not come by `until_s` or the month is used up. Not to be sent
        then: `wait` says when."""
        n_bytes = sum(len(result.data) + _ENVELOPE_BYTES for result in part)
        rank = Rank.of(is_live=is_live, priority=self._priorities.get(route, 4))
        fare = await self._pace.take(len(part), n_bytes, rank=rank, until_s=until_s)
        if fare is None:
            return None
        while (rest_bytes := self._meter.month().rest_bytes) is not None and rest_bytes <= self._expected_bytes():
            if not rest_bytes or self._clock.monotonic() >= until_s:
                self._pace.settle(fare, n_results=0, n_bytes=0)
                return None
            await self._clock.sleep(_SHORT_S)
        self._under_way.append(fare)
        return fare

    def leave(self, fare: Fare, *, is_sent: bool = True) -> None:
        """The request is over, or (`is_sent` False) was not made after all. Synchronous: fit for a `finally`."""
        self._under_way = [other for other in self._under_way if other is not fare]
        # With several requests under way some of these bytes are another's, and are settled now instead of then.
        sent_bytes = self._sink.sent_bytes
        n_bytes, self._counted_bytes = sent_bytes - self._counted_bytes, sent_bytes
        self._pace.settle(fare, n_results=fare.n_results if is_sent else 0, n_bytes=n_bytes)
        self._most_bytes = max(self._most_bytes, n_bytes)
        if n_bytes:
            self._meter.count(n_bytes)

    def _expected_bytes(self) -> int:
        """What is under way may take: as much as any request has taken so far."""
        return sum(max(fare.n_bytes, self._most_bytes) for fare in self._under_way)

    def _pause(self, month: Month) -> None:
        if self._paused_at_s is not None:
            return
        self._paused_at_s = self._clock.monotonic()
        hint = f"its results wait in the spool until {month.ends or 'the clock is synchronized'}"
        log.error(
            "sink is over its monthly cap",
            sink=self._name,
            n_bytes=month.n_bytes,
            max_bytes=month.max_bytes,
            since=month.begins,
            hint=f"{hint}, or until sinks.{self._name}.max_bytes_per_month is raised",
        )
        self._report.away(self._name, QUOTA)

    def _resume(self) -> None:
        if self._paused_at_s is None:
            return
        after_s = self._clock.monotonic() - self._paused_at_s
        self._paused_at_s = None
        log.info("sink has a new month", sink=self._name, after_s=round(after_s, 3))
        self._report.back(self._name, after_s, 0)
