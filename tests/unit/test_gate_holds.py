"""A pause that the far side asked for, over a restart."""

from gatewayd.errors import SinkUnavailable
from gatewayd.gate import Gate, Standing
from tests.sim.clock import ManualClock, settle
from tests.sim.sink import Report


def gate(clock: ManualClock, kept: list[float], *, held_s: float = 0.0) -> Gate:
    return Gate(
        "cloud",
        retry_max_s=300.0,
        repeat_s=30.0,
        draw=lambda: 1.0,
        clock=clock,
        report=Report(),
        held_s=held_s,
        hold=kept.append,
    )


def fail(one: Gate, asked_s: float | None) -> None:
    ticket = one.enter()
    assert ticket is not None
    one.failed(ticket, Standing("a"), SinkUnavailable("HTTP 429", retry_after_s=asked_s))


async def test_a_gate_is_closed_for_what_is_left_of_a_pause() -> None:
    clock = ManualClock()
    one = gate(clock, [], held_s=40.0)

    await clock.advance(39.9)
    early = one.enter()
    await clock.advance(0.2)

    assert early is None
    assert one.enter() is not None


async def test_what_the_far_side_asks_for_is_kept_and_our_own_patience_is_not() -> None:
    kept: list[float] = []

    fail(gate(ManualClock(), kept), None)
    fail(gate(ManualClock(), kept), 0.2)
    assert kept == []
    fail(gate(ManualClock(), kept), 90.0)

    assert kept == [90.0]


async def test_a_late_wish_is_kept_too() -> None:
    kept: list[float] = []
    one = gate(ManualClock(), kept)
    first, second = one.enter(), one.enter()
    assert first is not None
    assert second is not None
    one.failed(first, Standing("a"), SinkUnavailable("connection refused"))

    one.failed(second, Standing("b"), SinkUnavailable("HTTP 429", retry_after_s=90.0))

    assert kept == [90.0]


async def test_a_sink_that_answers_after_the_pause_is_back() -> None:
    clock = ManualClock()
    one = gate(clock, [], held_s=5.0)
    await clock.advance(5.0)
    ticket = one.enter()
    assert ticket is not None

    one.worked(ticket, Standing("a"))
    await settle()

    assert not one.is_away
