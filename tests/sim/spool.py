"""The part of a spool that an uplink sees, in memory."""

import asyncio
from collections.abc import Mapping, Sequence

from gatewayd.ports import Clock, Lease, Share, StoredResult


def results(route: str, n: int, *, first: int = 0, data: bytes = b'{"label":"ok"}') -> list[StoredResult]:
    """`n` results of a route, as a spool gives them out."""
    return [
        StoredResult(
            row=row,
            route=route,
            key=f"{route}-{row}",
            kind="classification",
            subject=f"plant/{route}",
            time=1_763_724_000.0 + row,
            data=data,
        )
        for row in range(first, first + n)
    ]


class MemorySpool:
    """Keeps the contract of gatewayd.ports.Spool for leases of one sink."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due_s: dict[tuple[str, Share], float] = {}
        self._ids = 0
        self._added = asyncio.Event()
        self._held: set[tuple[str, Share]] = set()
        self._last_row: dict[str, int] = {}
        self._boundaries: dict[str, int] = {}
        self._wanted: dict[str, int] = {}
        self.pending: dict[str, list[StoredResult]] = {}
        self.delivered: list[str] = []
        self.buried: dict[str, str] = {}
        self.nacks: list[float] = []
        self.holds: dict[str, float] = {}  # what was asked for, to be kept
        self.held: dict[str, float] = {}  # what is left of what was kept before a restart

    def add(self, new: Sequence[StoredResult]) -> None:
        for result in new:
            self.pending.setdefault(result.route, []).append(result)
            self._last_row[result.route] = result.row
        self._wake()

    def divide(self, sink: str, route: str) -> None:
        self._wanted[route] = self._last_row.get(route, -1)
        self._settle(route)

    async def lease(self, sink: str, route: str, *, limit: int, max_bytes: int, share: Share = "all") -> Lease:
        while True:
            lease = await self.try_lease(sink, route, limit=limit, max_bytes=max_bytes, share=share)
            if lease is not None:
                return lease
            rest_s = self._due_s.get((route, share), 0.0) - self._clock.monotonic()
            if rest_s > 0:
                await self._clock.sleep(rest_s)
            else:
                await self._added.wait()

    async def try_lease(
        self, sink: str, route: str, *, limit: int, max_bytes: int, share: Share = "all"
    ) -> Lease | None:
        await asyncio.sleep(0)
        if self._due_s.get((route, share), 0.0) > self._clock.monotonic():
            return None
        taken: list[StoredResult] = []
        for result in [result for result in self.pending.get(route, ()) if self._is_in(share, result)][:limit]:
            if taken and sum(len(other.data) for other in taken) + len(result.data) > max_bytes:
                break
            taken.append(result)
        if not taken:
            return None
        self._ids += 1
        self._held.add((route, share))
        return Lease(id=self._ids, sink=sink, route=route, results=tuple(taken), attempt=1, share=share)

    async def ack(self, lease: Lease, *, refused: Mapping[str, str]) -> None:
        keys = [result.key for result in lease.results]
        assert set(refused) <= set(keys)
        self.buried |= refused
        self.delivered += [key for key in keys if key not in refused]
        self.pending[lease.route] = [result for result in self.pending[lease.route] if result.key not in keys]
        self._end(lease)

    async def nack(self, lease: Lease, *, delay_s: float) -> None:
        self.nacks.append(delay_s)
        self._due_s[lease.route, lease.share] = self._clock.monotonic() + delay_s
        self._end(lease)

    def hold(self, sink: str, delay_s: float) -> None:
        self.holds[sink] = delay_s

    def held_s(self, sink: str) -> float:
        return self.held.get(sink, 0.0)

    @property
    def n_pending(self) -> int:
        return sum(map(len, self.pending.values()))

    def _is_in(self, share: Share, result: StoredResult) -> bool:
        is_older = result.row <= self._boundaries.get(result.route, -1)
        return share == "all" or is_older == (share == "older")

    def _end(self, lease: Lease) -> None:
        self._held.discard((lease.route, lease.share))
        self._settle(lease.route)

    def _settle(self, route: str) -> None:
        if route in self._wanted and (route, "live") not in self._held:
            self._boundaries[route] = self._wanted.pop(route)
            self._wake()

    def _wake(self) -> None:
        added, self._added = self._added, asyncio.Event()
        added.set()
