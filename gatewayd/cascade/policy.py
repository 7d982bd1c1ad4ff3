"""What becomes of a message's answer: taken, handed on, or settled, and why. Pure.

Invariants: policy before confidence: what a tier may be asked is found out before anybody looks at a score, so no score
sends a payload where the route's `privacy` does not let it go. A tier at or below one that has answered is not asked
again, nor one that has refused. The daemon, `gatewayd route explain` and the benchmarks all ask `decide`.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from gatewayd.cascade.verdict import Cause, Decision, Place, Verdict

Privacy = Literal["local", "site", "cloud"]

DEFAULT_ACCEPT = 0.9  # confidence needed of a tier that nobody fitted and nobody configured
_REACH: Mapping[str, int] = {"local": 0, "site": 1, "cloud": 2}
_DISTANCE: Mapping[Place, int] = {"gateway": 0, "site": 1, "cloud": 2}


class TierView(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a decision needs to know of one tier, as of now."""

    name: str
    place: Place = "gateway"
    accept: float = DEFAULT_ACCEPT
    max_novelty: float = 1.0  # 0: no guard
    abstain: tuple[float, float] | None = None  # of two labels: bounds of the second one's score
    usual_latency_ms: float = 0.0  # 0: not known
    is_spent: bool = False  # its budget of the day is


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What a route says about escalating: see gatewayd.config.tiers.Escalation."""

    privacy: Privacy = "local"
    max_latency_ms: float = 0.0
    max_age_s: float = 86400.0
    when_spent: Literal["settle", "wait"] = "settle"
    max_waiting: int = 100000


class Case(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One message in the cascade."""

    route: str
    key: str
    time: float  # now, seconds since the epoch: goes into the decision, and decides nothing
    asked: tuple[Verdict, ...]  # every tier that answered, in order; at least one
    refused: Mapping[str, Cause] = {}  # tiers that will not answer this one: "refused" or "no_answer"
    age_s: float = 0.0  # how long it has waited
    n_waiting: int = 0  # escalations of the route that wait already; those that wait themselves say 0


def decide(rules: Rules, tiers: Sequence[TierView], case: Case) -> Decision:
    """What becomes of the answer that `case.asked` ends with. `tiers` are the route's, from small to large."""
    return Policy(rules, tiers).decide(case)


class Policy:
    """`decide` for many messages at once: what does not depend on the message is found out once."""

    def __init__(self, rules: Rules, tiers: Sequence[TierView]) -> None:
        self._rules = rules
        self._tiers = tiers
        self._index = {tier.name: index for index, tier in enumerate(tiers)}
        self._above: dict[int, tuple[str, Mapping[str, Cause]]] = {}  # above a tier: who is asked next, who is not

    def decide(self, case: Case) -> Decision:
        """See the function."""
        verdict = case.asked[-1]
        index = self._index.get(verdict.tier)
        own = None if index is None else self._tiers[index]
        next_tier, passed_over = self._above_of(case)
        if case.refused:
            passed_over = {**case.refused, **passed_over}
        cause, next_tier = _outcome(self._rules, case, doubt(own, verdict), next_tier, passed_over)
        return Decision(
            route=case.route,
            key=case.key,
            time=case.time,
            verdict=verdict,
            asked=case.asked,
            accept=DEFAULT_ACCEPT if own is None else own.accept,
            next_tier=next_tier,
            cause=cause,
            passed_over=passed_over,
        )

    def _above_of(self, case: Case) -> tuple[str, Mapping[str, Cause]]:
        """Above the highest tier that has answered or refused: who is asked next, and who is not, and why."""
        index = self._index
        highest = max([index.get(verdict.tier, -1) for verdict in case.asked])
        if case.refused:
            highest = max(highest, *(index.get(name, -1) for name in case.refused))
        found = self._above.get(highest)
        if found is None:
            found = self._above[highest] = self._look(self._tiers[highest + 1 :])
        return found

    def _look(self, above: Sequence[TierView]) -> tuple[str, Mapping[str, Cause]]:
        reasons = {tier.name: closed(self._rules, tier) for tier in above}
        passed_over = {name: reason for name, reason in reasons.items() if reason is not None}
        return next((name for name, reason in reasons.items() if reason is None), ""), passed_over


def closed(rules: Rules, tier: TierView) -> Cause | None:
    """Why the route may not ask this tier now, whatever the answer is worth; None when it may."""
    if not is_within(rules.privacy, tier.place):
        return "privacy"
    if rules.max_latency_ms and tier.usual_latency_ms > rules.max_latency_ms:
        return "latency"
    if tier.is_spent and rules.when_spent == "settle":
        return "budget"
    return None


def is_within(privacy: Privacy, place: Place) -> bool:
    """Whether a payload may go to a tier at `place`."""
    return _DISTANCE[place] <= _REACH[privacy]


def doubt(tier: TierView | None, verdict: Verdict) -> Cause | None:
    """Why the answer is not sure enough; None when it is. A tier that is gone from the config is not believed."""
    if not verdict.label:
        return "no_answer"
    if tier is None:
        return "unsure"
    if tier.max_novelty and verdict.novelty is not None and verdict.novelty > tier.max_novelty:
        return "novel"
    if tier.abstain is not None and len(verdict.scores) == 2:
        low, high = tier.abstain
        if low <= [*verdict.scores.values()][1] <= high:
            return "abstained"
    # Written so that a confidence that is no number is not sure.
    return None if verdict.confidence >= tier.accept else "unsure"


def _outcome(
    rules: Rules, case: Case, reason: Cause | None, above: str, passed_over: Mapping[str, Cause]
) -> tuple[Cause, str]:
    """The cause, and who is asked next ("": nobody)."""
    if reason is None:
        return "sure", ""
    if not above:
        return _blocked(passed_over), ""
    if case.age_s > rules.max_age_s:
        return "expired", ""
    if case.n_waiting >= rules.max_waiting:
        return "full", ""
    return reason, above


# Of several reasons the one that changes soonest is told: it is what an operator can do something about.
_TOLD: Sequence[Cause] = ("budget", "latency", "privacy", "refused", "no_answer")


def _blocked(passed_over: Mapping[str, Cause]) -> Cause:
    return next((cause for cause in _TOLD if cause in passed_over.values()), "last")
