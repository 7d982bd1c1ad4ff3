"""Several pieces of one route's work at once, those of one key always in the same lane and in order.

Invariants: a key keeps its lane as long as the process lives, so a handler's instance sees all of its key and nothing
else does; what was given out and is not done is bounded; with one lane everything happens where it is given.
"""

import asyncio
import zlib
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Generic, TypeVar

Job = TypeVar("Job")

_MAX_JOBS = 8  # that wait in one lane: who gives more waits
_MAX_KEYS = 65536  # whose lane is chosen by load and remembered; those beyond get one by their name


class Calls:
    """The calls of handlers that a route is in: any number at once, until a stop takes the place of all of them."""

    def __init__(self) -> None:
        self._n_in_call = 0
        self._is_closed = False
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: not self._is_closed)
            self._n_in_call += 1

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._n_in_call -= 1  # without waiting: being cancelled must not leave it too high
        if self._is_closed:
            async with self._changed:
                self._changed.notify_all()

    async def acquire(self) -> None:
        """Let no other call begin, and wait until those under way have ended."""
        self._is_closed = True
        async with self._changed:
            await self._changed.wait_for(lambda: self._n_in_call == 0)


class Lanes(Generic[Job]):
    """Gives jobs out to `n` lanes. `work(lane, job)` does one; `on_rest` is called when the last one is done."""

    def __init__(
        self, n: int, work: Callable[[int, Job], Awaitable[None]], on_rest: Callable[[], None] = lambda: None
    ) -> None:
        self._work = work
        self._on_rest = on_rest
        self._queues: list[asyncio.Queue[Job]] = [asyncio.Queue(maxsize=_MAX_JOBS) for _ in range(n)]
        self._lanes: dict[str, int] = {}
        self._n_keys = [0] * n
        self._n_open = 0  # given and not done

    @property
    def is_resting(self) -> bool:
        """Nothing was given that is not done."""
        return self._n_open == 0

    async def give(self, key: str, job: Job) -> None:
        """Have it done in the key's lane; waits while that has too many. With one lane: do it."""
        if len(self._queues) == 1:
            await self._work(0, job)
            return
        self._n_open += 1
        await self._queues[self.lane_of(key)].put(job)

    async def run(self, name: str) -> None:
        """Run until cancelled."""
        if len(self._queues) == 1:
            return
        async with asyncio.TaskGroup() as tasks:
            for lane in range(len(self._queues)):
                tasks.create_task(self._run_lane(lane), name=f"lane[{name}.{lane}]")

    def lane_of(self, key: str) -> int:
        """The key's lane: of a new one that with the fewest keys."""
        lane = self._lanes.get(key)
        if lane is not None:
            return lane
        if len(self._lanes) >= _MAX_KEYS:
            return zlib.crc32(key.encode()) % len(self._queues)
        lane = min(range(len(self._queues)), key=lambda index: self._n_keys[index])
        self._lanes[key] = lane
        self._n_keys[lane] += 1
        return lane

    async def _run_lane(self, lane: int) -> None:
        while True:
            job = await self._queues[lane].get()
            await self._work(lane, job)
            self._n_open -= 1
            if self.is_resting:
                self._on_rest()
