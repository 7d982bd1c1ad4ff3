"""Routes that drain `live_first`: fresh results go before those that wait from an outage, each share in order."""

import asyncio
from collections.abc import Sequence

import pytest

from gatewayd.errors import SinkUnavailable
from gatewayd.ports import StoredResult
from tests.sim.spool import results
from tests.unit.test_uplink import Bench

LIVE_FIRST = frozenset({"pumps"})


@pytest.fixture
def bench() -> Bench:
    return Bench()


def numbers(keys: Sequence[str]) -> list[int]:
    return [int(key.partition("-")[2]) for key in keys]


def takes(bench: Bench, seconds: float) -> None:
    """Every request takes so long from here on."""
    send = bench.sink.send

    async def slow(batch: Sequence[StoredResult]) -> object:
        await bench.clock.sleep(seconds)
        return await send(batch)

    bench.sink.send = slow  # type: ignore[method-assign, assignment]


async def test_what_is_there_at_the_start_is_older_and_what_comes_meanwhile_goes_first(bench: Bench) -> None:
    bench.spool.add(results("pumps", 100))
    bench.spool.divide("cloud", "pumps")
    takes(bench, 1.0)

    async with bench.running("pumps", live_first=LIVE_FIRST, max_batch=10):
        await bench.clock.advance(2.5)  # the third request is under way
        bench.spool.add(results("pumps", 5, first=100))
        await bench.clock.advance(20.0)

    sent = numbers(bench.sink.stored)
    assert sorted(sent) == list(range(105))
    assert sent.index(100) <= 31
    assert [n for n in sent if n < 100] == list(range(100))
    assert [n for n in sent if n >= 100] == list(range(100, 105))


async def test_the_first_that_arrives_after_an_outage_is_a_fresh_one(bench: Bench) -> None:
    bench.is_down()

    async with bench.running("pumps", live_first=LIVE_FIRST):
        for n in range(100):
            bench.spool.add(results("pumps", 1, first=n))
            await bench.clock.advance(1.0)
        bench.is_up()
        for n in range(100, 400):
            bench.spool.add(results("pumps", 1, first=n))
            await bench.clock.advance(1.0)

    sent = numbers(bench.sink.stored)
    last_failed_s = max(at for at, _, _ in bench.sink.requests if at < 100)
    assert sorted(sent) == list(range(400))
    assert sent[0] > last_failed_s  # stored after the last request that failed
    waiting = [n for n in sent if n <= last_failed_s]
    assert waiting == sorted(waiting)


async def test_a_second_outage_makes_everything_that_waits_older(bench: Bench) -> None:
    bench.spool.add(results("pumps", 50))
    bench.spool.divide("cloud", "pumps")
    takes(bench, 1.0)

    async with bench.running("pumps", live_first=LIVE_FIRST, max_batch=10, timeout_s=50.0):
        await bench.clock.advance(1.5)
        bench.is_down()
        bench.spool.add(results("pumps", 20, first=50))
        await bench.clock.advance(60.0)
        bench.spool.add(results("pumps", 1, first=70))
        bench.is_up()
        await bench.clock.advance(200.0)

    sent = numbers(bench.sink.stored)
    assert sorted(sent) == list(range(71))
    before, after = sent[:10], sent[10:]
    assert before == list(range(10))
    assert after[0] == 70
    assert after[1:] == list(range(10, 70))


async def test_older_results_wait_while_live_ones_of_any_route_are_under_way(bench: Bench) -> None:
    bench.spool.add(results("pumps", 30))
    bench.spool.divide("cloud", "pumps")
    bench.spool.add(results("doors", 3))
    takes(bench, 1.0)

    async with bench.running("pumps", "doors", live_first=LIVE_FIRST | {"doors"}, max_batch=10):
        await bench.clock.advance(10.0)

    assert [route for _, route, _ in bench.sink.requests] == ["doors", "pumps", "pumps", "pumps"]
    assert [at for at, _, _ in bench.sink.requests] == [1.0, 2.0, 3.0, 4.0]


async def test_older_results_are_never_starved(bench: Bench) -> None:
    bench.spool.add(results("pumps", 40))
    bench.spool.divide("cloud", "pumps")
    takes(bench, 1.0)

    async with bench.running("pumps", live_first=LIVE_FIRST, max_batch=10, max_yield_s=3.0):
        for n in range(200):  # ten a second: there are always live ones
            bench.spool.add(results("pumps", 1, first=40 + n))
            await bench.clock.advance(0.1)

    older = [at for at, _, n in bench.sink.requests if n == 10][:4]
    assert len([n for n in numbers(bench.sink.stored) if n < 40]) == 40
    assert older[-1] <= 4 * (3.0 + 1.0) + 0.1


async def test_beside_endless_live_results_older_ones_have_a_third_of_the_time_of_a_quick_sink(bench: Bench) -> None:
    bench.spool.add(results("pumps", 400))
    bench.spool.divide("cloud", "pumps")
    takes(bench, 0.1)

    async with bench.running("pumps", live_first=LIVE_FIRST, max_batch=10, max_yield_s=60.0):
        await bench.clock.advance(0.05)
        for n in range(200):  # 100 a second: there are always live ones
            bench.spool.add(results("pumps", 1, first=400 + n))
            await bench.clock.advance(0.01)
        n_first = len([1 for number in numbers(bench.sink.stored) if number < 400])
        for n in range(600):
            bench.spool.add(results("pumps", 1, first=600 + n))
            await bench.clock.advance(0.01)

    older = [number for number in numbers(bench.sink.stored) if number < 400]
    assert 10 * 18 <= len(older) - n_first <= 10 * 22  # in six seconds
    assert older == list(range(len(older)))


async def test_live_results_that_the_far_side_chokes_on_do_not_hold_up_the_older_ones(bench: Bench) -> None:
    def chokes(batch: Sequence[StoredResult]) -> None:
        if batch[-1].row >= 30:
            raise SinkUnavailable("HTTP 500")

    bench.is_down()
    bench.spool.add(results("pumps", 30))

    async with bench.running("pumps", live_first=LIVE_FIRST, max_batch=10, retry_max_s=20.0):
        await bench.clock.advance(60.0)  # so that the pauses are long
        bench.sink.fault = chokes
        for n in range(300):  # there is always a live one, and it never goes
            bench.spool.add(results("pumps", 1, first=30 + n))
            await bench.clock.advance(1.0)

    assert numbers(bench.sink.stored) == list(range(30))


async def test_routes_with_the_strict_order_keep_it(bench: Bench) -> None:
    bench.spool.add(results("logs", 20))
    bench.is_down()

    async with bench.running("logs", "pumps", live_first=LIVE_FIRST, max_batch=5):
        await bench.clock.advance(30.0)
        bench.spool.add(results("logs", 20, first=20))
        bench.is_up()
        await bench.clock.advance(300.0)

    assert numbers(bench.sink.stored) == list(range(40))


async def test_nothing_is_left_running_when_it_is_cancelled_while_it_gives_way(bench: Bench) -> None:
    bench.spool.add(results("pumps", 10))
    bench.spool.divide("cloud", "pumps")
    bench.spool.add(results("pumps", 1, first=10))
    takes(bench, 100.0)

    async with bench.running("pumps", live_first=LIVE_FIRST, timeout_s=110.0, max_yield_s=50.0):
        await bench.clock.advance(1.0)

    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("uplink")] == []
