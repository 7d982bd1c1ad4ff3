"""A route's tiers from small to large, what is known of each now, and how many escalations wait.

Invariant: `n_waiting` follows the commits: what is in the journal and not done. What the spool takes away by itself
(TTL, cap) is told by its events, so the count may be off for a moment, and never for good: an empty journal sets it
back to 0.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from gatewayd.answer import Answer
from gatewayd.api import Handler, Message, Result
from gatewayd.cascade.note import Note, read_note, with_note
from gatewayd.cascade.policy import DEFAULT_ACCEPT, Rules, TierView
from gatewayd.cascade.post import Post
from gatewayd.cascade.reading import Calibrations
from gatewayd.cascade.verdict import Decision, Place
from gatewayd.ports import Clock, DecisionLog, LessonLog, RawMessage, Work

NO_EVIDENCE = msgspec.Raw(b"null")


@dataclass(slots=True)
class LocalTier:
    """A handler on this box: it answers on the message's own way, or (with a `post`) works off escalations."""

    name: str
    handler: Handler
    make: Callable[[], Handler]  # gives another one of it: for a newer version of its model
    accept: float | None = None  # of the config; None: what the bundle says
    max_novelty: float = 1.0
    abstain: tuple[float, float] | None = None
    calibrations: Calibrations | None = None  # known once the handler has started
    post: Post | None = None

    def view(self) -> TierView:
        """What a decision needs to know."""
        accept = self.accept
        if accept is None and self.calibrations is not None:
            accept = self.calibrations.accept
        return TierView(
            name=self.name,
            accept=DEFAULT_ACCEPT if accept is None else accept,
            max_novelty=self.max_novelty,
            abstain=self.abstain,
            usual_latency_ms=0.0 if self.post is None else self.post.usual_latency_ms,
        )


@dataclass(slots=True)
class FarTier:
    """A tier outside of this box."""

    name: str
    place: Place
    post: Post | None  # None: no route may ask it, so there is nobody who could
    accept: float | None = None

    def view(self) -> TierView:
        """What a decision needs to know."""
        return TierView(
            name=self.name,
            place=self.place,
            accept=DEFAULT_ACCEPT if self.accept is None else self.accept,
            usual_latency_ms=0.0 if self.post is None else self.post.usual_latency_ms,
            is_spent=self.post is not None and self.post.is_spent,
        )


Tier = LocalTier | FarTier


class Decided(Result, frozen=True, kw_only=True):
    """A result of a cascade. `note`: the answer is provisional, and this is what its escalation starts with."""

    decision: Decision
    note: Note | None = None
    evidence: msgspec.Raw = NO_EVIDENCE  # what there is to learn from in place of the payload, where that is wanted


class CascadeReport(Protocol):
    """What a cascade tells telemetry."""

    def decided(self, route: str, tier: str, cause: str, n: int) -> None: ...

    def corrected(self, route: str, outcome: str, n: int) -> None: ...


@dataclass(slots=True)
class Ladder:
    """The cascade of one route. Its plain numbers are read by the handler's thread too."""

    route: str
    rules: Rules
    tiers: Sequence[Tier]
    report: CascadeReport
    clock: Clock
    log: DecisionLog | None = None
    lessons: LessonLog | None = None
    n_waiting: int = 0
    bells: dict[str, asyncio.Event] = field(default_factory=dict)  # by tier: something may wait for it
    calls: dict[str, asyncio.Lock] = field(default_factory=dict)  # by tier: held from a question to its settlement
    decisions: dict[tuple[str, str], int] = field(default_factory=dict)  # (tier, cause) -> how many, since the start

    def __post_init__(self) -> None:
        for tier in self.posted:
            self.bells[tier.name] = asyncio.Event()
            self.calls[tier.name] = asyncio.Lock()

    @property
    def fast(self) -> Sequence[LocalTier]:
        """Those that answer on the message's own way."""
        return [tier for tier in self.tiers if isinstance(tier, LocalTier) and tier.post is None]

    @property
    def posted(self) -> Sequence[Tier]:
        """Those that escalations wait for."""
        return [tier for tier in self.tiers if tier.post is not None]

    def adopt(self, fast: Sequence[LocalTier]) -> None:
        """Handlers that have started: the first ones, or those that take over from them."""
        before = {tier.name for tier in self.fast}
        self.tiers = [*fast, *(tier for tier in self.tiers if tier.name not in before)]

    def views(self) -> Sequence[TierView]:
        """All of them as of now."""
        return [tier.view() for tier in self.tiers]

    def decided(self, decision: Decision, *, corrects: str = "") -> None:
        """Count and keep what was decided. `corrects`: the key of the provisional answer that was open before."""
        key = decision.verdict.tier, decision.cause
        self.decisions[key] = self.decisions.get(key, 0) + 1
        self.report.decided(self.route, *key, 1)
        if self.log is not None:
            self.log.record(decision, corrects=corrects)

    def wants_lesson(self, decision: Decision) -> bool:
        """Whether there is something to learn from it, and somebody who keeps it."""
        return self.lessons is not None and self.lessons.wants(self.route, decision)

    def learn(self, decision: Decision, message: Message, evidence: msgspec.Raw) -> None:
        """Keep what there is to learn from a decision about this message."""
        if self.lessons is None or not self.wants_lesson(decision):
            return
        has_evidence = bytes(evidence) != bytes(NO_EVIDENCE)
        value = evidence if has_evidence else message.value
        self.lessons.keep(
            self.route, decision, topic=message.topic, time=message.time, value=value, is_evidence=has_evidence
        )

    def is_waiting(self, raw: RawMessage) -> bool:
        """Whether a journal row is one of an open escalation."""
        return read_note(raw) is not None

    def opened(self, pairs: Sequence[tuple[RawMessage, Message]], answer: Answer) -> list[RawMessage]:
        """Of an answered batch the messages whose answer is provisional, as they go into the journal."""
        notes: dict[int, Note] = {}
        for result, _ in answer.results:
            if isinstance(result, Decided):
                self.decided(result.decision)
                if result.message is not None:
                    self.learn(result.decision, result.message, result.evidence)
                if result.note is not None:
                    notes[id(result.message)] = result.note
        return [with_note(raw, notes[id(message)]) for raw, message in pairs if id(message) in notes]

    def committed(self, work: Work) -> None:
        """A work of the route is on disk."""
        self.n_waiting = max(0, self.n_waiting + len(work.journal) - len(work.done))
        if work.journal:
            self.ring()

    def lost(self, n: int) -> None:
        """The spool gave up journal rows of the route."""
        self.n_waiting = max(0, self.n_waiting - n)

    def ring(self) -> None:
        """Something may wait."""
        for bell in self.bells.values():
            bell.set()


def by_cause(decisions: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    """For people: tier -> cause -> how many."""
    shown: dict[str, dict[str, int]] = {}
    for (tier, cause), n in sorted(decisions.items()):
        shown.setdefault(tier, {})[cause] = n
    return shown
