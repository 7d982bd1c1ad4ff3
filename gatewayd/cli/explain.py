"""`gatewayd route explain`: a message through a route's own tiers, on this box, and what would become of it.

The handlers, their models, the calibration and `decide` are those of the daemon; nothing is sent, stored or counted.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import typer

from gatewayd.answer import answer_of
from gatewayd.api import Batch, Handler, Message, Models, Window
from gatewayd.cascade.handler import CascadeHandler
from gatewayd.cascade.ladder import Decided, FarTier, Ladder, LocalTier, Tier
from gatewayd.cascade.policy import Case, TierView, decide, doubt
from gatewayd.cascade.reading import Calibrations, verdict_of
from gatewayd.cascade.redact import redaction
from gatewayd.cascade.verdict import Decision
from gatewayd.cascade.words import when_away, why_handed_on, why_passed_over, why_taken
from gatewayd.cascading import build_tier_handlers, rules_of
from gatewayd.checked import load_checked
from gatewayd.cli.explain_budgets import SeenPost, Spent, spent_today
from gatewayd.cli.output import print_json, print_table, quiet_logs
from gatewayd.clock import SystemClock
from gatewayd.config.environment import Paths, read_environment, resolve_paths
from gatewayd.config.schema import Config, Route
from gatewayd.config.tiers import HandlerTier
from gatewayd.errors import ConfigError, RejectedError, TransientError
from gatewayd.keys import KeyMaker
from gatewayd.models.store import ModelStore
from gatewayd.payloads import Decoder
from gatewayd.ports import RawMessage
from gatewayd.registry import find_handlers, load_handler, make_handler
from gatewayd.replay import read_recording

_KEYS = KeyMaker("explain")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The command line."""

    route: str
    message: str | None
    file: Path | None
    topic: str


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One tier."""

    tier: str
    place: str
    label: str = ""
    score: float | None = None
    confidence: float | None = None
    accept: float | None = None
    novelty: float | None = None
    verdict: str
    why: str
    model: str = ""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """What would become of the message."""

    route: str
    topic: str
    tiers: list[Row]
    answer: str = ""  # the label that goes out at once; "": none
    is_provisional: bool = False
    cause: str = ""
    next_tier: str = ""
    leaves: Mapping[str, Any] | None = None  # what the next tier is shown, after redaction; None: nothing leaves
    away: str = ""
    budgets: list[Spent] = []
    results: list[Mapping[str, Any]] = []  # of a route without tiers
    notes: list[str] = []


def explain_message(config_path: Path, asked: Asked, *, as_json: bool) -> None:
    """Print it. Raises ConfigError, ModelError."""
    quiet_logs()
    config = load_checked(config_path)
    route = config.routes.get(asked.route)
    if route is None:
        raise ConfigError("routes", f"there is no route {asked.route!r}; there are: {', '.join(config.routes)}")
    paths = resolve_paths(config, read_environment(), config_path)
    store = ModelStore(paths.models, config.models)
    try:
        told = _explain(config, asked, route, paths, store)
    finally:
        store.close()
    if as_json:
        print_json(told)
    else:
        _print(told)


def _explain(config: Config, asked: Asked, route: Route, paths: Paths, store: ModelStore) -> Explanation:
    messages, problem = _decoded(route, _raw(route, asked))
    if not messages:
        return Explanation(route=asked.route, topic="", tiers=[], notes=[problem])
    found = find_handlers([paths.config_dir / path for path in config.handlers.paths])
    if not route.tiers:
        handler_class = load_handler(route.handler, found, key=f"routes.{asked.route}.handler")
        handler = make_handler(handler_class, route.options, key=f"routes.{asked.route}.options")
        return _without_tiers(asked.route, route, handler, store, messages)
    budgets = {each.tier: each for each in spent_today(config, route, paths.spool, SystemClock())}
    cascade = build_tier_handlers(config, asked.route, found)
    return _Walk(config, asked.route, route, cascade, store, budgets).explain(messages)


def _raw(route: Route, asked: Asked) -> list[RawMessage]:
    topic = asked.topic or route.topics[0].replace("+", "x").replace("#", "x")
    now = SystemClock().now()
    if asked.file is not None and asked.file.suffix == ".ndjson":
        return [_recorded(line, now) for line in read_recording(asked.file)]
    if asked.file is not None:
        payload = asked.file.read_bytes()
    elif asked.message == "-":
        payload = sys.stdin.buffer.read()
    elif asked.message is not None:
        payload = asked.message.encode()
    else:
        raise typer.BadParameter("give a message, - for standard input, or --file")
    return [RawMessage(topic=topic, payload=payload, time=now, key=_KEYS.next())]


def _recorded(line: Any, now: float) -> RawMessage:
    if isinstance(line, RawMessage):
        return line
    payload, time = line.payload_bytes(), line.time if line.time is not None else now
    return RawMessage(
        topic=line.topic,
        payload=payload,
        time=time,
        key=_KEYS.next(),
        content_type=line.content_type,
        properties=line.properties,
    )


def _decoded(route: Route, raws: Sequence[RawMessage]) -> tuple[list[Message], str]:
    """The messages that decode, and why the last one that does not doesn't."""
    decoder, messages, problem = Decoder(route.payload), [], "there is no message"
    for raw in raws:
        try:
            messages.append(decoder.decode(raw))
        except RejectedError as error:
            problem = f"it would be buried as a dead letter, reason {error.reason}: {error}"
    return messages, problem


