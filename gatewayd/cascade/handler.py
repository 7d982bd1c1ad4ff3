"""The fast tiers of a route as one handler: each is asked for what the one before is not sure of.

Invariants: every message that the first tier answers has one result with a decision behind it; what fails in a tier
above costs its own answer and never the one that is there already. A tier that keeps state (`stateful`) sees every
message, in order, whatever becomes of its answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec
import structlog

from gatewayd.answer import Answer, answer_of, take_over, takes_over
from gatewayd.api import Batch, Message, Models, Rejection, Result
from gatewayd.cascade.ladder import NO_EVIDENCE, Decided, Ladder, LocalTier
from gatewayd.cascade.note import Born, Note
from gatewayd.cascade.policy import Case, Policy
from gatewayd.cascade.reading import Calibrations, verdict_of
from gatewayd.cascade.verdict import Cause, Decision, Verdict
from gatewayd.errors import TransientError

log = structlog.get_logger(__name__)


class NoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The options stand in the tiers."""


@dataclass(slots=True)
class _Asked:
    """A message on its way up."""

    message: Message
    result: Result  # of the tier that answered last
    asked: list[Verdict] = field(default_factory=list)
    refused: dict[str, Cause] = field(default_factory=dict)
    decision: Decision | None = None


class CascadeHandler:
    """Implements gatewayd.api.Handler."""

    Config: ClassVar[type[msgspec.Struct]] = NoOptions
    journaled: ClassVar[bool] = False

    def __init__(self, fast: Sequence[LocalTier], slow: Sequence[LocalTier] = ()) -> None:
        """`slow`: handlers that are too slow to be asked here; made with the others, started by `HandlerClient`s."""
        self.fast = fast
        self.slow = slow
        self.inline = all(tier.handler.inline for tier in fast)
        self._ladder: Ladder | None = None

    def bind(self, ladder: Ladder) -> None:
        """Take part in this cascade, from `start` on."""
        self._ladder = ladder

    def start(self, models: Models) -> None:
        """Start every fast tier. Raises ModelError or ConfigError; none is left started then."""
        started: list[LocalTier] = []
        try:
            for tier in self.fast:
                tier.calibrations = Calibrations(models)
                tier.handler.start(tier.calibrations)
                started.append(tier)
        except Exception:
            for tier in started:
                tier.handler.stop()
            raise
        self._bound.adopt(self.fast)

    def take_over(self, before: "CascadeHandler") -> None:
        """Each fast tier from the one of its name."""
        was = {tier.name: tier.handler for tier in before.fast}
        for tier in self.fast:
            if takes_over(tier.handler, was.get(tier.name)):
                take_over(tier.name, tier.handler, was[tier.name])

    @property
    def _bound(self) -> Ladder:
        assert self._ladder is not None, "bind comes before start"
        return self._ladder

    def stop(self) -> None:
        """Stop them."""
        for tier in self.fast:
            tier.handler.stop()

    def handle(self, batch: Batch) -> Sequence[Result | Rejection]:
        """One `Decided` for each message that the first tier gave a label, what else it said as it is."""
        policy = Policy(self._bound.rules, self._bound.views())
        answer = answer_of(self.fast[0].handler, batch)
        entries, others = self._read_first(batch, answer)
        self._decide(batch, policy, entries)
        for tier in self.fast[1:]:
            unsure = [each for each in entries.values() if each.decision and each.decision.next_tier == tier.name]
            if unsure or getattr(tier.handler, "stateful", False):
                self._climb(batch, policy, tier, unsure)
        n_open = 0
        results: list[Result | Rejection] = []
        for each in entries.values():
            results.append(self._finish(each, n_open))
            n_open += results[-1].note is not None  # type: ignore[union-attr]
        buried = [Rejection(message=one.message, reason=one.reason, detail=one.detail) for one in answer.buried]
        return [*results, *others, *buried]

    def _read_first(self, batch: Batch, answer: Answer) -> tuple[dict[int, _Asked], list[Result]]:
        """The first labeled result of each message, and the results that are no verdicts."""
        tier = self.fast[0]
        entries: dict[int, _Asked] = {}
        others: list[Result] = []
        took_ms = self._took_ms(batch)
        for result, _ in answer.results:
            verdict = None if result.message is None else self._verdict(tier, result, took_ms)
            if verdict is None or id(result.message) in entries:
                others.append(result)
            else:
                assert result.message is not None
                entries[id(result.message)] = _Asked(result.message, result, [verdict])
        return entries, others

    def _climb(self, batch: Batch, policy: Policy, tier: LocalTier, unsure: Sequence[_Asked]) -> None:
        """Ask `tier`, for those that are not sure; one that keeps state sees all the others too."""
        is_stateful = getattr(tier.handler, "stateful", False)
        messages = batch.messages if is_stateful else [each.message for each in unsure]
        try:
            answer = answer_of(tier.handler, msgspec.structs.replace(batch, messages=messages))
        except TransientError as error:  # the answer that is there does not wait for a better one
            log.warning("tier did not answer", route=batch.route, tier=tier.name, cause=str(error))
            answer = Answer()
        took_ms = self._took_ms(batch)
        given = {id(result.message): result for result, _ in reversed(answer.results) if result.message is not None}
        for each in unsure:
            result = given.get(id(each.message))
            verdict = None if result is None else self._verdict(tier, result, took_ms)
            if result is None or verdict is None:
                each.refused[tier.name] = "no_answer"
            else:
                each.result = result
                each.asked.append(verdict)
        self._decide(batch, policy, {id(each.message): each for each in unsure})

    def _verdict(self, tier: LocalTier, result: Result, took_ms: float) -> Verdict | None:
        assert tier.calibrations is not None
        return verdict_of(tier.name, result.kind, result.data, tier.calibrations, took_ms)

    def _took_ms(self, batch: Batch) -> float:
        return round(max(0.0, self._bound.clock.now() - batch.now) * 1000, 3)

    def _decide(self, batch: Batch, policy: Policy, entries: Mapping[int, _Asked]) -> None:
        for each in entries.values():
            each.decision = policy.decide(self._case(batch.route, batch.now, each))

    def _case(self, route: str, now: float, each: _Asked) -> Case:
        return Case(route=route, key=each.message.key, time=now, asked=tuple(each.asked), refused=each.refused)

    def _finish(self, each: _Asked, n_open: int) -> Decided:
        """The result, and the note where a tier is asked that takes longer."""
        decision = each.decision
        assert decision is not None
        if decision.next_tier and self._bound.n_waiting + n_open >= self._bound.rules.max_waiting:
            decision = msgspec.structs.replace(decision, next_tier="", cause="full")
        note = None if decision.is_final else self._note(each, decision)
        facts: dict[str, Any] = {
            "tier": decision.verdict.tier,
            "confidence": round(decision.verdict.confidence, 6),
            "provisional": note is not None,
        }
        if decision.cause != "sure":
            facts["cause"] = decision.cause
        return Decided(
            kind=each.result.kind,
            data={**each.result.data, **facts},
            message=each.message,
            decision=decision,
            note=note,
            evidence=self._evidence(each.message) if self._bound.wants_lesson(decision) else NO_EVIDENCE,
        )

    def _note(self, each: _Asked, decision: Decision) -> Note:
        return Note(
            waits_for=decision.next_tier,
            cause=decision.cause,
            first_key=each.message.key,
            asked=tuple(each.asked),
            n_local=len(each.asked),
            refused=each.refused,
            evidence=self._evidence(each.message),
            born=Born.now(self._bound.clock),
        )

    def _evidence(self, message: Message) -> msgspec.Raw:
        """What the first tier that has more than the payload gives for it, as JSON."""
        for tier in self.fast:
            evidence = getattr(tier.handler, "evidence", None)
            if evidence is None:
                continue
            try:
                given = msgspec.json.encode(evidence(message))
            except Exception as error:  # a bug of the handler: the payload is all the higher tier gets then
                log.warning("handler gives no evidence", tier=tier.name, cause=repr(error))
                continue
            if given != b"null":
                return msgspec.Raw(given)
        return NO_EVIDENCE
