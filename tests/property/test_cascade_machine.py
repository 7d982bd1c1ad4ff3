"""Whatever happens to a cascade, in any order: each provisional answer has one correction or a line in the books."""

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gatewayd.cascade.verdict import Question, Refusal, Verdict
from tests.sim.clock import ManualClock, settle
from tests.sim.tiers import CLOUD, STUDENT, CascadeRig, FarTier, cascade

GIANT = {"type": "handler", "handler": "giant", "options": {"name": "giant"}, "accept": 0.9}
TIERS = {"student": STUDENT, "giant": GIANT, "site": {**CLOUD, "place": "site"}, "cloud": CLOUD}
ROUTE = {"escalation": {"privacy": "cloud", "max_age_s": 300.0, "max_waiting": 6}, "retry_s": 5.0}

messages = st.fixed_dictionaries(
    {
        "student": st.tuples(st.sampled_from(["a", "b"]), st.sampled_from([0.5, 0.7, 0.95])),
        "giant": st.sampled_from([["a", 0.6], ["b", 0.99], "busy", "reject", "raise", None]),
    }
)
steps = st.one_of(
    st.tuples(st.just("send"), st.lists(messages, min_size=1, max_size=4)),
    st.tuples(st.just("away"), st.sampled_from(["site", "cloud"])),
    st.tuples(st.just("back"), st.sampled_from(["site", "cloud"])),
    st.tuples(st.just("says"), st.sampled_from(["sure", "unsure", "refused", "nonsense"])),
    st.tuples(st.just("pass"), st.sampled_from([1.0, 30.0, 400.0])),
    st.tuples(st.just("crash"), st.none()),
)


class World:
    """The far tiers, the clock and what was sent, over crashes."""

    def __init__(self) -> None:
        self.far = {"site": FarTier("site", "site"), "cloud": FarTier("cloud")}
        for tier in self.far.values():
            tier.answer = self._answer
        self.says = "sure"
        self.keys: list[str] = []
        self.clock = ManualClock()

    def _answer(self, question: Question) -> Verdict | Refusal:
        if self.says == "refused":
            return Refusal(reason="cannot")
        label = "banana" if self.says == "nonsense" else "b"
        return Verdict(tier="", label=label, scores={}, confidence=0.99 if self.says == "sure" else 0.2)

    async def step(self, rig: CascadeRig, step: tuple[str, Any]) -> None:
        name, given_ = step
        if name == "send":
            self.keys += rig.send(*given_)
        elif name == "says":
            self.says = given_
        elif name == "pass":
            await self.clock.advance(given_)
        else:
            self.far[given_].is_away = name == "away"
        await settle()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, min_size=1, max_size=12))
@example(
    [
        ("away", "site"),
        ("send", [{"student": ("a", 0.5), "giant": ["a", 0.6]}, {"student": ("a", 0.5), "giant": "busy"}]),
        ("pass", 30.0),
        ("crash", None),
        ("pass", 400.0),
        ("back", "site"),
    ]
)
async def test_each_provisional_answer_is_corrected_once_whatever_happens(script: list[tuple[str, Any]]) -> None:
    world = World()
    lives: list[list[tuple[str, Any]]] = [[]]
    for step in script:
        if step[0] == "crash":
            lives.append([])
        else:
            lives[-1].append(step)
    with tempfile.TemporaryDirectory() as folder:
        for number, life in enumerate(lives, 1):
            far = list(world.far.values())
            async with cascade(Path(folder), far, route=ROUTE, tiers=TIERS, clock=world.clock) as rig:
                for step in life:
                    await world.step(rig, step)
                await rig.acked(sum(len(given_) for name, given_ in life if name == "send"))
                if number == len(lives):
                    await _end(world, rig)


async def _end(world: World, rig: CascadeRig) -> None:
    """Everybody is back: wait until nothing waits, and look."""
    for tier in world.far.values():
        tier.is_away = False
    while (await rig.message_book()).get("journaled"):
        await world.clock.advance(1)
    results = await rig.results()
    book = await rig.message_book()
    provisional = {key for key, data in results.items() if data["provisional"]}
    corrected = {data["corrects"] for data in results.values() if "corrects" in data}
    assert set(world.keys) <= set(results)
    assert provisional == corrected
    assert len(results) == len(world.keys) + len(corrected)
    assert book == ({"received": len(world.keys), "handled": len(world.keys)} if world.keys else {})
    assert all(data["cause"] != "privacy" for data in results.values() if "cause" in data)
