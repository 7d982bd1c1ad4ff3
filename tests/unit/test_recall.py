"""What a tier has answered before is not asked again: where its config says so, and only the same question."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gatewayd.cascade.recall import Mode, Recall, ask_once, template_of
from gatewayd.cascade.verdict import Question, Refusal, Verdict
from gatewayd.errors import TierUnavailable
from tests.sim.tiers import CLOUD, STUDENT, FarTier, cascade

FIRST = Verdict(tier="student", label="a", scores={"a": 0.6, "b": 0.4}, confidence=0.6)
ANSWER = Verdict(tier="cloud", label="b", scores={"b": 1.0}, confidence=1.0, n_bytes=900, cost=0.01, tokens_in=40)


def question(value: Any, topic: str = "t", labels: tuple[str, ...] = ("a", "b")) -> Question:
    return Question(key="k", topic=topic, value=value, time=0.0, labels=labels, first=FIRST)


def recall(mode: Mode = "template", max_answers: int = 10, max_age_s: float = 60.0) -> Recall:
    return Recall(mode, max_answers=max_answers, max_age_s=max_age_s)


class Far:
    """Answers, and keeps what it was asked."""

    def __init__(self, answer: Verdict | Refusal = ANSWER) -> None:
        self.answer = answer
        self.values: list[Any] = []

    async def ask(self, questions: Sequence[Question]) -> Sequence[Verdict | Refusal]:
        self.values += [each.value for each in questions]
        return [self.answer] * len(questions)


@pytest.mark.parametrize(
    ("mode", "one", "other", "same"),
    [
        ("exact", question("pump 3 failed"), question("pump 3 failed"), True),
        ("exact", question("pump 3 failed"), question("pump 4 failed"), False),
        ("exact", question("pump 3 failed"), question("pump 3 failed", topic="u"), False),
        ("template", question("pump 3 failed at 0x1f"), question("pump 12 failed at 0xbeef01", topic="u"), True),
        ("template", question("pump 3 failed"), question("valve 3 failed"), False),
        ("template", question("pump 3 failed"), question("pump 3 failed", labels=("a", "c")), False),
        ("template", question({"temperature": 20}), question({"temperature": 95}), False),
        ("template", question({"temperature": 20}), question({"temperature": 20}), True),
    ],
)
def test_which_questions_are_the_same(mode: Mode, one: Question, other: Question, same: bool) -> None:
    known = recall(mode)

    assert (known.key(one) == known.key(other)) is same


def test_numbers_are_read_as_zero_and_words_stay() -> None:
    assert template_of("core.128 at 0xDEAD on R02-M1 cache") == "core.0 at 0 on R0-M0 cache"


async def test_a_question_is_put_once_and_the_answer_given_again_costs_nothing() -> None:
    known, far = recall(), Far()

    first, n_first = await ask_once(known, [question("line 1"), question("line 2"), question("other")], far.ask, 0.0)
    again, n_again = await ask_once(known, [question("line 3")], far.ask, 1.0)

    assert far.values == ["line 1", "other"]
    assert (n_first, n_again) == (1, 1)
    assert first[0] == ANSWER
    given = first[1]
    assert isinstance(given, Verdict)
    assert (given.label, given.cost, given.n_bytes, given.tokens_in) == ("b", 0.0, 0, 0)
    assert again == [given]


async def test_an_answer_that_is_too_old_is_asked_for_again() -> None:
    known, far = recall(max_age_s=60.0), Far()
    await ask_once(known, [question("x")], far.ask, 0.0)

    await ask_once(known, [question("x")], far.ask, 60.0)
    await ask_once(known, [question("x")], far.ask, 121.0)

    assert far.values == ["x", "x"]


async def test_it_is_bounded_and_the_one_used_longest_ago_goes() -> None:
    known, far = recall(max_answers=2), Far()
    for value in ("a", "b", "a", "c", "a", "b"):
        await ask_once(known, [question(value)], far.ask, 0.0)

    assert far.values == ["a", "b", "c", "b"]
    assert len(known) == 2


async def test_a_refusal_is_not_remembered() -> None:
    known, far = recall(), Far(Refusal(reason="too_large"))

    await ask_once(known, [question("x")], far.ask, 0.0)
    await ask_once(known, [question("x")], far.ask, 0.0)

    assert far.values == ["x", "x"]


async def test_nothing_is_remembered_of_a_tier_that_is_away() -> None:
    async def away(_questions: Sequence[Question]) -> Sequence[Verdict | Refusal]:
        raise TierUnavailable("nobody there")

    known, far = recall(), Far()
    with pytest.raises(TierUnavailable):
        await ask_once(known, [question("x")], away, 0.0)

    await ask_once(known, [question("x")], far.ask, 0.0)

    assert far.values == ["x"]


async def test_in_a_cascade_every_message_is_corrected_and_the_tier_is_asked_once(tmp_path: Path) -> None:
    far = FarTier()
    far.answer = lambda question: far.say("b")
    tiers = {"student": STUDENT, "cloud": {**CLOUD, "recall": "exact"}}
    async with cascade(tmp_path, [far], tiers=tiers) as rig:
        keys = [rig.send({"student": ["a", 0.6]})[0] for _ in range(5)]

        await rig.settled(received=5, handled=5)

        results = await rig.results()
        assert [results[f"{key}.final"]["label"] for key in keys] == ["b"] * 5
        assert len(far.keys) == 1
        await rig.counted("gatewayd.tier.recalled", "cloud", n=4)


async def test_without_the_option_every_question_is_asked(tmp_path: Path) -> None:
    far = FarTier()
    async with cascade(tmp_path, [far]) as rig:
        for _ in range(3):
            rig.send({"student": ["a", 0.6]})

        await rig.settled(received=3, handled=3)

        assert len(far.keys) == 3
