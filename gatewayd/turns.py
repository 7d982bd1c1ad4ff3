"""Turns at one sink: older results give way to live ones, of any route, and are never starved.

Invariant: a request with older results starts when no live results wait or are under way, or after having waited for
that twice as long as the one before it took, at most `max_yield_s` (and just that long while the sink is away). So
beside live results that never end the older ones have a third of the time, over a quick link as over a slow one.
"""

import asyncio

from gatewayd.ports import Clock

_PATIENCE = 2.0  # times what a request with older results took


class Turns:
    """Who has live results for the sink now. Used by the tasks of one event loop."""

    def __init__(self, *, max_yield_s: float, clock: Clock) -> None:
        self._max_yield_s = max_yield_s
        self._clock = clock
        self._yield_s = max_yield_s
        self._live: set[str] = set()
        self._is_free = asyncio.Event()
        self._is_free.set()

    def take(self, route: str) -> None:
        """The route has live results that wait or are under way."""
        self._live.add(route)
        self._is_free.clear()

    def rest(self, route: str) -> None:
        """It has none, or none that could go now."""
        self._live.discard(route)
        if not self._live:
            self._is_free.set()

    def took(self, seconds: float) -> None:
        """A request with older results got through."""
        self._yield_s = min(self._max_yield_s, _PATIENCE * seconds)

    async def give_way(self, *, is_away: bool) -> None:
        """Return when older results may go."""
        if self._is_free.is_set():
            return
        async with asyncio.TaskGroup() as tasks:
            alarm = tasks.create_task(
                self._clock.sleep(self._max_yield_s if is_away else self._yield_s), name="uplink-turn-alarm"
            )
            free = tasks.create_task(self._is_free.wait(), name="uplink-turn-free")
            await asyncio.wait([alarm, free], return_when=asyncio.FIRST_COMPLETED)
            alarm.cancel()
            free.cancel()
