"""Policy before confidence: whatever scores, budgets, ages and answers there are, no tier is asked that must not be."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.cascade.policy import Case, Rules, TierView, decide, is_within
from gatewayd.cascade.verdict import Cause, Verdict

PLACES = ("gateway", "site", "cloud")
NAMES = ("t0", "t1", "t2", "t3", "t4")
scores = st.floats(0, 1)
rules = st.builds(
    Rules,
    privacy=st.sampled_from(["local", "site", "cloud"]),
    max_latency_ms=st.sampled_from([0.0, 100.0, 5000.0]),
    max_age_s=st.floats(0.1, 1000),
    when_spent=st.sampled_from(["settle", "wait"]),
    max_waiting=st.integers(1, 5),
)
views = st.builds(
    TierView,
    name=st.just(""),
    place=st.sampled_from(PLACES),
    accept=scores,
    max_novelty=st.sampled_from([0.0, 0.5, 1.0]),
    abstain=st.none() | st.tuples(scores, scores),
    usual_latency_ms=st.sampled_from([0.0, 50.0, 2000.0, 90000.0]),
    is_spent=st.booleans(),
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[TierView], Case]:
    """Tiers, and a message that some of the lower ones have answered or refused."""
    tiers = [
        msgspec.structs.replace(view, name=NAMES[index], place="gateway" if index == 0 else view.place)
        for index, view in enumerate(draw(st.lists(views, min_size=1, max_size=5)))
    ]
    n_known = draw(st.integers(1, len(tiers)))
    answered = [0, *(index for index in range(1, n_known) if draw(st.booleans()))]
    causes: list[Cause] = ["refused", "no_answer"]
    refused = {NAMES[index]: draw(st.sampled_from(causes)) for index in range(n_known)}
    asked = tuple(_verdict(draw, NAMES[index]) for index in answered)
    for index in answered:
        del refused[NAMES[index]]
    case = Case(
        route="r",
        key="k",
        time=0.0,
        asked=asked,
        refused=refused,
        age_s=draw(st.floats(0, 2000)),
        n_waiting=draw(st.integers(0, 6)),
    )
    return tiers, case


def _verdict(draw: st.DrawFn, tier: str) -> Verdict:
    score = draw(scores)
    confidence = draw(scores | st.just(float("nan")))
    novelty = draw(st.none() | st.floats(0, 3))
    label = draw(st.sampled_from(["a", "b", ""]))
    return Verdict(tier=tier, label=label, scores={"a": 1 - score, "b": score}, confidence=confidence, novelty=novelty)


@given(rules, cases())
def test_nobody_is_asked_beyond_what_privacy_allows(rule: Rules, given_case: tuple[list[TierView], Case]) -> None:
    tiers, case = given_case

    decision = decide(rule, tiers, case)

    places = {tier.name: tier.place for tier in tiers}
    assert decision.next_tier == "" or is_within(rule.privacy, places[decision.next_tier])
    if rule.privacy == "local":
        assert decision.next_tier == "" or places[decision.next_tier] == "gateway"


@given(rules, cases())
def test_nobody_is_asked_twice_nor_below_one_that_answered(
    rule: Rules, given_case: tuple[list[TierView], Case]
) -> None:
    tiers, case = given_case

    decision = decide(rule, tiers, case)

    known = [*(verdict.tier for verdict in case.asked), *case.refused]
    if decision.next_tier:
        assert NAMES.index(decision.next_tier) > max(NAMES.index(name) for name in known)


@given(rules, cases())
def test_limits_hold_whatever_the_score(rule: Rules, given_case: tuple[list[TierView], Case]) -> None:
    tiers, case = given_case

    decision = decide(rule, tiers, case)

    if decision.next_tier:
        asked = next(tier for tier in tiers if tier.name == decision.next_tier)
        assert not (rule.max_latency_ms and asked.usual_latency_ms > rule.max_latency_ms)
        assert not (asked.is_spent and rule.when_spent == "settle")
        assert case.age_s <= rule.max_age_s
        assert case.n_waiting < rule.max_waiting


@given(rules, cases())
def test_a_message_comes_to_an_end_after_no_more_answers_than_there_are_tiers(
    rule: Rules, given_case: tuple[list[TierView], Case]
) -> None:
    """Each answer or refusal of the tier that is asked brings it further, whatever it says."""
    tiers, case = given_case
    for n_asked in range(len(tiers) + 1):
        decision = decide(rule, tiers, case)
        if decision.is_final:
            return
        refused: dict[str, Cause] = {**case.refused, decision.next_tier: "refused"}
        unsure = Verdict(tier=decision.next_tier, label="a", scores={"a": 0.0}, confidence=-1.0)
        case = (
            msgspec.structs.replace(case, asked=(*case.asked, unsure))
            if n_asked % 2
            else msgspec.structs.replace(case, refused=refused)
        )
    raise AssertionError("never ends")


@given(rules, cases())
def test_a_sure_answer_is_taken_and_every_tier_above_that_may_not_be_asked_is_named(
    rule: Rules, given_case: tuple[list[TierView], Case]
) -> None:
    tiers, case = given_case

    decision = decide(rule, tiers, case)

    verdict = case.asked[-1]
    own = next(tier for tier in tiers if tier.name == verdict.tier)
    if decision.cause == "sure":
        assert decision.is_final
        assert verdict.confidence >= own.accept
        assert verdict.label
    assert decision.verdict == verdict
    assert set(case.refused) <= set(decision.passed_over)
    highest = max(NAMES.index(name) for name in [*(each.tier for each in case.asked), *case.refused])
    far = {tier.name for tier in tiers[highest + 1 :] if not is_within(rule.privacy, tier.place)}
    assert far <= set(decision.passed_over)
