"""How fast a sink may be sent to: one token bucket for results, one for bytes on the wire, and a line before them.

Invariant: over any stretch of time no more goes out than the rate allows plus one second's worth and one request. A
request is let through as soon as there is anything in both buckets and may leave them in debt: what it costs on the
wire is known afterwards. So a result larger than a second's worth still goes, and the next request waits for it.

The line is one of ranks, not of arrival: fresh results go before old ones, routes of a higher priority before others,
and first come, first served among equals.

Own code: aiolimiter (1.3) has the event loop's clock, refuses what is larger than the bucket, cannot give back what a
request turned out not to need, and knows no ranks; limits, pyrate-limiter and throttled-py likewise.
"""

import itertools
from bisect import insort
from dataclasses import dataclass

from gatewayd.ports import Clock

_LOOK_S = 0.25  # how often one who waits looks again: an answer may give back more than was expected
_SHORT_S = 0.01  # somebody goes first, and is going just now


class Bucket:
    """Tokens that come at `per_s` and are kept for one second's worth, at least one. 0: no limit."""

    def __init__(self, per_s: float, now_s: float) -> None:
        self._per_s = per_s
        self._most = max(per_s, 1.0)
        self._n = self._most
        self._at_s = now_s

    def wait_s(self, now_s: float) -> float:
        """Seconds until there is anything in it; 0 when there is."""
        self._fill(now_s)
        if not self._per_s or self._n > 0:
            return 0.0
        return (1e-6 - self._n) / self._per_s  # a hair more than nothing

    def take(self, n: float) -> None:
        """Take `n` out, into debt if need be; a negative number gives back."""
        if self._per_s:
            self._n = min(self._most, self._n - n)

    def _fill(self, now_s: float) -> None:
        self._n = min(self._most, self._n + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s


@dataclass(frozen=True, slots=True, order=True)
class Rank:
    """The place in line: smaller goes first."""

    is_old: bool  # of a backlog, while the route wants fresh results first
    behind: int  # 9 less the route's priority

    @classmethod
    def of(cls, *, is_live: bool, priority: int) -> "Rank":
        """The rank of fresh results of a route that drains `live_first` (`is_live`), or of any others."""
        return cls(not is_live, 9 - priority)


@dataclass(slots=True)
class Fare:
    """What a request was let through with; hand it back to `Pace.settle`."""

    n_results: int
    n_bytes: int


class Pace:
    """The rates of one sink. Used by the tasks of one event loop."""

    def __init__(self, *, max_results_per_s: float, max_bytes_per_s: float, clock: Clock) -> None:
        """0: no limit."""
        self._clock = clock
        self._max_results_per_s = max_results_per_s
        self._max_bytes_per_s = max_bytes_per_s
        now_s = clock.monotonic()
        self._results = Bucket(max_results_per_s, now_s)
        self._bytes = Bucket(max_bytes_per_s, now_s)
        self._line: list[tuple[Rank, int]] = []  # in order of rank, then of arrival
        self._order = itertools.count()

    def limits(self, max_results: int, max_bytes: int) -> tuple[int, int]:
        """Most results and most bytes of the next lease: a second's worth, so that no lease lapses while it waits."""
        if self._max_results_per_s:
            max_results = min(max_results, max(1, int(self._max_results_per_s)))
        if self._max_bytes_per_s:
            max_bytes = min(max_bytes, max(1, int(self._max_bytes_per_s)))
        return max_results, max_bytes

    async def take(self, n_results: int, n_bytes: int, *, rank: Rank, until_s: float) -> Fare | None:
        """Wait for this request's turn; None when it has not come by `until_s` on the monotonic clock.

        Args:
            n_results: results in the request.
            n_bytes: about what it will take on the wire; `settle` corrects it.
            rank: who goes first among those that wait.
            until_s: when the lease gets too old to be sent.
        """
        place = (rank, next(self._order))
        insort(self._line, place)
        try:
            while (wait_s := self._wait_s(place)) > 0:
                rest_s = until_s - self._clock.monotonic()
                if rest_s <= 0:
                    return None
                await self._clock.sleep(min(wait_s, rest_s, _LOOK_S))
        finally:
            self._line.remove(place)
        self._results.take(n_results)
        self._bytes.take(n_bytes)
        return Fare(n_results, n_bytes)

    def settle(self, fare: Fare, *, n_results: int, n_bytes: int) -> None:
        """The request is over: it took `n_results` and `n_bytes`, on the wire, of what it was let through with."""
        self._results.take(n_results - fare.n_results)
        self._bytes.take(n_bytes - fare.n_bytes)

    def _wait_s(self, place: tuple[Rank, int]) -> float:
        now_s = self._clock.monotonic()
        wait_s = max(self._results.wait_s(now_s), self._bytes.wait_s(now_s))
        return wait_s if wait_s > 0 or self._line[0] == place else _SHORT_S
