"""Tiers of a cascade on this box, fast and slow; handlers that come and go; what a route looks like from outside."""

import asyncio
from pathlib import Path
from typing import Any

from gatewayd.answer import HandlerRunner
from gatewayd.cascade.shown import cascade_status, post_status
from gatewayd.wiring import build_handlers
from tests.sim.stages import until
from tests.sim.tiers import CLOUD, OPEN, STUDENT, FarTier, cascade

SURE = {"student": ["a", 0.95]}
UNSURE = {"student": ["a", 0.6]}


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
