"""A clock that stands still until a test moves it."""

import asyncio
import heapq
import itertools

_TURNS = 60  # turns of the event loop after which everything that can run has run


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)


class WallClock:
    """The part of gatewayd.ports.Clock about wall time and boots that most tests need to say nothing about."""

    boot_id = "boot-1"
    synced: bool | None = True
    kept_floor = 0.0

    def is_synced(self) -> bool | None:
        return self.synced

    def boottime(self) -> float:
        return self.monotonic()

    def floor(self) -> float:
        return self.now()

    def keep_above(self, floor: float) -> None:
        self.kept_floor = floor

    def monotonic(self) -> float:
        raise NotImplementedError

    def now(self) -> float:
        raise NotImplementedError


class BentClock(WallClock):
    """A gateway's clocks, bent as a test wants them: `pass_s` lets time pass, `reboot` begins another boot."""

    def __init__(self, now: float = 1_763_724_000.0) -> None:
        self.wall = now
        self.uptime_s = 100.0
        self.n_boots = 1
        self.boot_id = "boot-1"
        self.synced = True

    def now(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.uptime_s

    def boottime(self) -> float:
        return self.uptime_s

    async def sleep(self, seconds: float) -> None:
        await asyncio.Event().wait()

    def pass_s(self, seconds: float) -> None:
        self.wall += seconds
        self.uptime_s += seconds

    def reboot(self, *, off_s: float, uptime_s: float = 5.0, wall: float | None = None) -> None:
        """Off for `off_s`, then up for `uptime_s`; `wall`: what the clock shows now, where it did not go on."""
        self.n_boots += 1
        self.boot_id = f"boot-{self.n_boots}"
        self.uptime_s = uptime_s
        self.wall = self.wall + off_s + uptime_s if wall is None else wall


class ManualClock(WallClock):
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

    @property
    def n_sleeping(self) -> int:
        """How many wait for the time to move on."""
        return len(self._sleepers)

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
