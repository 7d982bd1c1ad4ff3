"""The part of a spool that an uplink sees, in memory."""

import asyncio
from collections.abc import Mapping, Sequence

from gatewayd.ports import Clock, Lease, StoredResult


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
        self._due_s: dict[str, float] = {}
        self._ids = 0
        self._added = asyncio.Event()
        self.pending: dict[str, list[StoredResult]] = {}
        self.delivered: list[str] = []
        self.buried: dict[str, str] = {}
        self.nacks: list[float] = []

    def add(self, new: Sequence[StoredResult]) -> None:
        for result in new:
            self.pending.setdefault(result.route, []).append(result)
        added, self._added = self._added, asyncio.Event()
        added.set()

    async def lease(self, sink: str, route: str, *, limit: int, max_bytes: int) -> Lease:
        while True:
            rest_s = self._due_s.get(route, 0.0) - self._clock.monotonic()
            if rest_s > 0:
                await self._clock.sleep(rest_s)
            elif self.pending.get(route):
                break
            else:
                await self._added.wait()
        self._ids += 1
        taken: list[StoredResult] = []
        for result in self.pending[route][:limit]:
            if taken and sum(len(other.data) for other in taken) + len(result.data) > max_bytes:
                break
            taken.append(result)
        return Lease(id=self._ids, sink=sink, route=route, results=tuple(taken), attempt=1)

    async def ack(self, lease: Lease, *, refused: Mapping[str, str]) -> None:
        keys = [result.key for result in lease.results]
        assert set(refused) <= set(keys)
        self.buried |= refused
        self.delivered += [key for key in keys if key not in refused]
        self.pending[lease.route] = [result for result in self.pending[lease.route] if result.key not in keys]

    async def nack(self, lease: Lease, *, delay_s: float) -> None:
        self.nacks.append(delay_s)
        self._due_s[lease.route] = self._clock.monotonic() + delay_s

    @property
    def n_pending(self) -> int:
        return sum(map(len, self.pending.values()))
