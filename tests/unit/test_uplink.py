"""The uplink stage, against a spool and a sink in memory and a clock that tests move."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from gatewayd.config import schema
from gatewayd.errors import ConfigError, SinkMisconfigured, SinkUnavailable
from gatewayd.ports import StoredResult
from gatewayd.uplink import UplinkConfig, run_uplink
from tests.sim.clock import ManualClock, settle
from tests.sim.sink import MemorySink, Report
from tests.sim.spool import MemorySpool, results


class Bench:
    """A running uplink and all around it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.spool = MemorySpool(self.clock)
        self.sink = MemorySink(self.clock)
        self.report = Report()

    @asynccontextmanager
    async def running(self, *routes: str, draw: float = 0.999, **limits: float) -> AsyncIterator[None]:
        uplink = run_uplink(
            "cloud",
            routes,
            self.spool,  # type: ignore[arg-type]
            self.sink,
            UplinkConfig(**limits),  # type: ignore[arg-type]
            draw=lambda: draw,
            clock=self.clock,
            report=self.report,
        )
        task = asyncio.create_task(uplink)
        try:
            await settle()
            yield
            if task.done():
                task.result()
        finally:
            task.cancel()
            await asyncio.wait([task])

    def is_down(self, error: Exception | None = None) -> None:
        def fail(batch: Sequence[StoredResult]) -> None:
            raise error or SinkUnavailable("connection refused")

        self.sink.fault = fail

    def is_up(self) -> None:
        self.sink.fault = lambda batch: None


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_results_leave_the_spool_when_the_sink_stored_them_and_keep_their_order(bench: Bench) -> None:
    bench.spool.add(results("pumps", 600))

    async with bench.running("pumps", max_batch=256):
        await settle()

    assert bench.sink.stored == [f"pumps-{n}" for n in range(600)]
    assert bench.spool.delivered == bench.sink.stored
    assert [n for _, _, n in bench.sink.requests] == [256, 256, 88]
    assert bench.report.n_sent == 600


async def test_a_result_the_sink_names_as_refused_is_buried_with_its_reason(bench: Bench) -> None:
    bench.spool.add(results("pumps", 3))
    bench.sink.fault = lambda batch: {"pumps-1": "not in the schema"}

    async with bench.running("pumps"):
        await settle()

    assert bench.spool.buried == {"pumps-1": "not in the schema"}
    assert bench.spool.delivered == ["pumps-0", "pumps-2"]
    assert bench.report.n_refused == 1


async def test_a_refused_batch_is_bisected_until_the_culprits_stand_alone(bench: Bench) -> None:
    bench.spool.add(results("pumps", 256))
    bench.sink.refuses = {"pumps-7", "pumps-200"}

    async with bench.running("pumps"):
        await bench.clock.advance(0)

    assert bench.spool.buried == {"pumps-7": "HTTP 422: not like this", "pumps-200": "HTTP 422: not like this"}
    assert bench.sink.stored == [f"pumps-{n}" for n in range(256) if n not in {7, 200}]
    assert len(bench.sink.requests) <= 1 + 2 * 2 * 8


async def test_what_the_far_side_answered_is_not_in_the_log_of_a_refusal(bench: Bench) -> None:
    bench.spool.add(results("pumps", 1))
    bench.sink.refuses = {"pumps-0"}

    with capture_logs() as logs:
        async with bench.running("pumps"):
            await settle()

    line = next(line for line in logs if line["event"] == "sink refused results for good")
    assert line["log_level"] == "error"
    assert line["first_reason"] == "HTTP 422"


async def test_a_batch_that_is_too_large_is_split_and_the_next_ones_are_smaller_at_once(bench: Bench) -> None:
    bench.spool.add(results("pumps", 400))
    bench.sink.max_batch = 50

    async with bench.running("pumps", max_batch=200):
        await bench.clock.advance(0)

    sizes = [n for _, _, n in bench.sink.requests]
    assert bench.sink.stored == [f"pumps-{n}" for n in range(400)]
    assert sizes[:3] == [200, 100, 50]
    assert sizes[3] == 50
    assert len([n for n in sizes if n > 50]) <= 4


