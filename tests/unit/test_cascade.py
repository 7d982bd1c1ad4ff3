"""A route with tiers: answered at once, journaled while a better answer is missing, corrected exactly once."""

from pathlib import Path
from typing import Any

import pytest

from gatewayd.cascade.verdict import Refusal
from gatewayd.errors import TierSpent
from tests.sim.stages import until
from tests.sim.tiers import OPEN, FarTier, cascade

SURE = {"student": ["a", 0.95]}
UNSURE = {"student": ["a", 0.6]}


async def test_a_sure_answer_is_the_last_one_and_nobody_else_is_asked(tmp_path: Path) -> None:
    far = FarTier()
    async with cascade(tmp_path, [far]) as rig:
        (key,) = rig.send(SURE)

        await rig.settled(received=1, handled=1)

        data = (await rig.results())[key]
        assert (data["label"], data["tier"], data["confidence"], data["provisional"]) == ("a", "student", 0.95, False)
        assert "cause" not in data
        assert far.n_calls == 0


async def test_an_unsure_answer_goes_out_at_once_and_its_message_waits_in_the_journal(tmp_path: Path) -> None:
    far = FarTier()
    far.is_away = True
    async with cascade(tmp_path, [far]) as rig:
        (key,) = rig.send(UNSURE)

        await rig.acked(1)

        assert await rig.message_book() == {"received": 1, "journaled": 1}
        assert (await rig.results())[key] | {"latency_ms": 0} == {
            "label": "a",
            "score": 0.6,
            "scores": {"a": 0.6, "b": 0.4},
            "tier": "student",
            "confidence": 0.6,
            "provisional": True,
            "cause": "unsure",
            "latency_ms": 0,
        }
        await until(lambda: rig.ladder.n_waiting == 1)


async def test_a_better_answer_is_a_correction_linked_to_the_first(tmp_path: Path) -> None:
    far = FarTier()
    far.answer = lambda question: far.say("b")
    async with cascade(tmp_path, [far], route={**OPEN, "live": True}) as rig:
        (key,) = rig.send(UNSURE)

        await rig.settled(received=1, handled=1)

        data = (await rig.results())[f"{key}.final"]
        assert (data["label"], data["tier"], data["model"], data["confidence"]) == ("b", "cloud", "large", 0.99)
        assert (data["corrects"], data["changed"], data["provisional"], data["cause"]) == (key, True, False, "sure")
        assert data["asked"] == ["student", "cloud"]
        assert [properties["id"] for _, _, properties in rig.source.published] == [key, f"{key}.final"]
        await rig.counted("gatewayd.cascade.corrections", "r", "changed", n=1)


async def test_an_answer_that_was_right_is_confirmed(tmp_path: Path) -> None:
    async with cascade(tmp_path, [FarTier()]) as rig:
        (key,) = rig.send(UNSURE)

        await rig.settled(received=1, handled=1)

        assert (await rig.results())[f"{key}.final"]["changed"] is False
        await until(lambda: rig.ladder.n_waiting == 0)


async def test_what_waits_while_the_tier_is_away_is_asked_oldest_first_when_it_is_back(tmp_path: Path) -> None:
    far = FarTier()
    far.is_away = True
    async with cascade(tmp_path, [far]) as rig:
        keys = rig.send(*[UNSURE] * 40)
        await rig.settled(received=40, journaled=40)
        for _ in range(5):
            await rig.clock.advance(10)
        far.is_away = False
        await rig.clock.advance(10)

        await rig.settled(received=40, handled=40)

        assert far.keys == keys
        assert {len(questions) for questions in far.asked} == {16, 8}


async def test_the_wish_of_the_far_side_is_obeyed_to_the_second(tmp_path: Path) -> None:
    far = FarTier()
    far.is_away, far.retry_after_s = True, 600.0
    async with cascade(tmp_path, [far]) as rig:
        rig.send(UNSURE)
        await until(lambda: far.n_calls == 1)
        await rig.clock.advance(599)
        assert far.n_calls == 1

        await rig.clock.advance(2)

        await until(lambda: far.n_calls == 2)


async def test_a_correction_comes_after_a_crash_too_and_once(tmp_path: Path) -> None:
    far = FarTier()
    far.is_away = True
    async with cascade(tmp_path, [far]) as rig:
        keys = rig.send(UNSURE, SURE, UNSURE)
        await rig.settled(received=3, handled=1, journaled=2)

    async with cascade(tmp_path, [FarTier()]) as rig:
        await rig.settled(received=3, handled=3)

        assert sorted(await rig.results()) == sorted([*keys, f"{keys[0]}.final", f"{keys[2]}.final"])


