"""Budgets of tiers: never over by more than one request, with clocks that are wrong in every way they can be."""

import asyncio
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatewayd.cascade.budgets import NOTHING, Budget, Limits, Prices, Reserved, Spending, Tally, nanos
from gatewayd.config.tiers import HttpTier
from tests.sim.clock import ManualClock, settle


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def calls(n: int) -> Spending:
    return Spending(n_calls=n)


class Rig:
    """A budget, and a clock that can be set to anything: each setting is a restart."""

    def __init__(self, now: str = "2026-11-21T12:00:00", limits: Limits | None = None) -> None:
        self.book = Tally()
        self.limits = limits or Limits(n_calls=10)
        self.set(now)

    def set(self, now: str, *, synced: bool | None = True) -> None:
        self.clock = ManualClock(seconds(now))
        self.clock.synced = synced
        self.budget = Budget("cloud", limits=self.limits, prices=Prices(), book=self.book, clock=self.clock)

    async def spend(self, amount: Spending) -> None:
        reserved = await self.budget.reserve(amount, most=amount)
        assert reserved is not None
        self.budget.settle(reserved, amount)


async def test_a_day_has_so_many_calls_and_the_next_one_as_many_again() -> None:
    rig = Rig()
    await rig.spend(calls(7))
    await rig.spend(calls(3))

    assert not rig.budget.allows(calls(1))
    assert await rig.budget.reserve(calls(1), most=calls(1)) is None
    assert rig.budget.rest_s() == 12 * 3600.0
    await rig.clock.advance(rig.budget.rest_s())
    assert rig.budget.spent() == NOTHING
    assert rig.budget.allows(calls(10))


@pytest.mark.parametrize("kind", Spending.__struct_fields__)
async def test_every_kind_has_a_limit_of_its_own(kind: str) -> None:
    rig = Rig(limits=Limits(**{kind: 100}))
    await rig.spend(Spending(**dict.fromkeys(Spending.__struct_fields__, 99)))

    assert rig.budget.allows(Spending(**{kind: 1}))
    assert not rig.budget.allows(Spending(**{kind: 2}))
    others = {name: 10**9 for name in Spending.__struct_fields__ if name != kind}
    assert rig.budget.allows(Spending(**others))


async def test_what_is_reserved_counts_and_what_was_not_taken_is_given_back() -> None:
    rig = Rig()
    reserved = await rig.budget.reserve(calls(8), most=calls(8))
    assert reserved is not None
    assert rig.budget.spent() == calls(8)
    assert not rig.budget.allows(calls(3))

    rig.budget.settle(reserved, calls(1))

    assert rig.budget.spent() == calls(1)


async def test_a_request_that_takes_more_than_was_thought_is_the_last() -> None:
    rig = Rig(limits=Limits(n_tokens=100))
    reserved = await rig.budget.reserve(Spending(n_tokens=90), most=Spending(n_tokens=500))
    assert reserved is not None

    rig.budget.settle(reserved, Spending(n_tokens=300))

    assert rig.budget.spent().n_tokens == 300
    assert await rig.budget.reserve(Spending(n_tokens=1), most=Spending(n_tokens=1)) is None


async def test_requests_go_side_by_side_while_all_of_them_fit_whatever_they_take() -> None:
    rig = Rig(limits=Limits(n_tokens=1000))
    expected, most = Spending(n_tokens=50), Spending(n_tokens=300)
    await rig.spend(Spending(n_tokens=60))

    first = await rig.budget.reserve(expected, most=most)
    second = await rig.budget.reserve(expected, most=most)
    async with asyncio.TaskGroup() as tasks:
        third = tasks.create_task(rig.budget.reserve(expected, most=most))
        await settle()
        fourth = tasks.create_task(rig.budget.reserve(expected, most=most))
        await settle()
        assert third.done()
        assert not fourth.done()  # 60 + 4 * 300 may be more than there is
        assert first is not None
        assert second is not None
        rig.budget.settle(first, Spending(n_tokens=60))
        rig.budget.settle(second, Spending(n_tokens=60))

    assert fourth.result() is not None
    assert rig.budget.spent().n_tokens == 60 + 60 + 60 + 2 * 50


async def test_what_requests_turned_out_to_take_is_what_the_next_may_take() -> None:
    rig = Rig(limits=Limits(n_tokens=1000))
    expected = Spending(n_tokens=10)
    await rig.spend(Spending(n_tokens=200))  # ten times as much as anybody thought

    first = await rig.budget.reserve(expected, most=Spending(n_tokens=20))
    assert first is not None
    async with asyncio.TaskGroup() as tasks:
        second = tasks.create_task(rig.budget.reserve(expected, most=Spending(n_tokens=20)))
        await settle()
        assert second.done()  # 200 + 2 * 400 is what there is
        third = tasks.create_task(rig.budget.reserve(expected, most=Spending(n_tokens=20)))
        await settle()
        assert not third.done()
        rig.budget.settle(first, expected)
        reserved = second.result()
        assert reserved is not None
        rig.budget.settle(reserved, expected)


