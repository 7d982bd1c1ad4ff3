"""Spool, uplink and HTTP sink together, against a cloud on loopback that misbehaves."""

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest

from gatewayd.config import schema
from gatewayd.ports import Clock
from gatewayd.sinks.http import HttpSink
from gatewayd.uplink import UplinkConfig, run_uplink
from tests.sim.cloud import FaultyCloud, Scripted
from tests.sim.sink import Report
from tests.sim.spool import MemorySpool, results

ROUTES = ("pumps", "logs", "doors")


class Field:
    """A gateway's last mile."""

    def __init__(self, clock: Clock, cloud: FaultyCloud) -> None:
        self.cloud = cloud
        self.spool = MemorySpool(clock)
        self.report = Report()
        self._clock = clock

    async def run_until(self, is_done: Callable[[], bool]) -> None:
        sink = HttpSink(schema.HttpSink(url=self.cloud.url), gateway="gw", token="a-token")
        uplink = run_uplink(
            "cloud",
            ROUTES,
            self.spool,  # type: ignore[arg-type]
            sink,
            UplinkConfig(timeout_s=0.5, max_batch=64),
            draw=lambda: 0.001,
            clock=self._clock,
            report=self.report,
        )
        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            task = tasks.create_task(uplink)
            while not is_done():
                await asyncio.sleep(0.01)
            task.cancel()
        await sink.close()

    def is_drained(self) -> bool:
        return self.spool.n_pending == 0


@pytest.fixture
async def field(real_clock: Clock) -> AsyncIterator[Field]:
    cloud = FaultyCloud()
    await cloud.start()
    made = Field(real_clock, cloud)
    for route in ROUTES:
        made.spool.add(results(route, 300))
    yield made
    await cloud.stop()


ALL = {f"{route}-{n}" for route in ROUTES for n in range(300)}


async def test_a_cloud_that_is_cut_and_restored_has_everything_once(field: Field) -> None:
    await field.cloud.cut()

    async def restore() -> None:
        while not field.report.turns:
            await asyncio.sleep(0.01)
        await field.cloud.restore()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(restore())
        await field.run_until(field.is_drained)

    assert set(field.cloud.stored) == ALL
    assert field.cloud.duplicates == 0
    for route in ROUTES:
        own = [key for key in field.cloud.stored if key.startswith(route)]
        assert own == [f"{route}-{n}" for n in range(300)]


async def test_lost_answers_make_duplicates_and_no_losses(field: Field) -> None:
    field.cloud.loses_answers = 5

    await field.run_until(field.is_drained)

    assert set(field.cloud.stored) == ALL
    assert field.cloud.unique == 900
    assert 0 < field.cloud.duplicates <= 5 * 64


async def test_a_storm_of_bad_answers_loses_nothing(field: Field) -> None:
    statuses = [500, 502, 401, 503, 408, 302, 425, 404, 407, 599, 403]
    field.cloud.script.extend(Scripted(status) for status in statuses)

    await field.run_until(field.is_drained)

    assert set(field.cloud.stored) == ALL
    assert field.spool.buried == {}


async def test_a_small_limit_of_the_far_side_is_found(field: Field) -> None:
    field.cloud.max_request_bytes = 700

    await field.run_until(field.is_drained)

    assert set(field.cloud.stored) == ALL
    assert field.spool.buried == {}


async def test_events_the_far_side_refuses_are_buried_and_all_others_arrive(field: Field) -> None:
    refused = {"pumps-0", "logs-150", "doors-298", "doors-299"}
    field.cloud.refuses = lambda event: event.id in refused

    await field.run_until(field.is_drained)

    assert set(field.cloud.stored) == ALL - refused
    assert set(field.spool.buried) == refused
    assert set(field.spool.buried.values()) == {"HTTP 422: an event is not in the schema"}
    assert field.report.n_refused == 4


async def test_a_hanging_cloud_is_given_up_and_asked_again(field: Field) -> None:
    field.cloud.hangs = True

    async def heal() -> None:
        while not field.report.retries:
            await asyncio.sleep(0.01)
        field.cloud.hangs = False

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(heal())
        await field.run_until(field.is_drained)

    assert set(field.cloud.stored) == ALL
    assert field.report.retries[0][1] == "timeout"
    assert msgspec.json.decode(field.cloud.last[-1].data) == {"label": "ok"}
