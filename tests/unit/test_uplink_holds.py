"""What a far side asked for is obeyed by the next life too: a real spool, two uplinks one after the other."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from gatewayd.errors import SinkUnavailable
from gatewayd.ports import StoredResult
from gatewayd.uplink import UplinkConfig, run_uplink
from tests.sim.clock import ManualClock, settle
from tests.sim.real_spool import opened, work
from tests.sim.sink import MemorySink, Report


def busy(batch: Sequence[StoredResult]) -> None:
    raise SinkUnavailable("HTTP 429", retry_after_s=90.0)


@asynccontextmanager
async def a_life(folder: Path, clock: ManualClock, sink: MemorySink) -> AsyncIterator[None]:
    async with opened(folder, clock=clock) as spool:  # type: ignore[arg-type]
        if clock.monotonic() == 0:
            await spool.commit(work("a", "b"))
        uplink = run_uplink("cloud", ["r"], spool, sink, UplinkConfig(), draw=lambda: 0.5, clock=clock, report=Report())
        task = asyncio.create_task(uplink)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            await spool.ping()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_retry_after_is_obeyed_over_a_restart(tmp_path: Path) -> None:
    clock = ManualClock()
    sink = MemorySink(clock)
    sink.fault = busy
    async with a_life(tmp_path, clock, sink):
        await until(lambda: sink.requests)
        await settle()
    await clock.advance(30.0)
    sink.fault = lambda batch: None

    async with a_life(tmp_path, clock, sink):
        for _ in range(20):
            await clock.advance(2.99)
            await asyncio.sleep(0.01)
        n_early = len(sink.requests)
        await clock.advance(0.5)
        await until(lambda: sink.stored)

    assert n_early == 1
    assert sink.stored == ["a", "b"]
