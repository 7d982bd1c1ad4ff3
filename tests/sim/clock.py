"""A clock that stands still until a test moves it."""

import asyncio
import heapq
import itertools

_TURNS = 60  # turns of the event loop after which everything that can run has run


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)


class ManualClock:
    """Implements gatewayd.ports.Clock. `advance` wakes sleepers one by one, each at its own time."""

    def __init__(self, now: float = 1_763_724_000.0) -> None:
        self._epoch = now
        self._time = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Event]] = []

    def now(self) -> float:
        return self._epoch + self._time

    def monotonic(self) -> float:
        return self._time

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        event = asyncio.Event()
        heapq.heappush(self._sleepers, (self._time + seconds, next(self._order), event))
        await event.wait()

    async def advance(self, seconds: float) -> None:
        """Move on by `seconds`; tasks run in between as they would have."""
        end = self._time + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            self._time, _, event = heapq.heappop(self._sleepers)
            event.set()
            await settle()
        self._time = end
        await settle()
