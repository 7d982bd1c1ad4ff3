"""A monthly cap over a real spool and a real HTTP sink: kept over restarts, and over when the month is."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gatewayd.config import schema
from gatewayd.ports import NewResult, Work
from gatewayd.sinks.http import HttpSink
from gatewayd.spool import SqliteSpool
from gatewayd.throttle import Throttle
from gatewayd.uplink import UplinkConfig, run_uplink
from tests.sim.clock import WallClock
from tests.sim.cloud import FaultyCloud
from tests.sim.sink import Report

NOVEMBER = datetime(2026, 11, 30, 23, 59, tzinfo=UTC).timestamp()
_CAP = 20_000
RESULTS = [
    NewResult(key=f"key-{n:03d}", kind="k", subject="t", time=NOVEMBER, data=b'"' + b"x" * 500 + b'"')
    for n in range(200)
]


@pytest.fixture
async def cloud() -> AsyncIterator[FaultyCloud]:
    cloud = FaultyCloud()
    await cloud.start()
    yield cloud
    await cloud.stop()


class RealTime(WallClock):
    """The machine's time, but for the date."""

    def __init__(self, now: float) -> None:
        self.at = now

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.01))


class Life:
    """One run of spool and uplink."""

    def __init__(self, spool: SqliteSpool, sink: HttpSink, throttle: Throttle) -> None:
        self.spool = spool
        self.sink = sink
        self.throttle = throttle

    async def pending(self) -> int:
        return (await self.spool.books()).results["r"]["cloud"]["pending"]


@asynccontextmanager
async def running(folder: Path, url: str, clock: RealTime) -> AsyncIterator[Life]:
    config = schema.HttpSink(url=url, gzip_above_bytes=10_000_000, max_batch=10, max_bytes_per_month=_CAP)
    sink, report = HttpSink(config, gateway="gw", token=None), Report()
    async with SqliteSpool.open(
        folder / "spool.db", routes={"r": ["cloud"]}, policies={}, config=schema.Spool(), clock=clock
    ) as spool:
        throttle = Throttle.of("cloud", sink, config, book=spool.usage, priorities={}, clock=clock, report=report)
        uplink = run_uplink(
            "cloud",
            ["r"],
            spool,
            sink,
            UplinkConfig.of(config, 30.0),
            draw=lambda: 0.5,
            clock=clock,
            report=report,
            throttle=throttle,
        )
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(uplink, name="uplink")
            yield Life(spool, sink, throttle)
            task.cancel()
        await sink.close()


async def until_paused(life: Life) -> None:
    async with asyncio.timeout(20):
        while not life.throttle.is_paused:
            await asyncio.sleep(0.01)


async def test_a_month_that_is_used_up_stays_so_over_a_restart_and_ends_with_the_month(
    tmp_path: Path, cloud: FaultyCloud
) -> None:
    clock = RealTime(NOVEMBER)
    async with running(tmp_path, cloud.url, clock) as life:
        await life.spool.commit(Work(route="r", received=200, handled=200, results=RESULTS))
        await until_paused(life)
        n_stored, n_bytes = len(cloud.stored), life.throttle.month().n_bytes
        assert await life.pending() == 200 - n_stored

    async with running(tmp_path, cloud.url, clock) as life:
        await until_paused(life)
        assert life.throttle.month().n_bytes == n_bytes
        assert len(cloud.stored) == n_stored

        clock.at += 60.0
        async with asyncio.timeout(20):
            while len(cloud.stored) == n_stored:
                await asyncio.sleep(0.01)
        await until_paused(life)

    assert 0 < n_stored < 60
    assert _CAP <= n_bytes < _CAP + 10_000  # one request beyond
    assert cloud.stored == [f"key-{n:03d}" for n in range(len(cloud.stored))]