async def test_the_first_request_goes_alone_for_nobody_knows_what_it_takes() -> None:
    rig = Rig(limits=Limits(n_tokens=1000))
    first = await rig.budget.reserve(Spending(n_tokens=1), most=Spending(n_tokens=1))
    assert first is not None
    async with asyncio.TaskGroup() as tasks:
        second = tasks.create_task(rig.budget.reserve(Spending(n_tokens=1), most=Spending(n_tokens=1)))
        await settle()
        assert not second.done()
        rig.budget.settle(first, Spending(n_tokens=900))

    assert second.result() is not None


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 400)), min_size=1, max_size=30),
    st.lists(st.integers(0, 3), max_size=60),
)
async def test_no_order_of_requests_goes_over_by_more_than_one(
    requests: list[tuple[int, int]], order: list[int]
) -> None:
    """Each request expects something, may take up to 400, and takes what it takes; several are under way at once."""
    rig = Rig(limits=Limits(n_tokens=1000))
    under_way: list[tuple[Reserved, int]] = []
    choices = iter(order)
    for expected, took in requests:
        while True:
            try:
                async with asyncio.timeout(0):
                    most = Spending(n_tokens=max(expected, 400))
                    reserved = await rig.budget.reserve(Spending(n_tokens=expected), most=most)
            except TimeoutError:  # it waits for one of those under way
                rig.budget.settle(*_finish(under_way, next(choices, 0)))
                continue
            if reserved is not None:
                under_way.append((reserved, took))
            break
    while under_way:
        rig.budget.settle(*_finish(under_way, next(choices, 0)))

    assert rig.budget.spent().n_tokens <= 1000 + 400


def _finish(under_way: list[tuple[Reserved, int]], index: int) -> tuple[Reserved, Spending]:
    reserved, took = under_way.pop(index % len(under_way))
    return reserved, Spending(n_tokens=took)


async def test_a_request_over_midnight_counts_for_the_day_it_began() -> None:
    rig = Rig("2026-11-21T23:59:59")
    reserved = await rig.budget.reserve(calls(4), most=calls(4))
    assert reserved is not None
    await rig.clock.advance(2.0)

    rig.budget.settle(reserved, calls(6))

    assert rig.budget.spent() == NOTHING
    assert rig.book.days("cloud") == {"2026-11-21": calls(6)}


@pytest.mark.parametrize("is_synced", [True, False, None])
async def test_a_clock_set_back_opens_no_budget_and_forgets_nothing(is_synced: bool | None) -> None:
    rig = Rig()
    await rig.spend(calls(10))

    rig.set("1970-01-01", synced=is_synced)
    assert not rig.budget.allows(calls(1))
    rig.set("2026-11-21T13:00:00")

    assert rig.budget.spent() == calls(10)


@pytest.mark.parametrize("now", ["2026-11-22", "2036-11-21"])
async def test_a_clock_that_jumps_ahead_opens_no_budget_until_it_is_synchronized(now: str) -> None:
    rig = Rig()
    await rig.spend(calls(10))

    rig.set(now, synced=False)

    assert not rig.budget.allows(calls(1))
    assert rig.budget.rest_s() == 60.0
    rig.clock.synced = True  # it was right after all
    assert rig.budget.allows(calls(10))


async def test_what_is_spent_before_the_clock_is_synchronized_gets_its_day_afterwards() -> None:
    rig = Rig("1970-01-01")
    rig.clock.synced = False
    under_way = await rig.budget.reserve(calls(3), most=calls(3))
    assert under_way is not None
    rig.clock._epoch = seconds("2026-11-21")
    rig.clock.synced = True
    assert rig.budget.spent() == calls(3)

    rig.budget.settle(under_way, calls(5))

    assert rig.book.days("cloud") == {"2026-11-21": calls(5)}


async def test_a_clock_of_which_nobody_can_say_is_believed() -> None:
    rig = Rig()
    await rig.spend(calls(10))

    rig.set("2026-11-22", synced=None)

    assert rig.budget.allows(calls(10))


async def test_without_limits_nothing_is_ever_spent_up_and_nobody_waits_for_the_disk() -> None:
    class Disk(Tally):
        async def keep(self) -> None:
            raise AssertionError("nobody asked for it")

    rig = Rig(limits=Limits())
    rig.book = Disk()
    rig.set("2026-11-21")

    await rig.spend(Spending(n_calls=10**12))

    assert rig.budget.allows(Spending(n_calls=10**12))


async def test_a_reservation_that_cannot_be_kept_is_none() -> None:
    class Disk(Tally):
        async def keep(self) -> None:
            await asyncio.Event().wait()

    rig = Rig()
    rig.book = Disk()
    rig.set("2026-11-21")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await rig.budget.reserve(calls(3), most=calls(3))

    assert rig.budget.spent() == NOTHING


def test_money_adds_up_exactly() -> None:
    config = HttpTier(url="http://x", max_cost_per_day=0.3, cost_per_call=0.1, cost_per_1k_tokens_in=0.15)
    limits, prices = Limits.of(config), Prices.of(config)
    three = sum((Spending(n_nanos=prices.nanos(n_calls=1, tokens_in=0, tokens_out=0)) for _ in range(3)), NOTHING)

    assert limits.allow(three)  # 0.1 + 0.1 + 0.1 > 0.3 in floating point
    assert not limits.allow(three + Spending(n_nanos=1))
    assert prices.nanos(n_calls=0, tokens_in=1, tokens_out=0) == 150_000
    assert nanos(0.3) == 300_000_000
