"""The real spool on a real file, and short names for what tests put into it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from gatewayd.config import schema
from gatewayd.errors import SpoolFull
from gatewayd.ports import NewResult, RawMessage, Work
from gatewayd.spool import SqliteSpool
from gatewayd.spool.policy import RoutePolicy
from tests.sim.clock import BentClock, WallClock

MIB = 1024 * 1024


class FakeClock(WallClock):
    def __init__(self) -> None:
        self.at = 1000.0
        self.sleepers: list[tuple[float, asyncio.Event]] = []

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        event = asyncio.Event()
        self.sleepers.append((self.at + seconds, event))
        await event.wait()

    def advance(self, seconds: float) -> None:
        self.at += seconds
        for due, event in self.sleepers:
            if due <= self.at:
                event.set()


@asynccontextmanager
async def opened(
    folder: Path,
    *,
    routes: Mapping[str, Sequence[str]] | None = None,
    sinks: Sequence[str] | None = None,
    policies: Mapping[str, RoutePolicy] | None = None,
    clock: FakeClock | BentClock | None = None,
    events: list[tuple[str, Mapping[str, object]]] | None = None,
    **config: object,
) -> AsyncIterator[SqliteSpool]:
    heard: list[tuple[str, Mapping[str, object]]] = [] if events is None else events
    async with SqliteSpool.open(
        folder / "spool.db",
        routes={"r": ["cloud"]} if routes is None else routes,
        sinks=sinks,
        policies=policies or {},
        config=schema.Spool(**config),  # type: ignore[arg-type]
        clock=clock or FakeClock(),
        on_event=lambda name, fields: heard.append((name, fields)),
    ) as spool:
        yield spool


def result(key: str, size: int = 10) -> NewResult:
    return NewResult(key=key, kind="k", subject="t", time=1.0, data=b"x" * size)


def work(*keys: str, route: str = "r", size: int = 10) -> Work:
    n = len(keys)
    return Work(route=route, received=n, handled=n, results=[result(key, size) for key in keys])


def raw(key: str, size: int = 1) -> RawMessage:
    return RawMessage(topic="t", payload=b"p" * size, time=2.0, key=key, qos=1, properties=(("a", "b"),))


async def leased(spool: SqliteSpool, sink: str = "cloud", route: str = "r", limit: int = 100) -> list[str]:
    lease = await spool.try_lease(sink, route, limit=limit, max_bytes=MIB)
    return [] if lease is None else [stored.key for stored in lease.results]


async def outcome(commit: Awaitable[object]) -> str:
    try:
        await commit
    except SpoolFull:
        return "full"
    return "stored"
