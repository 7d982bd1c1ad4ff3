"""Deadlines: what comes too late to be worth an answer is buried, counted, and never early; calls carry a priority."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gatewayd.api import Batch, Completion, Result
from gatewayd.errors import TransientError
from gatewayd.models.view import RouteModels, RouteText
from gatewayd.ports import RawMessage
from gatewayd.terms import Arrivals, Terms
from tests.sim.clock import BentClock
from tests.sim.handlers import Scripted, echo, summarize
from tests.sim.stages import stages, until

DEADLINE = {"r": {"deadline_s": 10.0}}


def raw(time: float) -> RawMessage:
    return RawMessage(topic="t", payload=b"", time=time, key=str(time))


def test_an_age_is_what_has_passed_since_the_arrival() -> None:
    clock = BentClock(now=2_000_000_000.0)
    arrivals = Arrivals(clock)
    message = raw(clock.now())

    clock.wall += 7
    clock.uptime_s += 7

    assert arrivals.ages_s([message]) == [7.0]


def test_a_clock_that_is_set_ahead_makes_nothing_old_that_arrived_before() -> None:
    clock = BentClock(now=1_800_000_000.0)
    arrivals = Arrivals(clock)
    before = raw(clock.now())
    clock.wall += 3 + 200_000_000
    clock.uptime_s += 3
    after = raw(clock.now())
    arrivals.ages_s([])
    clock.wall += 5
    clock.uptime_s += 5

    assert arrivals.ages_s([before, after]) == [8.0, 5.0]


def test_a_clock_that_is_set_back_makes_what_arrived_before_young_and_never_late() -> None:
    clock = BentClock(now=1_800_000_000.0)
    arrivals = Arrivals(clock)
    before = raw(clock.now())

    clock.wall += 3 - 1000
    clock.uptime_s += 3

    [age_s] = arrivals.ages_s([before])
    assert age_s <= 3.0


def test_the_most_pressing_of_a_batch_says_how_long_its_answer_is_worth_anything() -> None:
    clock = BentClock(now=1_800_000_000.0)
    terms = Terms("r", 4, 10.0, clock)
    raws = [raw(clock.now() - 11), raw(clock.now() - 9), raw(clock.now() - 2)]

    in_time, dead = terms.begin(raws)
    left_s = terms.left_s()
    clock.uptime_s += 4

    assert [list(in_time), [letter.reason for letter in dead]] == [raws[1:], ["deadline"]]
    assert left_s == pytest.approx(1.0)
    assert terms.left_s() == pytest.approx(-3.0)


def test_a_window_is_late_as_a_whole_when_its_last_message_is() -> None:
    clock = BentClock(now=1_800_000_000.0)
    terms = Terms("r", 4, 10.0, clock)
    raws = [raw(clock.now() - 50), raw(clock.now() - 9)]

    in_time, dead = terms.begin(raws, is_window=True)
    clock.wall += 2
    clock.uptime_s += 2
    later, all_dead = terms.begin(raws, is_window=True)

    assert (list(in_time), dead) == (raws, [])
    assert (list(later), len(all_dead)) == ([], 2)


async def test_what_waited_too_long_in_the_queue_is_buried_and_its_neighbor_answered(tmp_path: Path) -> None:
    handler = Scripted()
    async with stages(tmp_path, {"r": handler}, DEADLINE, started=False) as rig:
        rig.send("old")
        await rig.clock.advance(10.5)
        rig.send("new")
        rig.start()

        await rig.settled(received=2, handled=1, dead=1)

        assert rig.dead() == [("deadline", b'"old"')]
        assert [value for batch in handler.batches for value in batch] == ["new"]
        await rig.counted("gatewayd.messages.buried", "r", "deadline", n=1)


async def test_what_waited_too_long_in_the_journal_is_buried_and_the_route_goes_on(tmp_path: Path) -> None:
    def slow(batch: Batch) -> list[Result]:
        if batch.messages[0].value == "first":
            raise TransientError("busy")
        return echo(batch)

    routes = {"r": {"deadline_s": 10.0, "mode": "journaled", "batch": {"max_messages": 1}, "max_attempts": 2}}
    async with stages(tmp_path, {"r": Scripted(slow)}, routes) as rig:
        rig.part().context.draw = lambda: 0.9999
        n_others = rig.clock.n_sleeping
        rig.send("first", "second")
        await until(lambda: len(rig.source.acked) == 2 and rig.clock.n_sleeping > n_others)

        await rig.clock.advance(11)  # the pause before the second attempt, and more
        rig.send("third")

        await rig.settled(received=3, handled=1, dead=2)
        assert sorted(rig.dead()) == [("attempts", b'"first"'), ("deadline", b'"second"')]


async def test_a_late_window_is_buried_with_its_reason(tmp_path: Path) -> None:
    routes = {"r": {"mode": "journaled", "deadline_s": 20.0, "window": {"every_s": 10.0}}}
    async with stages(tmp_path, {"r": Scripted(summarize)}, routes, started=False) as rig:
        rig.send(1, 2)
        await rig.clock.advance(60)
        rig.start()

        await rig.settled(received=2, journaled=2)
        await rig.clock.advance(60)

        await rig.settled(received=2, dead=2)
        assert {reason for reason, _ in rig.dead()} == {"deadline"}


class Session:
    """Implements api.TextSession, and remembers what it was asked."""

    scheduled = frozenset({"complete", "choose"})
    context_tokens = 99
    other = "passed on"

    def __init__(self) -> None:
        self.calls: list[Mapping[str, Any]] = []

    def complete(self, prompt: str, **options: Any) -> Completion:
        self.calls.append({"prompt": prompt, **options})
        return Completion(text="", tokens_in=0, tokens_out=0)

    def choose(self, prompt: str, **options: Any) -> str:
        self.calls.append({"choose": prompt, **options})
        return "a"

    def count_tokens(self, text: str) -> int:
        return len(text)


class Plain(Session):
    scheduled = frozenset()  # one that knows nothing of slots


class Store:
    """Implements api.Models and api.Model with one session."""

    name, version, labels, input, calibration = "llm", "1", ("a",), {"x": 1}, {"y": 2}

    def __init__(self, session: Session) -> None:
        self.session = session

    def get(self, name: str) -> "Store":
        return self

    def file(self, role: str) -> str:
        return role

    def tensors(self) -> str:
        return "tensors"

    def text(self) -> Session:
        return self.session


def viewed(session: Session, deadline_s: float | None = None) -> tuple[RouteText, Terms, BentClock]:
    clock = BentClock(now=1_800_000_000.0)
    terms = Terms("r", 7, deadline_s, clock)
    model = RouteModels(Store(session), terms).get("llm")  # type: ignore[arg-type]
    assert (model.name, model.labels, model.input, model.file("x"), model.tensors()) == (
        *("llm", ("a",), {"x": 1}, "x"),
        "tensors",
    )
    return model.text(), terms, clock


def test_a_route_s_calls_carry_its_priority_the_scheduled_ones_alone() -> None:
    session = Session()
    text, _, _ = viewed(session)

    text.complete("p", max_tokens=3)
    text.choose("q")
    n_tokens = text.count_tokens("abc")

    assert session.calls == [
        {"prompt": "p", "max_tokens": 3, "priority": 7},
        {"choose": "q", "priority": 7},
    ]
    assert (n_tokens, text.context_tokens, text.other) == (3, 99, "passed on")


def test_a_session_without_slots_is_called_as_the_api_says() -> None:
    session = Plain()
    text, _, _ = viewed(session)

    text.complete("p", max_tokens=3)

    assert session.calls == [{"prompt": "p", "max_tokens": 3}]


def test_a_call_gets_no_more_time_than_the_deadline_leaves_and_none_after_it() -> None:
    session = Session()
    text, terms, clock = viewed(session, deadline_s=30.0)
    terms.begin([raw(clock.now() - 10)])

    text.complete("p", timeout_s=50)
    text.complete("p", timeout_s=5)
    clock.uptime_s += 21
    with pytest.raises(TransientError, match="deadline"):
        text.complete("p")

    assert [call["timeout_s"] for call in session.calls] == [pytest.approx(20.0), 5]
