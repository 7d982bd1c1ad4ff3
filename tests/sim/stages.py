"""The real stages and the real spool between a source in memory and no sink at all, on a clock that stands still.

Whatever a test does, the books balance at its end.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from gatewayd.answer import HandlerRunner
from gatewayd.config import read_environment
from gatewayd.config.environment import resolve_paths
from gatewayd.config.schema import Config
from gatewayd.daemon import Life, close_parts, run_parts
from gatewayd.ports import StoredResult, Work
from gatewayd.spool import SqliteSpool
from gatewayd.spool.books import Books
from gatewayd.spool.reader import SpoolReader
from gatewayd.telemetry import Telemetry
from gatewayd.wiring import Parts, RoutePart, build, lay_ground
from tests.sim.clock import ManualClock
from tests.sim.handlers import Scripted
from tests.sim.source import MemorySource

_PATIENCE_S = 10.0
_RULES = {"rules": [{"label": "x", "above": 0.0}]}
_ROUTE = {"topics": ["t/#"], "handler": "threshold", "options": _RULES, "sinks": ["cloud"], "live": False}


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread (the spool's writer, a handler) has to do first."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, "did not come about"
        await asyncio.sleep(0.001)


class HeldSpool:
    """A spool whose commits wait until the test lets them go."""

    def __init__(self, spool: SqliteSpool) -> None:
        self._spool = spool
        self.open = asyncio.Event()
        self.works: list[Work] = []

    async def commit(self, work: Work) -> Sequence[int]:
        self.works.append(work)
        await self.open.wait()
        return await self._spool.commit(work)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._spool, name)


class Rig:
    """One run of the stages."""

    def __init__(self, parts: Parts, clock: ManualClock, telemetry: Telemetry) -> None:
        self.parts = parts
        self.clock = clock
        self.telemetry = telemetry
        self.life = Life.begin()
        assert isinstance(parts.source, MemorySource)
        self.source = parts.source
        self._run: asyncio.Task[None] | None = None

    def part(self, route: str = "r") -> RoutePart:
        return self.parts.routes[route]

    def hold(self, route: str = "r") -> HeldSpool:
        """From now on this route's commits wait."""
        held = HeldSpool(self.parts.spool)
        self.part(route).context.spool = held  # type: ignore[assignment]
        return held

    def start(self, *, flush: bool = False) -> None:
        self._run = asyncio.get_running_loop().create_task(run_parts(self.parts, self.life, flush=flush))

    def send(self, *values: Any, topic: str = "t/a", **fields: Any) -> list[str]:
        """Deliver one message for each value; their receipts."""
        return [self.source.offer(topic, json.dumps(value).encode(), **fields).key for value in values]

    async def acked(self, n: int) -> list[str]:
        """Wait for the n-th acknowledgement; all so far."""
        await until(lambda: len(self.source.acked) >= n)
        return list(self.source.acked)

    async def stop(self) -> None:
        """A clean stop: drain, close."""
        self.life.stop.set()
        assert self._run is not None
        await asyncio.wait_for(self._run, _PATIENCE_S)
        await close_parts(self.parts)

    async def crash(self) -> None:
        """Being cancelled is the same as losing power."""
        if self._run is not None:
            self._run.cancel()
            await asyncio.wait([self._run])
            if not self._run.cancelled():
                self._run.result()  # what ended it before its time
        await close_parts(self.parts)

    async def books(self) -> Books:
        return await self.parts.spool.books()

    async def message_book(self, route: str = "r") -> dict[str, int]:
        """The lines of the route's message book that are not 0."""
        return {line: n for line, n in (await self.books()).messages[route].items() if n}

    async def settled(self, route: str = "r", **lines: int) -> None:
        """Wait until the route's message book has these lines, and no others."""
        deadline_s = time.monotonic() + _PATIENCE_S
        while (book := await self.message_book(route)) != lines:
            assert time.monotonic() < deadline_s, f"the books say {book}"
            await asyncio.sleep(0.001)

    async def counted(self, name: str, *labels: str, n: int) -> None:
        """Wait until the counter has come to this: what is on disk is counted a moment after it can be read there."""
        await until(lambda: self.telemetry.total(name, *labels) >= n)
        assert self.telemetry.total(name, *labels) == n

    async def stored(self, route: str = "r") -> list[StoredResult]:
        """The results that wait for the sink."""
        lease = await self.parts.spool.try_lease("cloud", route, limit=10_000, max_bytes=1 << 30)
        if lease is None:
            return []
        await self.parts.spool.nack(lease, delay_s=0)
        return list(lease.results)

    async def data(self, route: str = "r") -> list[dict[str, Any]]:
        return [json.loads(result.data) for result in await self.stored(route)]

    def dead(self) -> list[tuple[str, bytes]]:
        """Reason and payload of each dead letter, oldest first."""
        with SpoolReader.open(self.parts.ground.paths.spool) as reader:
            return [(letter.reason, letter.payload) for letter in reversed(reader.dead_letters())]


def config_of(routes: dict[str, dict[str, Any]], **sections: Any) -> Config:
    """A config with these routes; each needs to say only what differs from a plain one on `t/#`."""
    tables = {name: {**_ROUTE, **keys} for name, keys in routes.items()}
    cloud = {"type": "http", "url": "http://127.0.0.1:1/"}
    gateway = {"id": "gw", "drain_s": 2.0}
    return msgspec.convert({"gateway": gateway, "routes": tables, "sinks": {"cloud": cloud}, **sections}, Config)


@asynccontextmanager
async def stages(
    folder: Path,
    handlers: dict[str, Scripted],
    routes: dict[str, dict[str, Any]] | None = None,
    *,
    clock: ManualClock | None = None,
    started: bool = True,
    **sections: Any,
) -> AsyncIterator[Rig]:
    """The stages, running (unless `started` is False). At the end they are killed, and the books are balanced."""
    keys = routes or {}
    config = config_of({name: {"mode": "direct", **keys.get(name, {})} for name in handlers}, **sections)
    environment = read_environment({"STATE_DIRECTORY": str(folder / "state")})
    paths = resolve_paths(config, environment, folder / "config.toml")
    telemetry = Telemetry.build(config.telemetry, environment, "gw", "0")
    clock = clock or ManualClock()
    ground = lay_ground(config, paths, environment, telemetry, clock)
    parts = await build(ground, source=lambda ground: MemorySource(ground.clock), sinks={})
    for name, handler in handlers.items():
        parts.routes[name].context.runner = HandlerRunner(name, handler)
    rig = Rig(parts, clock, telemetry)
    if started:
        rig.start()
    try:
        yield rig
    finally:
        await rig.crash()
        telemetry.shutdown()
    with SpoolReader.open(paths.spool) as reader:
        assert reader.books().balanced
