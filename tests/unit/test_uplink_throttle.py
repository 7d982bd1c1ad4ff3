"""The uplink under rates and a monthly cap: against a spool and a sink in memory and a clock that tests move."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from gatewayd.config import schema
from gatewayd.quota import Tally
from gatewayd.throttle import Throttle
from gatewayd.uplink import UplinkConfig, run_uplink
from tests.sim.clock import ManualClock, settle
from tests.sim.sink import MemorySink, Report
from tests.sim.spool import MemorySpool, results

EVENING = datetime(2026, 11, 30, 23, tzinfo=UTC).timestamp()


class Bench:
    """A running uplink with limits, and all around it."""

    def __init__(self, **config: object) -> None:
        self.clock = ManualClock(EVENING)
        self.spool = MemorySpool(self.clock)
        self.sink = MemorySink(self.clock)
        self.report = Report()
        self.throttle = Throttle.of(
            "cloud",
            self.sink,
            schema.HttpSink(url="http://x/", **config),  # type: ignore[arg-type]
            book=Tally(),
            priorities={"alarms": 9},
            clock=self.clock,
            report=self.report,
        )

    @asynccontextmanager
    async def running(self, *routes: str, **limits: object) -> AsyncIterator[None]:
        uplink = run_uplink(
            "cloud",
            routes,
            self.spool,  # type: ignore[arg-type]
            self.sink,
            UplinkConfig(**limits),  # type: ignore[arg-type]
            draw=lambda: 0.999,
            clock=self.clock,
            report=self.report,
            throttle=self.throttle,
        )
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(uplink, name="uplink")
            await settle()
            yield
            task.cancel()


async def test_results_go_no_faster_than_the_rate_and_in_order() -> None:
    bench = Bench(max_results_per_s=10)
    bench.spool.add(results("pumps", 100))

    async with bench.running("pumps"):
        await bench.clock.advance(4.5)
        n_early = len(bench.sink.stored)
        await bench.clock.advance(10.0)

    assert 40 <= n_early <= 60
    assert bench.sink.stored == [f"pumps-{n}" for n in range(100)]
    assert max(n for _, _, n in bench.sink.requests) <= 10


async def test_bytes_go_no_faster_than_the_rate() -> None:
    bench = Bench(max_bytes_per_s=1000)
    bench.spool.add(results("pumps", 100, data=b"x" * 100))

    async with bench.running("pumps"):
        await bench.clock.advance(5.0)

    assert 4000 <= bench.sink.sent_bytes <= 7000


async def test_no_lease_lapses_while_it_waits_for_its_turn() -> None:
    bench = Bench(max_results_per_s=0.01)  # one in 100 s, and a lease lasts for 20
    bench.spool.add(results("pumps", 3))

    async with bench.running("pumps", timeout_s=5.0, lease_s=20.0):
        await bench.clock.advance(210.0)

    assert bench.sink.stored == ["pumps-0", "pumps-1", "pumps-2"]
    assert set(bench.spool.nacks) == {0.0}  # it was handed back in time, again and again
    assert bench.spool.buried == {}


async def test_a_month_that_is_used_up_holds_results_back_in_the_spool_until_the_next_one() -> None:
    bench = Bench(max_bytes_per_month=1000)
    bench.spool.add(results("pumps", 100, data=b"x" * 100))

    async with bench.running("pumps", "alarms"):
        await bench.clock.advance(1800.0)
        n_before, waiting = bench.sink.sent_bytes, bench.spool.n_pending
        n_requests = len(bench.sink.requests)
        bench.throttle.month()
        await bench.clock.advance(2000.0)

    assert 1000 <= n_before <= 1100  # one request beyond at most
    assert waiting == 100 - n_before // 100
    assert n_requests == len([at for at, _, _ in bench.sink.requests if at < 1800.0])
    assert bench.sink.sent_bytes > n_before  # December
    assert bench.report.turns[0] == "away: quota"
    assert bench.spool.buried == {}


async def test_a_used_up_month_of_one_sink_is_nothing_to_another() -> None:
    capped, free = Bench(max_bytes_per_month=1000), Bench()
    for bench in (capped, free):
        bench.spool.add(results("pumps", 100, data=b"x" * 100))

    async with capped.running("pumps"), free.running("pumps"):
        await settle()

    assert capped.spool.n_pending > 0
    assert free.spool.n_pending == 0


async def test_fresh_results_go_first_under_a_rate_too() -> None:
    bench = Bench(max_results_per_s=5)
    bench.spool.add(results("pumps", 100))
    bench.spool.divide("cloud", "pumps")

    async with bench.running("pumps", live_first=frozenset({"pumps"})):
        await bench.clock.advance(3.0)
        bench.spool.add(results("pumps", 2, first=1000))
        await bench.clock.advance(2.0)

    n_older = len([key for key in bench.sink.stored if key not in {"pumps-1000", "pumps-1001"}])
    assert {"pumps-1000", "pumps-1001"} <= set(bench.sink.stored)
    assert n_older < 40  # they did not wait for the older ones to be through


async def test_routes_of_a_higher_priority_go_first_under_a_rate() -> None:
    bench = Bench(max_results_per_s=1)
    bench.spool.add(results("pumps", 50))
    bench.spool.add(results("alarms", 5))

    async with bench.running("pumps", "alarms"):
        await bench.clock.advance(9.0)

    assert len([key for key in bench.sink.stored if key.startswith("alarms")]) == 5
    assert len(bench.sink.stored) <= 11