async def test_a_message_may_not_go_where_privacy_does_not_let_it(tmp_path: Path) -> None:
    far = FarTier()
    async with cascade(tmp_path, [far], route={"escalation": {"privacy": "site"}}) as rig:
        (key,) = rig.send(UNSURE)

        await rig.settled(received=1, handled=1)

        data = (await rig.results())[key]
        assert (data["provisional"], data["cause"]) == (False, "privacy")
        assert far.n_calls == 0


async def test_a_refused_question_is_settled_with_the_local_answer(tmp_path: Path) -> None:
    far = FarTier()
    far.answer = lambda _: Refusal(reason="too_long")
    async with cascade(tmp_path, [far]) as rig:
        (key,) = rig.send(UNSURE)

        await rig.settled(received=1, handled=1)

        data = (await rig.results())[f"{key}.final"]
        assert (data["label"], data["tier"], data["cause"], data["changed"]) == ("a", "student", "refused", False)


async def test_a_label_that_is_none_of_the_local_ones_is_no_answer(tmp_path: Path) -> None:
    far = FarTier()
    far.answer = lambda _: far.say("banana")
    async with cascade(tmp_path, [far]) as rig:
        (key,) = rig.send(UNSURE)

        await rig.settled(received=1, handled=1)

        data = (await rig.results())[f"{key}.final"]
        assert (data["label"], data["cause"]) == ("a", "no_answer")


async def test_what_waited_too_long_is_settled_though_the_tier_is_away(tmp_path: Path) -> None:
    far = FarTier()
    far.is_away, far.retry_after_s = True, 80_000.0
    async with cascade(tmp_path, [far], route={"escalation": {"privacy": "cloud", "max_age_s": 60}}) as rig:
        (key,) = rig.send(UNSURE)
        await rig.settled(received=1, journaled=1)
        await until(lambda: far.n_calls == 1)

        await rig.clock.advance(61)

        await rig.settled(received=1, handled=1)
        assert (await rig.results())[f"{key}.final"]["cause"] == "expired"


@pytest.mark.parametrize(("when_spent", "book"), [("settle", {"handled": 3}), ("wait", {"handled": 1, "journaled": 2})])
async def test_a_spent_budget_settles_or_waits_for_the_next_day(
    tmp_path: Path, when_spent: str, book: dict[str, Any]
) -> None:
    far = FarTier()
    spent = [TierSpent("enough", retry_after_s=3600.0)] * 2
    far.raises = [spent[0]]
    n_answered = 0

    def answer(question: Any) -> Any:
        nonlocal n_answered
        if n_answered:
            raise spent[1]
        n_answered += 1
        return far.agree(question)

    far.answer = answer
    escalation = {"privacy": "cloud", "when_spent": when_spent}
    async with cascade(tmp_path, [far], route={"escalation": escalation, "batch": {"max_age_ms": 50}}) as rig:
        keys = rig.send(*[UNSURE] * 3)

        await rig.settled(received=3, **book)

        finals = {key: data["cause"] for key, data in (await rig.results()).items() if key.endswith(".final")}
        assert finals[f"{keys[0]}.final"] == "sure"
        assert set(finals.values()) == ({"sure", "budget"} if when_spent == "settle" else {"sure"})
        far.answer = far.agree
        await rig.clock.advance(3601)
        await rig.settled(received=3, handled=3)


async def test_beyond_max_waiting_the_local_answer_is_taken(tmp_path: Path) -> None:
    far = FarTier()
    far.is_away = True
    async with cascade(tmp_path, [far], route={"escalation": {"privacy": "cloud", "max_waiting": 2}}) as rig:
        rig.send(*[UNSURE] * 5)

        await rig.settled(received=5, handled=3, journaled=2)

        causes = [data.get("cause") for data in (await rig.results()).values()]
        assert sorted(map(str, causes)) == ["full"] * 3 + ["unsure"] * 2


async def test_what_expires_by_its_ttl_is_counted_and_no_longer_waits(tmp_path: Path) -> None:
    far = FarTier()
    far.is_away = True
    route = {"escalation": {"privacy": "cloud", "max_age_s": 1e6}, "ttl_s": 100.0}
    async with cascade(tmp_path, [far], route=route) as rig:
        rig.send(UNSURE)
        await rig.settled(received=1, journaled=1)
        await rig.clock.advance(200)

        await until(lambda: rig.ladder.n_waiting == 0)

        book = await rig.message_book()
        assert book in ({"received": 1, "expired": 1}, {"received": 1, "handled": 1})
