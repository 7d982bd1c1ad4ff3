"""What tiers say and what is decided of it: the values that the cascade hands around. Pure.

A *verdict* is one tier's answer about one message. A *decision* is what became of it: taken, or handed on to the next
tier, and why. Confidence is calibrated (see `confidence`): of a hundred verdicts with 0.9, ninety are right.
"""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

Place = Literal["gateway", "site", "cloud"]  # where a tier computes: on this box, beside it, or far away

# Why a verdict was taken, or why the next tier is asked, or why nobody is: short and stable, for counters.
Cause = Literal[
    "sure",  # taken: confidence reached what the tier accepts
    "unsure",  # handed on: it did not
    "abstained",  # the score lies in the tier's abstain band
    "novel",  # handed on: the input is unlike those the confidence was fitted on
    "last",  # taken: there is no tier above it
    "privacy",  # taken although unsure: every tier above is beyond what the route's `privacy` allows
    "latency",  # taken although unsure: the tiers above take longer than `max_latency_ms`
    "budget",  # taken although unsure: the budget of the tiers above is spent
    "full",  # taken although unsure: `max_waiting` escalations of the route wait already
    "expired",  # settled: the escalation waited longer than `max_age_s`
    "refused",  # settled: the tier above will never answer this one
    "no_answer",  # the tier gave no usable answer (a label that is none, no scores)
]


class Verdict(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One tier's answer about one message."""

    tier: str
    label: str
    scores: Mapping[str, float]  # by label, as the tier gave them
    confidence: float  # calibrated probability that `label` is right, 0 to 1
    novelty: float | None = None  # distance to the calibration set, 1 = its far edge; None: not known for this tier
    kind: str = "classification"
    model: str = ""
    model_version: str = ""
    latency_ms: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0
    n_bytes: int = 0  # on the wire, both ways
    cost: float = 0.0  # in the currency of the config


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What a tier beyond the first is asked. For tiers outside of the box it is redacted before it gets here."""

    key: str  # of the message
    topic: str
    value: Any  # the decoded payload (a text, a mapping, a number), or the evidence a handler gave for it
    time: float  # of the message, seconds since the epoch
    labels: tuple[str, ...]  # the answer has to be one of these; empty: not known
    first: Verdict  # the local answer
    n_attempts: int = 1


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A tier will never answer this question."""

    reason: str  # short and stable, for counters
    detail: str = ""


class Decision(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What became of a message in the cascade: what the audit trail keeps and `route explain` shows."""

    route: str
    key: str
    time: float  # when it was decided, seconds since the epoch
    verdict: Verdict  # the answer as it stands now
    asked: tuple[Verdict, ...]  # every tier that answered, in order
    accept: float  # the confidence that was needed of `verdict.tier`
    next_tier: str  # who is asked now; "": nobody, the answer is final
    cause: Cause
    passed_over: Mapping[str, Cause] = {}  # tiers above that were not asked, each with why

    @property
    def is_final(self) -> bool:
        """Whether no better answer will come."""
        return not self.next_tier
