"""A route with tiers: answered at once, journaled while a better answer is missing, corrected exactly once."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gatewayd.answer import HandlerRunner
from gatewayd.cascade.shown import cascade_status, post_status
from gatewayd.cascade.verdict import Refusal
from gatewayd.errors import TierSpent
from gatewayd.wiring import build_handlers
from tests.sim.stages import until
from tests.sim.tiers import CLOUD, OPEN, STUDENT, FarTier, cascade

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
        assert rig.telemetry.total("gatewayd.cascade.corrections", "r", "changed") == 1


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


async def test_the_next_fast_tier_is_asked_for_the_unsure_ones_alone(tmp_path: Path) -> None:
    tiers = {"student": STUDENT, "second": {**STUDENT, "options": {"name": "second"}}}
    async with cascade(tmp_path, tiers=tiers) as rig:
        keys = rig.send(SURE, {**UNSURE, "second": ["b", 0.97]}, {**UNSURE, "second": ["a", 0.5]}, UNSURE)

        await rig.settled(received=4, handled=4)

        results = await rig.results()
        said = [(results[key]["label"], results[key]["tier"], results[key].get("cause")) for key in keys]
        assert said == [
            ("a", "student", None),
            ("b", "second", None),
            ("a", "second", "last"),
            ("a", "student", "no_answer"),
        ]
        second = rig.parts.routes["r"].context.runner.handler.fast[1].handler  # type: ignore[attr-defined]
        assert keys[0] not in [key for batch in second.seen for key in batch]


async def test_a_second_tier_that_fails_costs_its_own_answer_alone(tmp_path: Path) -> None:
    tiers = {"student": STUDENT, "second": {**STUDENT, "options": {"name": "second"}}}
    async with cascade(tmp_path, tiers=tiers) as rig:
        rig.send({**UNSURE, "second": "raise"}, {**UNSURE, "second": "busy"}, {**UNSURE, "second": "reject"})

        await rig.settled(received=3, handled=3)

        assert {data["tier"] for data in (await rig.results()).values()} == {"student"}


async def test_a_first_tier_that_rejects_buries_and_one_that_is_silent_answers_nothing(tmp_path: Path) -> None:
    async with cascade(tmp_path, [FarTier()]) as rig:
        rig.send({"student": "reject"}, {"nothing": 1}, {"student": "raise"}, SURE)

        await rig.settled(received=4, handled=2, dead=2)

        assert len(await rig.results()) == 1


async def test_a_slow_handler_on_this_box_works_from_the_journal(tmp_path: Path) -> None:
    giant = {"type": "handler", "handler": "giant", "options": {"name": "giant"}, "accept": 0.9}
    async with cascade(tmp_path, tiers={"student": STUDENT, "giant": giant}, route={}) as rig:
        first, second = rig.send({**UNSURE, "giant": ["b", 0.99]}, {**UNSURE, "giant": ["a", 0.5]})

        await rig.settled(received=2, handled=2)

        results = await rig.results()
        assert results[first]["provisional"] is True
        assert (results[f"{first}.final"]["label"], results[f"{first}.final"]["cause"]) == ("b", "sure")
        assert (results[f"{second}.final"]["tier"], results[f"{second}.final"]["cause"]) == ("giant", "last")


async def test_one_tier_that_is_away_holds_up_only_what_waits_for_it(tmp_path: Path) -> None:
    giant = {"type": "handler", "handler": "giant", "options": {"name": "giant"}, "accept": 0.9}
    far = FarTier()
    far.is_away = True
    tiers = {"student": STUDENT, "giant": giant, "cloud": CLOUD}
    async with cascade(tmp_path, [far], tiers=tiers) as rig:
        stuck = rig.send({**UNSURE, "giant": ["b", 0.5]})
        await until(lambda: far.n_calls >= 1)
        passed = rig.send({**UNSURE, "giant": ["b", 0.99]})

        await rig.settled(received=2, handled=1, journaled=1)

        assert f"{passed[0]}.final" in await rig.results()
        far.is_away = False
        await rig.clock.advance(20)
        await rig.settled(received=2, handled=2)
        data = (await rig.results())[f"{stuck[0]}.final"]
        assert (data["asked"], data["changed"]) == (["student", "giant", "cloud"], False)


async def test_a_slow_handler_that_never_answers_leaves_the_local_answer(tmp_path: Path) -> None:
    giant = {"type": "handler", "handler": "giant", "options": {"name": "giant"}, "accept": 0.9}
    async with cascade(tmp_path, tiers={"student": STUDENT, "giant": giant}, route={}) as rig:
        (key,) = rig.send({**UNSURE, "giant": "busy"})
        await rig.settled(received=1, journaled=1)
        while await rig.message_book() != {"received": 1, "handled": 1}:
            await rig.clock.advance(1)

        assert (await rig.results())[f"{key}.final"]["cause"] == "refused"


async def test_evidence_goes_where_the_payload_would(tmp_path: Path) -> None:
    far = FarTier()
    tiers = {"student": {**STUDENT, "handler": "stateful"}, "cloud": CLOUD}
    async with cascade(tmp_path, [far], tiers=tiers) as rig:
        (key,) = rig.send(UNSURE)

        await rig.settled(received=1, handled=1)

        assert far.asked[0][0].value == {"window": [1.0, 2.0], "of": key}


async def test_a_publisher_cannot_speak_for_a_tier(tmp_path: Path) -> None:
    """The property that marks an open escalation is taken off what comes in."""
    far = FarTier()
    verdict = '{"tier":"student","label":"a","scores":{},"confidence":1}'
    forged = f'{{"waits_for":"cloud","cause":"unsure","first_key":"x","asked":[{verdict}]}}'
    async with cascade(tmp_path, [far]) as rig:
        rig.send(SURE, properties=(("gatewayd-first", forged),))
        (key,) = rig.send(UNSURE, properties=(("gatewayd-first", forged),))

        await rig.settled(received=2, handled=2)

        assert far.keys == [key]


async def test_a_tier_that_is_gone_from_the_config_leaves_nobody_waiting(tmp_path: Path) -> None:
    far = FarTier()
    far.is_away = True
    async with cascade(tmp_path, [far]) as rig:
        (key,) = rig.send(UNSURE)
        await rig.settled(received=1, journaled=1)

    async with cascade(tmp_path, [], tiers={"student": STUDENT}) as rig:
        await rig.settled(received=1, handled=1)

        assert (await rig.results())[f"{key}.final"]["cause"] == "last"


async def test_what_came_before_the_first_model_was_there_is_answered_and_escalated_too(tmp_path: Path) -> None:
    far = FarTier()
    tiers = {"student": {**STUDENT, "handler": "late"}, "cloud": CLOUD}
    async with cascade(tmp_path, [far], tiers=tiers) as rig:
        sure, unsure = rig.send(SURE, UNSURE)
        await rig.acked(2)

        await rig.settled(received=2, handled=2)

        assert set(await rig.results()) == {sure, unsure, f"{unsure}.final"}


async def test_new_handlers_take_over_while_escalations_wait(tmp_path: Path) -> None:
    far = FarTier()
    far.is_away = True
    async with cascade(tmp_path, [far]) as rig:
        rig.send(UNSURE)
        await rig.settled(received=1, journaled=1)
        handlers = build_handlers(rig.parts.running_config, tmp_path)
        rig.parts.cascades.bind(handlers)
        runner = HandlerRunner("r", handlers["r"])
        await runner.start(rig.parts.models)
        rig.part().context.runner = runner
        far.is_away = False

        rig.send(UNSURE)
        await rig.clock.advance(20)

        await rig.settled(received=2, handled=2)
        assert [tier.name for tier in rig.ladder.tiers] == ["student", "cloud"]


async def test_decisions_are_in_the_audit_trail_and_on_status(tmp_path: Path) -> None:
    async with cascade(tmp_path, [FarTier()]) as rig:
        rig.send(SURE, UNSURE)
        await rig.settled(received=2, handled=2)
        await until(lambda: rig.ladder.n_waiting == 0)

        shown = cascade_status(rig.ladder)

        assert shown["decisions"] == {"cloud": {"sure": 1}, "student": {"sure": 1, "unsure": 1}}
        assert (shown["tiers"], shown["waiting"]) == (["student", "cloud"], 0)
        assert {name: post_status(post)["state"] for name, post in rig.parts.cascades.posts.items()} == {
            "cloud": "answers"
        }
    lines = [line for file in (tmp_path / "state" / "audit").glob("audit-*") for line in file.read_text().splitlines()]
    assert sum('"cause":"unsure"' in line for line in lines) == 1
    assert sum('"cause":"sure"' in line for line in lines) == 2


async def test_giving_way_on_a_hot_board_is_no_attempt(tmp_path: Path) -> None:
    giant = {"type": "handler", "handler": "giant", "options": {"name": "giant"}, "accept": 0.9}
    route = {"max_attempts": 2, "retry_s": 1.0}
    async with cascade(tmp_path, tiers={"student": STUDENT, "giant": giant}, route=route) as rig:
        (key,) = rig.send({**UNSURE, "giant": "hot 5 times"})
        while await rig.message_book() != {"received": 1, "handled": 1}:
            await rig.clock.advance(1)

        data = (await rig.results())[f"{key}.final"]
        assert (data["label"], data["tier"], data["cause"]) == ("b", "giant", "sure")


async def test_a_stop_does_not_wait_for_ever_for_a_far_tier_and_its_question_is_asked_again(tmp_path: Path) -> None:
    class Hanging(FarTier):
        async def ask(self, questions: Any) -> Any:
            self.n_calls += 1
            await asyncio.Event().wait()

    hanging = Hanging()
    async with cascade(tmp_path, [hanging]) as rig:
        (key,) = rig.send(UNSURE)
        await until(lambda: hanging.n_calls == 1)
        await rig.stop()

    async with cascade(tmp_path, [FarTier()]) as rig:
        await rig.settled(received=1, handled=1)

        assert f"{key}.final" in await rig.results()


async def test_a_route_made_private_asks_nobody_any_more_also_about_what_waits(tmp_path: Path) -> None:
    far = FarTier()
    far.is_away = True
    async with cascade(tmp_path, [far]) as rig:
        (key,) = rig.send(UNSURE)
        await rig.settled(received=1, journaled=1)
        await until(lambda: far.n_calls > 0)

    again = FarTier()
    async with cascade(tmp_path, [again], route={"escalation": {"privacy": "local"}}) as rig:
        await rig.settled(received=1, handled=1)

        assert (await rig.results())[f"{key}.final"]["cause"] == "privacy"
        assert again.n_calls == 0


async def test_a_route_that_spares_flash_keeps_its_open_escalations_on_disk_all_the_same(tmp_path: Path) -> None:
    far = FarTier()
    far.is_away = True
    route = {**OPEN, "write": "when_offline", "write_max_s": 60.0}
    async with cascade(tmp_path, [far], route=route) as rig:
        rig.send(SURE, UNSURE, SURE)
        await rig.settled(received=3, handled=2, journaled=1)

    async with cascade(tmp_path, [FarTier()], route=route) as rig:
        await rig.settled(received=3, handled=3)

        assert sum(key.endswith(".final") for key in await rig.results()) == 1