async def test_a_single_result_that_is_too_large_is_buried(bench: Bench) -> None:
    bench.spool.add(results("pumps", 2))
    bench.sink.max_batch = 0

    async with bench.running("pumps"):
        await settle()

    assert bench.spool.buried == {"pumps-0": "too_large", "pumps-1": "too_large"}


async def test_retry_after_is_obeyed_to_the_second(bench: Bench) -> None:
    bench.spool.add(results("pumps", 1))
    bench.is_down(SinkUnavailable("HTTP 429", retry_after_s=120.0))

    async with bench.running("pumps"):
        bench.is_up()
        await bench.clock.advance(119.999)
        early = len(bench.sink.requests)
        await bench.clock.advance(0.001)

    assert early == 1
    assert [at for at, _, _ in bench.sink.requests] == [0.0, 120.0]
    assert bench.spool.delivered == ["pumps-0"]


async def test_a_retry_after_of_zero_does_not_make_a_storm(bench: Bench) -> None:
    bench.spool.add(results("pumps", 1))
    bench.is_down(SinkUnavailable("HTTP 503", retry_after_s=0.0))

    async with bench.running("pumps"):
        await bench.clock.advance(600.0)

    assert len(bench.sink.requests) <= 12


async def test_twenty_routes_and_a_cloud_away_for_ten_minutes_cost_the_requests_of_one(bench: Bench) -> None:
    routes = [f"route{n}" for n in range(20)]
    for route in routes:
        bench.spool.add(results(route, 40))
    bench.is_down()

    async with bench.running(*routes, retry_max_s=60.0):
        await bench.clock.advance(600.0)
        requests = list(bench.sink.requests)
        bench.is_up()
        await bench.clock.advance(60.0)

    # 1 + 2 + 4 + … + 32 s, then every 60 s: 16 with the highest draws; the first failure finds 20 under way.
    probes = [request for request in requests if request[0] > 0]
    assert len(requests) - len(probes) <= 20
    assert 10 <= len(probes) <= 16
    assert all(n <= 16 for _, _, n in probes)
    assert bench.spool.n_pending == 0
    assert len(bench.sink.stored) == len(set(bench.sink.stored)) == 800
    assert bench.report.turns[0] == "away: unavailable"
    assert bench.report.turns[1].startswith("back after ")
    assert len(bench.report.turns) == 2


async def test_a_route_whose_results_the_far_side_chokes_on_does_not_hold_up_the_others(bench: Bench) -> None:
    def chokes(batch: Sequence[StoredResult]) -> None:
        if batch[0].route == "bad":
            raise SinkUnavailable("HTTP 500")

    bench.spool.add(results("bad", 5))
    bench.spool.add(results("good", 100))
    bench.sink.fault = chokes

    async with bench.running("bad", "good", max_batch=10):
        await bench.clock.advance(10.0)
        for n in range(10):
            bench.spool.add(results("good", 10, first=100 + 10 * n))
            await bench.clock.advance(10.0)

    assert len(bench.sink.stored) == 200
    assert len(bench.spool.pending["bad"]) == 5
    assert len([1 for _, route, _ in bench.sink.requests if route == "bad"]) <= 10
    assert len(bench.report.turns) == 2  # away and back once; then the route waits alone


async def test_what_was_confirmed_before_the_sink_went_away_is_not_sent_again(bench: Bench) -> None:
    bench.spool.add(results("pumps", 16))
    bench.sink.refuses = {"pumps-3"}

    def goes_away(batch: Sequence[StoredResult]) -> None:
        if batch[0].key == "pumps-8" and bench.clock.monotonic() == 0:
            raise SinkUnavailable("connection reset")

    bench.sink.fault = goes_away

    async with bench.running("pumps"):
        await bench.clock.advance(5.0)

    assert sorted(bench.sink.stored) == sorted(f"pumps-{n}" for n in range(16) if n != 3)
    assert bench.spool.buried == {"pumps-3": "HTTP 422: not like this"}
    assert len(bench.spool.nacks) == 1


