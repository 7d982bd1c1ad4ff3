"""A sink in memory, with the moods of a far side."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from gatewayd.errors import BatchRefused, BatchTooLarge
from gatewayd.ports import Clock, StoredResult


class MemorySink:
    """Stores what it gets. `fault` is called with each batch first, and raises or returns what is refused."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.fault: Callable[[Sequence[StoredResult]], Mapping[str, str] | None] = lambda batch: None
        self.refuses: set[str] = set()
        self.max_batch = 1_000_000
        self.stored: list[str] = []
        self.sent_bytes = 0
        self.requests: list[tuple[float, str, int]] = []  # time, route, number of results

    async def send(self, batch: Sequence[StoredResult]) -> Mapping[str, str]:
        self.requests.append((self._clock.monotonic(), batch[0].route, len(batch)))
        self.sent_bytes += sum(len(result.data) for result in batch)
        refused = self.fault(batch) or {}
        if len(batch) > self.max_batch:
            raise BatchTooLarge("HTTP 413")
        if any(result.key in self.refuses for result in batch):
            raise BatchRefused("HTTP 422: not like this")
        self.stored += [result.key for result in batch if result.key not in refused]
        return refused

    async def close(self) -> None:
        """Nothing to let go of."""


class Report:
    """Implements gatewayd.uplink.UplinkReport: remembers what it was told."""

    def __init__(self) -> None:
        self.n_sent = 0
        self.n_refused = 0
        self.retries: list[tuple[str, str, float]] = []
        self.turns: list[str] = []

    def sent(self, sink: str, route: str, n: int, n_bytes: int, seconds: float) -> None:
        self.n_sent += n

    def retried(self, sink: str, route: str, reason: str, delay_s: float, words: str = "") -> None:
        self.retries.append((route, reason, delay_s))

    def refused(self, sink: str, route: str, n: int) -> None:
        self.n_refused += n

    def away(self, sink: str, reason: str) -> None:
        self.turns.append(f"away: {reason}")

    def back(self, sink: str, after_s: float, attempts: int) -> None:
        self.turns.append(f"back after {after_s:g} s, {attempts} attempts")

    def upload(self, sink: str, route: str, batch: Sequence[StoredResult]) -> AbstractContextManager[object]:
        return nullcontext()
