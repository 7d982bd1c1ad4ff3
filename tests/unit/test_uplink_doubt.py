"""A sink that refuses everything is not believed at once; what is really bad gets through in the end."""

from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from gatewayd.config import schema
from gatewayd.errors import BatchRefused
from gatewayd.ports import StoredResult
from gatewayd.uplink import UplinkConfig
from tests.sim.spool import results
from tests.unit.test_uplink import Bench


@pytest.fixture
def bench() -> Bench:
    return Bench()


def refuses(bench: Bench, *routes: str) -> None:
    """Every result of these routes; of all routes when none is named."""

    def fault(batch: Sequence[StoredResult]) -> None:
        if not routes or batch[0].route in routes:
            raise BatchRefused("HTTP 422: secret words of the far side")

    bench.sink.fault = fault


async def test_a_sink_that_refuses_everything_is_taken_to_be_misconfigured(bench: Bench) -> None:
    refuses(bench)
    bench.spool.add(results("pumps", 20))

    with capture_logs() as logs:
        async with bench.running("pumps"):
            await bench.clock.advance(1800.0)
            n_requests = len(bench.sink.requests)
            bench.is_up()
            await bench.clock.advance(600.0)

    assert bench.spool.buried == {}
    assert bench.sink.stored == [f"pumps-{n}" for n in range(20)]
    assert n_requests <= 2 * 20 + 30  # bisected once, then one result at a time asks
    assert {reason for _, reason, _ in bench.report.retries} == {"misconfigured"}
    line = next(line for line in logs if line["log_level"] == "error")
    assert "url" in line["hint"]
    assert "secret" not in str(logs)


async def test_what_is_really_bad_is_buried_in_the_end(bench: Bench) -> None:
    refuses(bench)
    bench.spool.add(results("pumps", 30))

    async with bench.running("pumps", max_batch=10, refused_wait_s=3600.0):
        await bench.clock.advance(3500.0)
        early = len(bench.spool.buried)
        await bench.clock.advance(700.0)

    assert early == 0
    assert list(bench.spool.buried) == [f"pumps-{n}" for n in range(30)]
    assert bench.spool.n_pending == 0


async def test_refusals_are_believed_once_the_sink_stored_something_of_another_route(bench: Bench) -> None:
    refuses(bench, "bad")
    bench.spool.add(results("bad", 20))

    async with bench.running("bad", "good", max_batch=10):
        await bench.clock.advance(100.0)
        early = len(bench.spool.buried)
        bench.spool.add(results("good", 3))
        await bench.clock.advance(300.0)

    assert early == 0
    assert len(bench.spool.buried) == 20
    assert bench.sink.stored == ["good-0", "good-1", "good-2"]


async def test_a_few_refused_results_are_believed(bench: Bench) -> None:
    refuses(bench)
    bench.spool.add(results("pumps", 7))

    async with bench.running("pumps"):
        await bench.clock.advance(1.0)

    assert len(bench.spool.buried) == 7


async def test_one_result_that_was_stored_makes_the_others_refusals_credible(bench: Bench) -> None:
    bench.sink.refuses = {f"pumps-{n}" for n in range(20) if n != 13}
    bench.spool.add(results("pumps", 20))

    async with bench.running("pumps"):
        await bench.clock.advance(1.0)

    assert len(bench.spool.buried) == 19
    assert bench.sink.stored == ["pumps-13"]


async def test_a_sink_that_stores_again_is_doubted_again(bench: Bench) -> None:
    bench.spool.add(results("pumps", 10))

    async with bench.running("pumps"):
        await bench.clock.advance(1.0)
        refuses(bench)
        bench.spool.add(results("pumps", 10, first=10))
        await bench.clock.advance(60.0)
        bench.is_up()
        await bench.clock.advance(600.0)
        refuses(bench)
        bench.spool.add(results("pumps", 10, first=20))
        await bench.clock.advance(60.0)

    assert bench.spool.buried == {}
    assert bench.sink.stored == [f"pumps-{n}" for n in range(20)]


def test_the_config_says_how_long() -> None:
    http = schema.HttpSink(url="http://cloud.example/events", refused_wait_s=7.0)

    assert UplinkConfig.of(http, repeat_s=3.0).refused_wait_s == 7.0
    assert UplinkConfig.of(schema.FileSink(path="-"), repeat_s=3.0).refused_wait_s == 3600.0
