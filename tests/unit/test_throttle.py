"""What lets a sink's requests through: its pace and its month, and what is told when the month is used up."""

import asyncio
from datetime import UTC, datetime

import pytest
from structlog.testing import capture_logs

from gatewayd.config import schema
from gatewayd.pace import Fare
from gatewayd.quota import Tally
from gatewayd.throttle import Throttle
from tests.sim.clock import ManualClock, settle
from tests.sim.sink import Report
from tests.sim.spool import results

START = datetime(2026, 11, 30, 21, tzinfo=UTC).timestamp()
HOUR_S = 3600.0
PART = tuple(results("pumps", 10, data=b"x" * 100))
NEVER = float("inf")


class Sink:
    sent_bytes = 0


class Rig:
    def __init__(self, **config: object) -> None:
        self.clock = ManualClock(START)
        self.clock.synced = True
        self.sink = Sink()
        self.report = Report()
        self.book = Tally()
        self.throttle = Throttle.of(
            "cloud",
            self.sink,
            schema.HttpSink(url="http://x/", **config),  # type: ignore[arg-type]
            book=self.book,
            priorities={"alarms": 9},
            clock=self.clock,
            report=self.report,
        )

    async def enter(self, route: str = "pumps", *, is_live: bool = False, until_s: float = NEVER) -> Fare | None:
        return await self.throttle.enter(route, PART, is_live=is_live, until_s=until_s)

    async def send(self, n_bytes: int) -> None:
        fare = await self.enter()
        assert fare is not None
        self.sink.sent_bytes += n_bytes
        self.throttle.leave(fare)


async def test_a_sink_without_limits_is_never_held_up_and_counted_all_the_same() -> None:
    rig = Rig()

    for _ in range(100):
        await rig.send(10_000)

    assert rig.throttle.limits(256, 524_288) == (256, 524_288)
    assert not await rig.throttle.wait()
    assert rig.throttle.month().n_bytes == 1_000_000
    assert rig.throttle.month().today_bytes == 1_000_000
    assert rig.throttle.month().begins == "2026-11-01"


async def test_a_failed_request_counts() -> None:
    rig = Rig()
    fare = await rig.enter()
    assert fare is not None

    rig.sink.sent_bytes += 700  # and then the connection broke
    rig.throttle.leave(fare)

    assert rig.throttle.month().n_bytes == 700


async def test_a_request_that_was_not_made_gives_back_what_it_took() -> None:
    rig = Rig(max_results_per_s=10)
    fare = await rig.enter()
    assert fare is not None

    rig.throttle.leave(fare, is_sent=False)

    assert await rig.enter(until_s=rig.clock.monotonic()) is not None
    assert rig.throttle.month().n_bytes == 0


async def test_the_next_lease_is_no_larger_than_what_the_month_has_left() -> None:
    rig = Rig(max_bytes_per_month=100_000)

    await rig.send(97_000)

    assert rig.throttle.limits(256, 524_288) == (256, 3_000)


async def test_a_used_up_month_is_waited_for_told_once_and_counted_as_an_outage() -> None:
    rig = Rig(max_bytes_per_month=100_000)
    await rig.send(100_001)

    with capture_logs() as logs:
        async with asyncio.TaskGroup() as tasks:
            waiting = [tasks.create_task(rig.throttle.wait(), name=f"wait[{n}]") for n in range(3)]
            await rig.clock.advance(2.9 * HOUR_S)
            was_paused = rig.throttle.is_paused
            assert not any(task.done() for task in waiting)
            assert rig.report.turns == ["away: quota"]
            await rig.clock.advance(0.2 * HOUR_S)

    assert [task.result() for task in waiting] == [True, True, True]
    assert (was_paused, rig.throttle.is_paused) == (True, False)
    assert rig.report.turns[1].startswith("back after")
    assert [entry["event"] for entry in logs] == ["sink is over its monthly cap", "sink has a new month"]
    assert "2026-12-01" in logs[0]["hint"]
    assert "max_bytes_per_month" in logs[0]["hint"]
    assert rig.throttle.month().n_bytes == 0
    assert rig.book.days("cloud") == {"2026-11-30": 100_001}


async def test_nothing_is_let_through_once_the_month_is_used_up() -> None:
    rig = Rig(max_bytes_per_month=100_000)
    await rig.send(100_001)

    assert await rig.enter() is None


@pytest.mark.parametrize("n_routes", [2, 8])
async def test_many_routes_overrun_the_cap_by_one_request_together(n_routes: int) -> None:
    rig = Rig(max_bytes_per_month=52_000)
    each = 5_000  # more than its results: an answer, a handshake
    await rig.send(each)

    async def route(name: str) -> None:
        while (fare := await rig.enter(name)) is not None:
            await rig.clock.sleep(1.0)
            rig.sink.sent_bytes += each
            rig.throttle.leave(fare)

    async with asyncio.TaskGroup() as tasks:
        for n in range(n_routes):
            tasks.create_task(route(f"route-{n}"), name=f"route[{n}]")
        await rig.clock.advance(60.0)

    assert 52_000 <= rig.sink.sent_bytes < 52_000 + each


async def test_fresh_results_and_important_routes_go_first() -> None:
    rig = Rig(max_results_per_s=10)
    went: list[str] = []

    async def send(name: str, route: str, *, is_live: bool) -> None:
        await rig.enter(route, is_live=is_live)
        went.append(name)

    await rig.enter()
    async with asyncio.TaskGroup() as tasks:
        for name, route, is_live in (("old", "pumps", False), ("alarms", "alarms", False), ("live", "pumps", True)):
            tasks.create_task(send(name, route, is_live=is_live), name=name)
            await settle()
        await rig.clock.advance(10.0)

    assert went == ["live", "alarms", "old"]