async def test_a_lease_is_given_back_before_it_lapses_and_progress_is_kept(bench: Bench) -> None:
    bench.spool.add(results("pumps", 64))
    bench.sink.refuses = {"pumps-63"}
    send = bench.sink.send

    async def slow(batch: Sequence[StoredResult]) -> object:
        await bench.clock.sleep(20.0)
        return await send(batch)

    bench.sink.send = slow  # type: ignore[method-assign, assignment]

    async with bench.running("pumps", timeout_s=30.0, lease_s=60.0):
        await bench.clock.advance(1000.0)

    assert bench.spool.buried == {"pumps-63": "HTTP 422: not like this"}
    assert bench.sink.stored == [f"pumps-{n}" for n in range(63)]
    assert len(bench.spool.nacks) >= 1


async def test_a_request_that_hangs_is_given_up_and_the_next_one_is_smaller(bench: Bench) -> None:
    bench.spool.add(results("pumps", 40))
    send = bench.sink.send

    async def hangs_on_many(batch: Sequence[StoredResult]) -> object:
        if len(batch) > 20:
            await asyncio.Event().wait()
        return await send(batch)

    bench.sink.send = hangs_on_many  # type: ignore[method-assign, assignment]

    async with bench.running("pumps", timeout_s=0.05, max_batch=40):
        async with asyncio.timeout(10):
            while not bench.report.retries:
                await asyncio.sleep(0.01)
        await bench.clock.advance(10.0)

    assert bench.report.retries[0][:2] == ("pumps", "timeout")
    assert [n for _, _, n in bench.sink.requests] == [16, 20, 4]
    assert bench.spool.n_pending == 0


async def test_a_misconfigured_sink_is_an_error_with_a_hint_logged_at_a_limited_rate(bench: Bench) -> None:
    error = SinkMisconfigured("HTTP 401")
    error.hint = "check `token`"
    bench.spool.add(results("pumps", 1))
    bench.is_down(error)

    with capture_logs() as logs:
        async with bench.running("pumps", retry_max_s=1.0, repeat_s=30.0):
            await bench.clock.advance(65.0)
            bench.is_up()
            await bench.clock.advance(1.0)

    errors = [line for line in logs if line["log_level"] == "error"]
    assert len(bench.sink.requests) > 60
    assert 3 <= len(errors) <= 4
    assert errors[0]["hint"] == "check `token`"
    assert [line["event"] for line in logs if line["log_level"] == "info"] == ["sink is back"]
    assert {reason for _, reason, _ in bench.report.retries} == {"misconfigured"}


async def test_every_failed_request_is_reported(bench: Bench) -> None:
    bench.spool.add(results("pumps", 1))
    bench.is_down()

    async with bench.running("pumps"):
        await bench.clock.advance(100.0)

    assert len(bench.report.retries) == len(bench.sink.requests) == len(bench.spool.nacks)


def test_a_time_limit_that_outlasts_the_lease_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="timeout_s"):
        UplinkConfig(timeout_s=120.0, lease_s=120.0)


async def test_a_route_that_wakes_up_while_the_sink_is_away_asks_with_a_small_batch(bench: Bench) -> None:
    bench.spool.add(results("pumps", 1))
    bench.is_down()

    async with bench.running("pumps", "logs", max_batch=256):
        await bench.clock.advance(0.5)
        bench.spool.add(results("logs", 200))
        await bench.clock.advance(30.0)
        sizes = {n for _, _, n in bench.sink.requests}
        bench.is_up()
        await bench.clock.advance(60.0)

    assert max(sizes) <= 16
    assert bench.spool.n_pending == 0


async def test_a_lease_larger_than_a_probe_is_given_back_unsent_while_the_sink_is_away(bench: Bench) -> None:
    bench.is_down()

    async with bench.running("pumps", "logs", max_batch=256):  # both wait for results, up to 256 at once
        bench.spool.add([*results("pumps", 1), *results("logs", 200)])
        await bench.clock.advance(60.0)

    assert [n for _, route, n in bench.sink.requests if route == "logs" and n > 16] == []
    assert len(bench.sink.requests) <= 8


def test_the_config_of_any_sink_gives_the_limits() -> None:
    sink = schema.FileSink(path="-", max_batch=7, timeout_s=5.0, retry_max_s=9.0)

    limits = UplinkConfig.of(sink, repeat_s=3.0, lease_s=6.0)

    assert (limits.max_batch, limits.timeout_s, limits.retry_max_s, limits.repeat_s, limits.lease_s) == (7, 5, 9, 3, 6)
