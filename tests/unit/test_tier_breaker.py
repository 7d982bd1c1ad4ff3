"""The circuit breaker of a tier: one probe while it is down, pauses kept to the second, and questions that choke it."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from gatewayd.cascade.remote.breaker import Breaker
from gatewayd.cascade.verdict import Refusal, Verdict
from gatewayd.config.tiers import HttpTier
from gatewayd.errors import TierUnavailable
from tests.sim.clock import ManualClock
from tests.sim.tier_servers import HttpTierServer, Report, Scripted, TierRig, asking, question, questions


@pytest.fixture
async def server() -> AsyncIterator[HttpTierServer]:
    server = HttpTierServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def rig(server: HttpTierServer) -> AsyncIterator[TierRig]:
    async with asking(HttpTier(url=server.url, max_batch=4, retry_max_s=300.0)) as rig:
        yield rig


async def fails(rig: TierRig, n: int = 3) -> float:
    """Ask, in vain; the pause that is asked for."""
    with pytest.raises(TierUnavailable) as caught:
        await rig.client.ask(questions(n))
    assert caught.value.retry_after_s is not None
    return caught.value.retry_after_s


async def test_a_tier_that_is_down_is_not_asked_until_its_pause_is_over(server: HttpTierServer, rig: TierRig) -> None:
    server.script.append(Scripted(503, headers={"Retry-After": "120"}))
    assert await fails(rig) == 120.0
    await rig.clock.advance(119.0)

    assert await fails(rig) == 1.0

    assert len(server.requests) == 1
    assert (rig.client.state, rig.client.reason) == ("down", "unavailable")


async def test_it_is_probed_with_one_question_and_the_others_follow(server: HttpTierServer, rig: TierRig) -> None:
    server.script.append(Scripted(503))
    await rig.clock.advance(await fails(rig, 6))

    answers = await rig.client.ask(questions(6))

    assert server.asked_ids[1:] == [["m-0"], ["m-1", "m-2", "m-3", "m-4"], ["m-5"]]
    assert all(isinstance(answer, Verdict) for answer in answers)
    assert rig.report.turns == ["down: unavailable", "up"]


async def test_while_it_is_probed_it_is_half_open_and_others_wait_for_the_probe(
    server: HttpTierServer, rig: TierRig
) -> None:
    server.script.append(Scripted(503))
    await rig.clock.advance(await fails(rig))
    server.gate = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(rig.client.ask([question("a")]))
        second = tasks.create_task(rig.client.ask([question("b")]))
        while server.n_at_once < 1:
            await asyncio.sleep(0.001)

        assert rig.client.state == "half-open"
        assert len(server.requests) == 2  # the one that failed, and the probe
        server.gate.set()

    assert isinstance(first.result()[0], Verdict)
    assert isinstance(second.result()[0], Verdict)
    assert rig.client.state == "up"


async def test_pauses_grow_while_it_stays_down_up_to_a_ceiling(server: HttpTierServer, rig: TierRig) -> None:
    server.fault = lambda events: Scripted(502)
    pauses = []
    for _ in range(12):
        pauses.append(await fails(rig))
        await rig.clock.advance(pauses[-1])

    assert pauses[:4] == [0.5, 1.0, 2.0, 4.0]  # each draw is one half of a ceiling that doubles
    assert pauses[-1] == 150.0
    assert len(server.requests) == 12


async def test_a_cancelled_probe_leaves_it_down_and_the_next_one_decides(server: HttpTierServer, rig: TierRig) -> None:
    server.script.append(Scripted(503))
    await rig.clock.advance(await fails(rig))
    server.gate = asyncio.Event()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await rig.client.ask([question()])
    assert rig.client.state == "down"
    server.gate = None

    [answer] = await rig.client.ask([question()])

    assert isinstance(answer, Verdict)


async def test_a_refusal_is_an_answer_and_brings_it_up(server: HttpTierServer, rig: TierRig) -> None:
    server.script.append(Scripted(503))
    await rig.clock.advance(await fails(rig))
    server.script.append(Scripted(422))

    [answer] = await rig.client.ask([question()])

    assert isinstance(answer, Refusal)
    assert rig.client.state == "up"


async def test_a_pause_is_kept_over_a_restart(server: HttpTierServer) -> None:
    kept: list[float] = []
    async with asking(HttpTier(url=server.url), hold=kept.append) as rig:
        server.script.append(Scripted(429, headers={"Retry-After": "60"}))
        await fails(rig)
    assert kept == [60.0]

    async with asking(HttpTier(url=server.url), held_s=45.0) as rig:
        assert (rig.client.state, await fails(rig)) == ("down", 45.0)
        await rig.clock.advance(45.0)
        [answer] = await rig.client.ask([question()])

    assert isinstance(answer, Verdict)
    assert len(server.requests) == 2


async def test_a_question_that_the_far_side_chokes_on_is_refused_and_holds_up_no_other(
    server: HttpTierServer, rig: TierRig
) -> None:
    """It answers 500 to one question, whoever else is in the request."""
    server.fault = lambda events: Scripted(500) if "m-0" in str(events) else None
    answered: dict[str, str] = {}
    waiting = questions(4)
    for _ in range(20):
        waiting = [each for each in waiting if each.key not in answered]
        if not waiting:
            break
        try:
            answers = await rig.client.ask([*waiting, question(f"new-{len(server.requests)}")])
        except TierUnavailable as exc:
            await rig.clock.advance(exc.retry_after_s or 0.0)
            continue
        for each, answer in zip(waiting, answers, strict=False):
            answered[each.key] = answer.label if isinstance(answer, Verdict) else answer.reason

    assert answered == {"m-0": "choked", "m-1": "faulty", "m-2": "faulty", "m-3": "faulty"}


async def test_a_tier_that_fails_at_everything_refuses_nothing(server: HttpTierServer, rig: TierRig) -> None:
    server.fault = lambda events: Scripted(500)

    for _ in range(20):
        await rig.clock.advance(await fails(rig))

    assert rig.report.refusals == []


async def test_what_goes_wrong_is_said_once_and_an_operator_is_told_what_to_do(server: HttpTierServer) -> None:
    server.fault = lambda events: Scripted(401)
    with capture_logs() as logs:
        async with asking(HttpTier(url=server.url), repeat_s=1000.0) as rig:
            for _ in range(3):
                await rig.clock.advance(await fails(rig))
            server.fault = lambda events: None
            await rig.client.ask([question()])

    assert [(log["log_level"], log["event"]) for log in logs] == [
        ("error", "tier is down"),
        ("info", "tier is up again"),
    ]
    assert logs[0]["hint"] == "check `token`: missing, wrong or expired"
    assert "bearing" not in str(logs)  # the payload


def breaker(clock: ManualClock) -> Breaker:
    return Breaker("far", retry_max_s=300.0, repeat_s=0.0, clock=clock, draw=lambda: 0.5, report=Report())


def test_of_requests_under_way_together_only_the_first_failure_counts() -> None:
    clock = ManualClock()
    tested = breaker(clock)
    first, second = tested.ticket(), tested.ticket()

    tested.failed(first, TierUnavailable("x"), "unavailable")
    again = tested.failed(second, TierUnavailable("x"), "unavailable")

    assert again.retry_after_s == 0.5  # and not the second pause


def test_an_answer_from_before_it_went_down_does_not_bring_it_up() -> None:
    tested = breaker(ManualClock())
    early, late = tested.ticket(), tested.ticket()
    tested.failed(late, TierUnavailable("x"), "unavailable")

    tested.worked(early)

    assert tested.state == "down"


async def test_the_longest_pause_that_was_asked_for_counts() -> None:
    clock = ManualClock()
    tested = breaker(clock)
    first, second = tested.ticket(), tested.ticket()
    tested.failed(first, TierUnavailable("x", retry_after_s=5.0), "unavailable")
    tested.failed(second, TierUnavailable("x", retry_after_s=50.0), "unavailable")
    await clock.advance(10.0)

    assert tested.rest_s == 40.0
    with pytest.raises(TierUnavailable):
        tested.begin_probe()