def _without_tiers(
    name: str, route: Route, handler: Handler, models: Models, messages: Sequence[Message]
) -> Explanation:
    asked = Calibrations(models)
    handler.start(asked)
    window = None
    if route.window is not None:
        window = Window(key="", start=messages[0].time, end=messages[-1].time + 1e-3)
    batches = [messages] if window else [[message] for message in messages]
    results: list[Mapping[str, Any]] = []
    notes = [f"The route has no tiers: the handler {route.handler} answers, nobody else is asked, and nothing leaves."]
    if window:
        notes.append(f"It answers windows: this is what it says to one of {len(messages)} messages.")
    for each in batches:
        try:
            answer = answer_of(handler, Batch(route=name, messages=each, now=each[-1].time, window=window))
        except TransientError as error:
            notes.append(f"it would be asked again later: {error}")
            break
        results = [{"kind": result.kind, **result.data} for result, _ in answer.results]
        buried = [f"it would be buried as a dead letter, reason {one.reason}: {one.detail}" for one in answer.buried]
        notes = [*notes[:2], *buried]
    handler.stop()
    if not results:
        notes.append("It has no result for this message.")
    return Explanation(route=name, topic=messages[-1].topic, tiers=[], results=results, notes=notes)


class _NoReport:
    """Implements CascadeReport: nothing is counted."""

    def decided(self, route: str, tier: str, cause: str, n: int) -> None: ...

    def corrected(self, route: str, outcome: str, n: int) -> None: ...


