"""A real spool with a route that spares flash, gone to memory; and short names for what tests ask of it."""

import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gatewayd.ports import Lease
from gatewayd.spool import SqliteSpool
from gatewayd.spool.books import Books
from gatewayd.spool.policy import RoutePolicy
from gatewayd.spool.reader import SpoolReader
from tests.sim.real_spool import MIB, opened, work

SPARING = RoutePolicy(write="when_offline", write_max_s=5.0, write_max_results=10)


@asynccontextmanager
async def sparing(folder: Path, **wishes: Any) -> AsyncIterator[SqliteSpool]:
    """A spool whose route `r` spares flash and whose sinks have confirmed one result."""
    wishes.setdefault("routes", {"r": ["cloud"]})
    wishes.setdefault("policies", dict.fromkeys(wishes["routes"], SPARING))
    async with opened(folder, **wishes) as spool:
        for route, sinks in wishes["routes"].items():
            await spool.commit(work(f"first-{route}", route=route))
            for sink in sinks:
                await deliver(spool, sink, route)
        await settled(spool)
        yield spool


async def settled(spool: SqliteSpool) -> None:
    """What the last call has set off is done."""
    for _ in range(3):
        await spool.ping()


async def lent(spool: SqliteSpool, sink: str = "cloud", route: str = "r", limit: int = 100) -> Lease:
    lease = await spool.try_lease(sink, route, limit=limit, max_bytes=MIB)
    assert lease is not None
    return lease


async def deliver(spool: SqliteSpool, sink: str = "cloud", route: str = "r", limit: int = 100) -> list[str]:
    """All that the sink is offered until nothing is left."""
    keys = []
    while lease := await spool.try_lease(sink, route, limit=limit, max_bytes=MIB):
        keys += [stored.key for stored in lease.results]
        await spool.ack(lease, refused={})
    return keys


def on_disk(folder: Path) -> Books:
    with SpoolReader.open(folder / "spool.db") as reader:
        return reader.books()


def lines(books: Books, sink: str = "cloud", route: str = "r") -> Mapping[str, int]:
    return books.results[route][sink]


@asynccontextmanager
async def after_power_cut(folder: Path) -> AsyncIterator[SqliteSpool]:
    """The same spool as it would be found now, had the power been cut."""
    there = folder / "cut"
    there.mkdir()
    for name in ("spool.db", "spool.db-wal"):
        if (folder / name).exists():
            shutil.copy(folder / name, there / name)
    async with opened(there, policies={"r": SPARING}) as spool:
        yield spool
