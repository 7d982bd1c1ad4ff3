"""Notes, ages, posts, verdicts read from results, and what a config with tiers may say."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.api import Batch, Model, ModelError, Models, Result
from gatewayd.cascade.corrections import correction
from gatewayd.cascade.local import HandlerClient
from gatewayd.cascade.note import PROPERTY, Born, Note, read_note, with_note, without_note
from gatewayd.cascade.post import Post
from gatewayd.cascade.reading import Calibrations, verdict_of
from gatewayd.cascade.verdict import Decision, Verdict
from gatewayd.config.load import examine_text
from gatewayd.errors import TierMisconfigured, TierSpent, TierUnavailable
from gatewayd.ports import RawMessage
from tests.sim.clock import BentClock, ManualClock
from tests.sim.handlers import Options
from tests.sim.tier_servers import Report, question
from tests.sim.tiers import FarTier

RAW = RawMessage(topic="t/a", payload=b"{}", time=1.0, key="k", properties=(("color", "red"),), receipt=7)
FIRST = Verdict(tier="student", label="a", scores={"a": 0.6, "b": 0.4}, confidence=0.6, kind="anomaly")
NOTE = Note(waits_for="cloud", cause="unsure", first_key="k", asked=(FIRST,))


def test_a_note_survives_the_journal_and_leaves_the_message_as_it_was() -> None:
    noted = with_note(RAW, NOTE)

    assert read_note(noted) == NOTE
    assert noted.receipt is None
    assert without_note(noted).properties == RAW.properties


def test_a_message_has_one_note_and_it_is_the_last() -> None:
    second = Note(waits_for="giant", cause="novel", first_key="k", asked=(FIRST, FIRST), n_local=2)

    noted = with_note(with_note(RAW, NOTE), second)

    assert read_note(noted) == second
    assert len(noted.properties) == 2


@given(st.text())
def test_what_is_no_note_is_read_as_none(text: str) -> None:
    raw = RawMessage(topic="t", payload=b"", time=0.0, key="k", properties=((PROPERTY, text),))

    assert read_note(raw) is None


@pytest.mark.parametrize("n_local", [0, 2])
def test_a_note_that_names_an_answer_it_does_not_have_is_none(n_local: int) -> None:
    note = Note(waits_for="cloud", cause="unsure", first_key="k", asked=(FIRST,), n_local=n_local)

    assert read_note(with_note(RAW, note)) is None


def test_within_a_boot_the_wall_clock_makes_nobody_older() -> None:
    clock = BentClock()
    born = Born.now(clock)
    clock.pass_s(10)

    clock.wall += 10 * 365 * 86400

    assert born.age_s(clock) == pytest.approx(10)


def test_over_a_reboot_the_time_switched_off_counts_where_the_clock_was_and_is_synchronized() -> None:
    clock = BentClock()
    born = Born.now(clock)

    clock.reboot(off_s=3600, uptime_s=5)

    assert born.age_s(clock) == pytest.approx(3605)


def test_over_a_reboot_without_a_clock_only_the_time_since_boot_is_certain() -> None:
    clock = BentClock()
    born = Born.now(clock)

    clock.reboot(off_s=3600, uptime_s=5, wall=0.0)
    clock.synced = False

    assert born.age_s(clock) == pytest.approx(5)


def test_a_correction_of_the_same_answer_always_has_the_same_key_and_kind() -> None:
    better = Verdict(tier="cloud", label="b", scores={"b": 0.9}, confidence=0.9, kind="classification")
    decision = Decision(
        route="r", key="k", time=0.0, verdict=better, asked=(FIRST, better), accept=0.9, next_tier="", cause="sure"
    )

    results = [correction(with_note(RAW, NOTE), NOTE, decision, now=now) for now in (5.0, 6.0)]

    assert {(result.key, result.kind, result.subject) for result in results} == {("k.final", "anomaly", "t/a")}


class NoModels:
    def get(self, name: str) -> Model:
        raise ModelError(f"no model {name}")


@given(
    st.dictionaries(
        st.sampled_from(["label", "score", "scores", "model", "model_version", "novelty", "latency_ms", "tokens_in"]),
        st.none()
        | st.text(max_size=3)
        | st.floats()
        | st.booleans()
        | st.dictionaries(st.text(max_size=2), st.floats() | st.text(max_size=2), max_size=3),
    )
)
def test_whatever_a_handler_says_is_a_verdict_or_none(data: dict[str, Any]) -> None:
    verdict = verdict_of("student", "classification", data, Calibrations(NoModels()))

    if isinstance(data.get("label"), str):
        assert verdict is not None
        assert 0 <= verdict.confidence <= 1
        assert all(math.isfinite(score) for score in verdict.scores.values())
    else:
        assert verdict is None


def test_a_handler_that_says_unknown_is_not_sure_whatever_its_score() -> None:
    verdict = verdict_of("student", "c", {"label": "unknown", "score": 0.99}, Calibrations(NoModels()))

    assert verdict is not None
    assert verdict.confidence == 0.0


def post(tier: FarTier, clock: ManualClock, draw: float = 0.5) -> Post:
    return Post(tier, clock, lambda: draw, retry_max_s=60.0)


async def test_a_post_waits_longer_after_each_failure_up_to_its_cap_and_no_longer_after_an_answer() -> None:
    clock, far = ManualClock(), FarTier()
    far.is_away = True
    one = post(far, clock)
    waits = []
    for _ in range(9):
        with pytest.raises(TierUnavailable):
            await one.ask([])
        waits.append(one.wait_s())
        await clock.advance(waits[-1])

    far.is_away = False
    await one.ask([])

    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert (one.wait_s(), one.state, one.failures) == (0.0, "answers", 0)


async def test_a_post_never_spins_though_chance_says_now() -> None:
    far = FarTier()
    far.is_away = True
    one = post(far, ManualClock(), draw=0.0)

    with pytest.raises(TierUnavailable):
        await one.ask([])

    assert one.wait_s() > 0


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (TierUnavailable("gone", retry_after_s=90.0), "away"),
        (TierMisconfigured("401", retry_after_s=90.0), "away"),
        (TierSpent("enough", retry_after_s=90.0), "over its budget"),
    ],
)
async def test_a_post_obeys_what_it_is_told(error: Exception, state: str) -> None:
    clock, far = ManualClock(), FarTier()
    far.raises = [error]
    one = post(far, clock)

    with pytest.raises(type(error)):
        await one.ask([])

    assert (one.state, one.wait_s()) == (state, 90.0)
    await clock.advance(91)
    await asyncio.sleep(0)
    assert (one.is_spent, one.wait_s()) == (False, 0.0)


TIERS = """
[tiers.student]
type = "handler"
handler = "threshold"
options = { rules = [{ label = "x", above = 0.0 }] }
[tiers.far]
type = "http"
url = "http://far.example/"
[routes.r]
topics = ["t"]
"""


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("", "neither `handler` nor `tiers`"),
        ('tiers = ["student"]\nhandler = "threshold"', "both say who answers"),
        ('tiers = ["student"]\noptions = { a = 1 }', "options of their own"),
        ('tiers = ["student"]\nwindow = { every_s = 60 }', "one message at a time"),
        ('tiers = ["student"]\nmode = "journaled"', "answers at once"),
        ('tiers = ["nobody"]', "no tier `nobody`"),
        ('tiers = ["student", "student"]', "a second time"),
        ('tiers = ["far"]', "must be a handler"),
        ('tiers = ["student", "far"]', "never lets a message go"),
    ],
)
def test_what_a_route_with_tiers_may_not_say_is_told_in_words(lines: str, said: str) -> None:
    _, problems = examine_text(TIERS + lines + "\n", "config.toml")

    assert any(said in problem.problem for problem in problems)


def test_a_cascade_as_the_guide_has_it_is_right(tmp_path: Path) -> None:
    text = TIERS + 'tiers = ["student", "far"]\nescalation = { privacy = "cloud" }\n'

    _, problems = examine_text(text, str(tmp_path))

    assert [str(problem) for problem in problems if not problem.is_warning] == []


class OneModel:
    """Models with one, in the version that is in use now; `bundle` is what tells versions apart."""

    def __init__(self) -> None:
        self.bundle = object()

    def get(self, name: str) -> Any:
        return SimpleNamespace(name=name, version="1", bundle=self.bundle, calibration={}, labels=[], input={})


class Big:
    Config = Options
    journaled = True
    inline = False

    def __init__(self) -> None:
        self.is_stopped = False

    def start(self, models: Models) -> None:
        models.get("big")

    def handle(self, batch: Batch) -> Sequence[Result]:
        return [Result(kind="c", data={"label": "a", "score": 1.0}, message=each) for each in batch.messages]

    def stop(self) -> None:
        self.is_stopped = True


async def test_a_slow_tier_takes_a_newer_version_of_its_model_between_two_calls() -> None:
    models, made = OneModel(), []

    def make() -> Any:
        made.append(Big())
        return made[-1]

    def is_stale(held: Mapping[str, Any]) -> bool:
        return any(one.bundle is not models.bundle for one in held.values())

    client = HandlerClient("big", "r", make, models, ManualClock(), lambda _: None, Report(), is_stale)
    await client.start()
    await client.start()
    assert len(made) == 1

    models.bundle = object()
    await client.start()

    assert [one.is_stopped for one in made] == [True, False]
    (verdict,) = await client.ask([question()])
    assert isinstance(verdict, Verdict)
    assert (verdict.tier, verdict.label) == ("big", "a")
    await client.runner.stop(1.0)
