"""Token buckets and the line before them, on a clock that stands still until it is moved."""

import asyncio
import random

import pytest

from gatewayd.pace import Bucket, Pace, Rank
from tests.sim.clock import ManualClock, settle

OLD = Rank.of(is_live=False, priority=4)
LIVE = Rank.of(is_live=True, priority=4)
NEVER = float("inf")


def pace(clock: ManualClock, *, results: float = 0.0, n_bytes: float = 0.0) -> Pace:
    return Pace(max_results_per_s=results, max_bytes_per_s=n_bytes, clock=clock)


def test_a_bucket_without_a_rate_never_makes_anybody_wait() -> None:
    bucket = Bucket(0.0, 0.0)

    bucket.take(1e12)

    assert bucket.wait_s(0.0) == 0.0


def test_a_full_bucket_holds_one_seconds_worth() -> None:
    bucket = Bucket(10.0, 0.0)
    bucket.wait_s(3600.0)

    bucket.take(10.0)

    assert bucket.wait_s(3600.0) > 0
    assert bucket.wait_s(3600.1) == 0


def test_a_slow_bucket_holds_one_token_at_least() -> None:
    bucket = Bucket(0.5, 0.0)

    bucket.take(1.0)

    assert bucket.wait_s(0.0) > 0
    assert bucket.wait_s(1.9) == 0  # 0.95 of a token: whoever comes may go into debt


def test_debt_is_waited_for() -> None:
    bucket = Bucket(10.0, 0.0)

    bucket.take(60.0)

    assert bucket.wait_s(0.0) == pytest.approx(5.0, abs=0.001)


def test_what_is_given_back_fills_a_bucket_no_further_than_its_size() -> None:
    bucket = Bucket(10.0, 0.0)

    bucket.take(-1000.0)
    bucket.take(10.0)

    assert bucket.wait_s(0.0) > 0


def test_limits_are_one_seconds_worth_and_at_least_one_result() -> None:
    clock = ManualClock()

    assert pace(clock, results=10, n_bytes=2000).limits(256, 524_288) == (10, 2000)
    assert pace(clock, results=0.1).limits(256, 524_288) == (1, 524_288)
    assert pace(clock).limits(256, 524_288) == (256, 524_288)
    assert pace(clock, results=1e9, n_bytes=1e9).limits(256, 524_288) == (256, 524_288)


@pytest.mark.parametrize("seed", range(5))
async def test_over_a_minute_no_more_goes_than_the_rate_and_a_burst(seed: int) -> None:
    clock, draw = ManualClock(), random.Random(seed)
    paced = pace(clock, results=20.0, n_bytes=5_000.0)
    sent: list[tuple[int, int]] = []

    async def send() -> None:
        while True:
            limit, max_bytes = paced.limits(256, 524_288)
            n, size = draw.randint(1, limit), draw.randint(1, max_bytes)
            fare = await paced.take(n, size, rank=OLD, until_s=NEVER)
            assert fare is not None
            sent.append((n, size))
            paced.settle(fare, n_results=n, n_bytes=size)

    async with asyncio.TaskGroup() as tasks:
        senders = [tasks.create_task(send(), name=f"send[{n}]") for n in range(3)]
        await clock.advance(60.0)
        for task in senders:
            task.cancel()

    n_results, n_bytes = sum(n for n, _ in sent), sum(size for _, size in sent)
    assert n_results <= 20 * 62
    assert n_bytes <= 5_000 * 62
    assert n_results > 20 * 55 or n_bytes > 5_000 * 55  # one of the two was used up


async def test_fresh_results_go_before_a_backlog_and_a_higher_priority_before_a_lower() -> None:
    clock = ManualClock()
    paced = pace(clock, results=1.0)
    went: list[str] = []
    ranks = {
        "old, 4": OLD,
        "old, 9": Rank.of(is_live=False, priority=9),
        "fresh, 0": Rank.of(is_live=True, priority=0),
        "fresh, 4": LIVE,
        "old, 4, later": OLD,
    }

    async def send(name: str) -> None:
        await paced.take(1, 1, rank=ranks[name], until_s=NEVER)
        went.append(name)

    await paced.take(1, 1, rank=OLD, until_s=NEVER)
    async with asyncio.TaskGroup() as tasks:
        for name in ranks:
            tasks.create_task(send(name), name=name)
            await settle()
        await clock.advance(10.0)

    assert went == ["fresh, 4", "fresh, 0", "old, 9", "old, 4", "old, 4, later"]


async def test_whoever_waits_too_long_is_turned_away_and_takes_nothing() -> None:
    clock = ManualClock()
    paced = pace(clock, results=1.0)
    await paced.take(100, 1, rank=OLD, until_s=NEVER)

    async with asyncio.TaskGroup() as tasks:
        late = tasks.create_task(paced.take(1, 1, rank=LIVE, until_s=clock.monotonic() + 30.0), name="late")
        await clock.advance(31.0)
        assert late.result() is None
        patient = tasks.create_task(paced.take(1, 1, rank=OLD, until_s=NEVER), name="patient")
        await clock.advance(67.0)
        assert not patient.done()
        await clock.advance(2.0)

    assert patient.result() is not None


async def test_a_canceled_wait_leaves_the_line() -> None:
    clock = ManualClock()
    paced = pace(clock, results=1.0)
    await paced.take(5, 1, rank=OLD, until_s=NEVER)

    async with asyncio.TaskGroup() as tasks:
        gone = tasks.create_task(paced.take(1, 1, rank=LIVE, until_s=NEVER), name="gone")
        stays = tasks.create_task(paced.take(1, 1, rank=OLD, until_s=NEVER), name="stays")
        await settle()
        gone.cancel()
        await clock.advance(5.0)

    assert stays.result() is not None


async def test_what_compression_saved_lets_the_next_request_go_at_once() -> None:
    clock = ManualClock()
    paced = pace(clock, n_bytes=1000.0)
    fare = await paced.take(10, 3000, rank=OLD, until_s=NEVER)
    assert fare is not None

    paced.settle(fare, n_results=10, n_bytes=400)
    after = await paced.take(10, 1000, rank=OLD, until_s=clock.monotonic())

    assert after is not None


async def test_a_request_that_took_more_than_thought_is_paid_for() -> None:
    clock = ManualClock()
    paced = pace(clock, n_bytes=1000.0)
    fare = await paced.take(1, 500, rank=OLD, until_s=NEVER)
    assert fare is not None

    paced.settle(fare, n_results=1, n_bytes=6000)  # a handshake, and a second try

    assert await paced.take(1, 1, rank=OLD, until_s=clock.monotonic()) is None
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(clock.advance(6.0), name="time")
        assert await paced.take(1, 1, rank=OLD, until_s=NEVER) is not None