class _Walk:
    """A message on its way up."""

    def __init__(
        self,
        config: Config,
        name: str,
        route: Route,
        cascade: CascadeHandler,
        models: Models,
        budgets: Mapping[str, Spent],
    ) -> None:
        self._name, self._route, self._cascade, self._models, self._budgets = name, route, cascade, models, budgets
        self._slow = {tier.name: tier for tier in cascade.slow}
        for slow in cascade.slow:
            seen: Any = SeenPost(slow.name)
            slow.post = seen
        local: dict[str, LocalTier] = {tier.name: tier for tier in (*cascade.fast, *cascade.slow)}
        tiers: list[Tier] = [local.get(tier) or self._far(config, tier) for tier in route.tiers]
        self._ladder = Ladder(name, rules_of(route), tiers, _NoReport(), SystemClock())
        self._tiers = tiers
        self._redact = redaction(route.escalation.redact, key=f"routes.{name}.escalation.redact")
        cascade.bind(self._ladder)

    def _far(self, config: Config, name: str) -> FarTier:
        tier = config.tiers[name]
        assert not isinstance(tier, HandlerTier)
        spent = self._budgets.get(name)
        post: Any = SeenPost(name, is_spent=spent is not None and spent.is_spent)
        return FarTier(name, tier.place, post, accept=tier.accept)

    def explain(self, messages: Sequence[Message]) -> Explanation:
        """The last message explained; those before it are what the tiers have seen."""
        self._cascade.start(self._models)
        answers: Sequence[Any] = ()
        for message in messages:
            answers = self._cascade.handle(Batch(route=self._name, messages=[message], now=message.time))
        last = messages[-1]
        decided = next((each for each in answers if isinstance(each, Decided)), None)
        if decided is None:
            why = "; ".join(
                f"rejected, reason {each.reason}: {each.detail}" for each in answers if hasattr(each, "reason")
            )
            note = why or "the first tier has no answer to it (yet): of a series it wants a whole window of messages"
            return Explanation(route=self._name, topic=last.topic, tiers=[], notes=[note])
        evidence = None if decided.note is None else msgspec.json.decode(decided.note.evidence)
        decision = self._climb(decided.decision, last, evidence)
        self._cascade.stop()
        return self._told(decision, last, evidence, n_fast=len(decided.decision.asked))

    def _climb(self, decision: Decision, message: Message, evidence: Any) -> Decision:
        """Ask the slow tiers on this box as the daemon does from the journal."""
        refused: dict[str, Any] = {}
        while (tier := self._slow.get(decision.next_tier)) is not None:
            tier.calibrations = Calibrations(self._models)
            tier.handler.start(tier.calibrations)
            question = message if evidence is None else msgspec.structs.replace(message, value=evidence)
            answer = answer_of(tier.handler, Batch(route=self._name, messages=[question], now=message.time))
            tier.handler.stop()
            verdicts = [verdict_of(tier.name, each.kind, each.data, tier.calibrations) for each, _ in answer.results]
            said = next((verdict for verdict in verdicts if verdict is not None), None)
            if said is None:
                refused[tier.name] = "no_answer"
            asked = decision.asked if said is None else (*decision.asked, said)
            case = Case(route=self._name, key=message.key, time=message.time, asked=asked, refused=refused)
            decision = decide(self._ladder.rules, self._views(), case)
        return decision

    def _views(self) -> list[TierView]:
        return [tier.view() for tier in self._tiers]

    def _told(self, decision: Decision, message: Message, evidence: Any, n_fast: int) -> Explanation:
        next_tier = next((tier for tier in self._tiers if tier.name == decision.next_tier), None)
        at_once = decision.asked[n_fast - 1]
        leaves = None
        if isinstance(next_tier, FarTier):
            value = message.value if evidence is None else evidence
            leaves = {"topic": self._redact(message.topic), "value": self._redact(value)}
        is_provisional = not decision.is_final or len(decision.asked) > n_fast
        notes = []
        if len(decision.asked) > n_fast and decision.is_final:
            said = decision.verdict
            notes.append(f"A correction follows: {said.label}, by {said.tier}.")
        return Explanation(
            route=self._name,
            topic=message.topic,
            tiers=[self._row(view, decision) for view in self._views()],
            answer=at_once.label,
            is_provisional=is_provisional,
            cause=decision.cause,
            next_tier=decision.next_tier,
            leaves=leaves,
            away=when_away(self._ladder.rules, decision.next_tier) if leaves is not None else "",
            budgets=list(self._budgets.values()),
            notes=notes,
        )

    def _row(self, view: TierView, decision: Decision) -> Row:
        said = next((verdict for verdict in decision.asked if verdict.tier == view.name), None)
        if said is None:
            verdict, why = self._unasked(view, decision)
            return Row(tier=view.name, place=view.place, accept=view.accept, verdict=verdict, why=why)
        reason = doubt(view, said)
        is_taken = said == decision.verdict and decision.is_final
        if is_taken:
            verdict, why = "taken", why_taken(decision.cause, view, said, reason)
        else:
            verdict, why = "handed on", why_handed_on(reason or decision.cause, view, said)
        return Row(
            tier=view.name,
            place=view.place,
            label=said.label,
            score=said.scores.get(said.label),
            confidence=said.confidence,
            accept=view.accept,
            novelty=said.novelty,
            verdict=verdict,
            why=why,
            model=f"{said.model} {said.model_version}".strip(),
        )

    def _unasked(self, view: TierView, decision: Decision) -> tuple[str, str]:
        if view.name in decision.passed_over:
            return "passed over", why_passed_over(decision.passed_over[view.name], self._ladder.rules, view)
        if view.name == decision.next_tier:
            return "is asked", "the first tier above that may be asked"
        if decision.is_final:
            return "not asked", "an answer before it was taken"
        return "not asked", f"only if {decision.next_tier} is not sure"


def _print(told: Explanation) -> None:
    for note in told.notes:
        typer.echo(note)
    for result in told.results:
        typer.echo(msgspec.json.format(msgspec.json.encode(result), indent=2).decode())
    if not told.tiers:
        return
    columns = ["tier", "place", "label", "score", "confidence", "accept", "novelty", "verdict"]
    rows = [
        [
            row.tier,
            row.place,
            row.label,
            *(_shown(number) for number in (row.score, row.confidence, row.accept, row.novelty)),
            row.verdict,
        ]
        for row in told.tiers
    ]
    print_table(
        f"{told.topic} on route {told.route}", columns, rows, whole=[name for name in columns if name != "label"]
    )
    for row in told.tiers:
        typer.echo(f"{row.tier}: {row.verdict}: {row.why}")
    kind = "provisional, a correction follows" if told.is_provisional else "final"
    typer.echo(f"Goes out at once: {told.answer} ({kind})")
    if told.leaves is None:
        typer.echo("Nothing leaves the box.")
    else:
        typer.echo(f"Leaves the box, to {told.next_tier}, after redaction:")
        typer.echo(msgspec.json.format(msgspec.json.encode(told.leaves), indent=2).decode())
        typer.echo(told.away)
    for each in told.budgets:
        typer.echo(each.in_words())


def _shown(number: float | None) -> str:
    return "" if number is None else f"{number:.4f}"
