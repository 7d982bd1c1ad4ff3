"""What the routes of one sink share: few questions while it is away, and no route held up by another's trouble."""

import asyncio

import pytest

from gatewayd.errors import SinkMisconfigured, SinkUnavailable
from gatewayd.gate import Gate, Room, Standing, reason_of
from tests.sim.clock import ManualClock, settle
from tests.sim.sink import Report

DOWN = SinkUnavailable("connection refused")


class Bench:
    """A gate, its clock, and what it reported."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.report = Report()
        self.gate = Gate(
            "cloud", retry_max_s=300.0, repeat_s=30.0, draw=lambda: 1.0, clock=self.clock, report=self.report
        )

    def enter(self) -> int:
        ticket = self.gate.enter()
        assert ticket is not None
        return ticket


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_requests_that_fail_together_count_as_one_failure(bench: Bench) -> None:
    standings = [Standing(f"route{n}") for n in range(20)]
    tickets = [bench.enter() for _ in standings]

    delays = [bench.gate.failed(ticket, standing, DOWN) for ticket, standing in zip(tickets, standings, strict=True)]

    assert delays == [1.0] * 20
    assert bench.report.turns == ["away: unavailable"]


async def test_a_late_wish_of_the_far_side_is_obeyed_too(bench: Bench) -> None:
    first, second = bench.enter(), bench.enter()
    bench.gate.failed(first, Standing("a"), DOWN)

    delay_s = bench.gate.failed(second, Standing("b"), SinkUnavailable("HTTP 429", retry_after_s=90.0))

    assert delay_s == 90.0
    await bench.clock.advance(89.9)
    assert bench.gate.enter() is None
    await bench.clock.advance(0.2)
    assert bench.gate.enter() is not None


async def test_while_it_is_away_one_request_at_a_time_asks(bench: Bench) -> None:
    bench.gate.failed(bench.enter(), Standing("a"), DOWN)
    await bench.clock.advance(1.0)

    tickets = [bench.gate.enter() for _ in range(20)]

    assert [ticket is not None for ticket in tickets] == [True] + [False] * 19


async def test_an_answer_to_a_request_of_before_does_not_open_the_gate(bench: Bench) -> None:
    slow, quick = bench.enter(), bench.enter()
    bench.gate.failed(quick, Standing("a"), DOWN)

    bench.gate.worked(slow, Standing("b"))

    assert bench.gate.is_away
    assert bench.gate.enter() is None


async def test_all_who_wait_go_on_when_the_one_who_asked_got_an_answer(bench: Bench) -> None:
    bench.gate.failed(bench.enter(), Standing("a"), DOWN)
    await bench.clock.advance(1.0)
    ticket, asker = bench.enter(), Standing("b")
    waiting = [asyncio.create_task(bench.gate.wait(Standing(f"route{n}"))) for n in range(5)]
    await settle()
    held = [task.done() for task in waiting]

    bench.gate.worked(ticket, asker)
    await settle()

    assert held == [False] * 5
    assert all(task.done() for task in waiting)
    assert bench.report.turns[-1] == "back after 1 s, 1 attempts"


async def test_a_second_route_that_fails_beside_the_first_closes_the_gate(bench: Bench) -> None:
    lone, other, good = Standing("lone", failures=3), Standing("other", failures=1), Standing("good")
    bench.gate.worked(bench.enter(), good)

    bench.gate.failed(bench.enter(), lone, DOWN)
    after_one = bench.gate.is_away
    bench.gate.failed(bench.enter(), other, DOWN)

    assert not after_one
    assert bench.gate.is_away


async def test_a_route_that_fails_alone_waits_longer_each_time(bench: Bench) -> None:
    lone = Standing("lone", failures=1)

    delays = [bench.gate.failed(bench.enter(), lone, DOWN) for _ in range(4)]

    assert delays == [2.0, 4.0, 8.0, 16.0]
    assert not bench.gate.is_away


async def test_the_route_that_failed_lets_the_others_ask_first_but_asks_when_they_do_not(bench: Bench) -> None:
    failing = Standing("failing")
    bench.gate.failed(bench.enter(), failing, DOWN)
    order: list[tuple[str, float]] = []

    async def wait(standing: Standing) -> None:
        await bench.gate.wait(standing)
        order.append((standing.route, bench.clock.monotonic()))

    tasks = [asyncio.create_task(wait(standing)) for standing in (failing, Standing("other"))]
    await bench.clock.advance(10.0)

    assert all(task.done() for task in tasks)
    assert order == [("other", 1.0), ("failing", 2.0)]


def test_room_halves_and_grows_back_slowly() -> None:
    room = Room(max_batch=256, max_batch_bytes=65_536, max_probe=16)

    room.shrink()
    shrunk = room.limits(probe=False)
    for _ in range(7):
        room.fitted()
    still = room.limits(probe=False)
    room.fitted()

    assert shrunk == still == (128, 32_768)
    assert room.limits(probe=False) == (256, 65_536)


def test_room_never_goes_below_one_result() -> None:
    room = Room(max_batch=256, max_batch_bytes=65_536, max_probe=16)

    for _ in range(100):
        room.shrink()

    assert room.limits(probe=False) == (1, 1024)


def test_a_probe_is_small_and_never_larger_than_a_batch() -> None:
    assert Room(max_batch=256, max_batch_bytes=65_536, max_probe=16).limits(probe=True)[0] == 16
    assert Room(max_batch=4, max_batch_bytes=65_536, max_probe=16).limits(probe=True)[0] == 4


@pytest.mark.parametrize(
    ("cause", "reason"),
    [(TimeoutError(), "timeout"), (SinkMisconfigured("401"), "misconfigured"), (DOWN, "unavailable")],
)
def test_reasons_are_few_and_stable(cause: Exception, reason: str) -> None:
    assert reason_of(cause) == reason
