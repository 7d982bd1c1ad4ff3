"""A route: messages out of its queue, through its handler, past their durable point, acknowledged.

Invariants: a message is acknowledged only after the commit that holds its results (direct) or the message itself
(journaled); nothing is counted before that commit; a message that may have killed the process before is handled
alone, its attempt counted on disk before it is made.

Being cancelled is the same as losing power: what was not committed comes again, so nothing here is shielded.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Protocol

import structlog

from gatewayd.answer import Answer, HandlerRunner
from gatewayd.api import Batch, Message, Window
from gatewayd.batching import UNKNOWN, CallTimes
from gatewayd.cascade.note import without_note
from gatewayd.config import schema
from gatewayd.crash import NO_CRASH, CrashPoint
from gatewayd.door import Door, admit
from gatewayd.errors import GivesWay, RejectedError, SpoolFull, TransientError
from gatewayd.flow.glance import Glance
from gatewayd.lanes import Calls
from gatewayd.payloads import Decoder
from gatewayd.ports import Clock, DeadLetter, Draw, NewResult, RawMessage, Source, Spool, Work
from gatewayd.queues import Item, Receipt, RouteQueue
from gatewayd.results import dead_letter, dead_letters, new_results
from gatewayd.retry import full_jitter_s
from gatewayd.terms import Terms

log = structlog.get_logger(__name__)

Pair = tuple[RawMessage, Message]

_MAX_UNSETTLED = 4  # batches handled ahead of the commit: hides the cost of fsync, bounds what a crash repeats
_FULL_RETRY_S = 0.5  # how often a commit is tried again while the spool is full and the route says "block"


class ProcessSpan(Protocol):
    """The span of one batch."""

    traceparent: str  # to store with the results; "" when the span is not sampled


class RouteReport(Protocol):
    """What a route tells telemetry: one call a batch, not a message."""

    def message_received(self, route: str, n: int) -> None: ...

    def handled(self, route: str, n: int) -> None: ...

    def journaled(self, route: str, n: int) -> None: ...

    def spooled(self, route: str, n: int) -> None: ...

    def dropped(self, route: str, reason: str, n: int) -> None: ...

    def buried(self, route: str, reason: str, n: int) -> None: ...

    def batch_handled(self, route: str, n: int, seconds: float) -> None: ...

    def batch_late(self, route: str) -> None: ...

    def process(self, route: str, messages: Sequence[RawMessage]) -> AbstractContextManager[ProcessSpan]: ...


class Cascade(Protocol):
    """The tiers of a route, as the stages see them: see gatewayd.cascade."""

    def opened(self, pairs: Sequence[Pair], answer: Answer) -> list[RawMessage]:
        """Of an answered batch the messages whose answer is provisional, as they go into the journal."""

    def committed(self, work: Work) -> None:
        """A work of the route is on disk."""

    def lost(self, n: int) -> None:
        """The spool gave up journal rows of the route."""

    def is_waiting(self, raw: RawMessage) -> bool:
        """Whether a journal row is one of an open escalation."""


class Live(Protocol):
    """Publishes results on the local bus at once."""

    async def __call__(self, route: str, results: Sequence[NewResult]) -> None: ...


@dataclass(slots=True, kw_only=True)
class RouteContext:
    """All that the tasks of one route share. `runner` is replaced on reload."""

    name: str
    config: schema.Route
    decoder: Decoder
    runner: HandlerRunner
    spool: Spool
    source: Source
    live: Live | None
    report: RouteReport
    clock: Clock
    draw: Draw
    max_payload_bytes: int
    tag: bytes  # see gatewayd.intake.Inlet
    terms: Terms
    crash: CrashPoint = NO_CRASH
    calls: CallTimes = UNKNOWN  # how long a batch takes from the queue to its answer, on a direct route
    in_call: Calls = field(default_factory=Calls)  # held from an attempt at journal entries to its commit
    cascade: Cascade | None = None
    glance: Glance = field(default_factory=Glance)
    door: Door | None = None  # None: every message is taken as it comes


@dataclass(slots=True)
class Outcome:
    """What came of messages: their results, and of those without a last one where they went."""

    results: list[NewResult] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    journal: list[RawMessage] = field(default_factory=list)  # answered for now; a better answer follows from there

    def n_handled(self, n_messages: int) -> int:
        """How many of them are done with."""
        return n_messages - len(self.dead) - len(self.journal)


@dataclass(slots=True)
class _Handled:
    """A batch on its way to its durable point."""

    work: Work
    receipts: list[Receipt]
    n_messages: int


async def run_direct(context: RouteContext, queue: RouteQueue) -> None:
    """Run until cancelled: handle, commit the results, acknowledge."""
    unsettled: asyncio.Queue[_Handled] = asyncio.Queue(maxsize=_MAX_UNSETTLED)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_handle_batches(context, queue, unsettled), name=f"handle[{context.name}]")
        tasks.create_task(_settle_batches(context, queue, unsettled), name=f"settle[{context.name}]")


async def run_journaling(context: RouteContext, queue: RouteQueue, arrived: asyncio.Event) -> None:
    """Run until cancelled: commit the raw messages to the journal, acknowledge, wake who works from the journal."""
    while True:
        items = await queue.take(context.config.batch)
        context.report.message_received(context.name, len(items))
        raws = [without_note(raw) for raw, _ in items if len(raw.payload) <= context.max_payload_bytes]
        dead = [_too_large(context, raw) for raw, _ in items if len(raw.payload) > context.max_payload_bytes]
        admitted, dropped = await admit(context.door, raws, context.source, context.clock)
        work = Work(
            route=context.name,
            received=len(items),
            journal=admitted,
            dead=dead,
            dropped=dropped,
            seen=_seen(context, items),
        )
        await _settle(context, queue, [_Handled(work, _receipts(items), len(items))])
        context.report.journaled(context.name, len(admitted))
        arrived.set()


async def _handle_batches(context: RouteContext, queue: RouteQueue, unsettled: asyncio.Queue[_Handled]) -> None:
    while True:
        items = await queue.take(context.config.batch, context.calls)
        context.report.message_received(context.name, len(items))
        # In order of arrival: what was delivered again came before what is new.
        for is_suspect, group in groupby(items, key=_is_redelivered):
            if is_suspect:
                await _handle_suspects(context, list(group), unsettled)
            else:
                await unsettled.put(await _handle_in_budget(context, list(group), queue.waited_s))


async def _handle_in_budget(context: RouteContext, items: Sequence[Item], waited_s: float) -> _Handled:
    """Timed: the next batch is cut by how long this one took."""
    began_s = context.clock.monotonic()
    handled = await _handle_items(context, items)
    took_s = context.clock.monotonic() - began_s
    context.calls = context.calls.after(len(items), took_s)
    if 0 < context.config.batch.budget_ms < 1000 * (waited_s + took_s):
        context.report.batch_late(context.name)
    return handled


async def _handle_suspects(context: RouteContext, items: Sequence[Item], unsettled: asyncio.Queue[_Handled]) -> None:
    """Redelivered messages: one of them may be what killed the process. Together those that were never tried (there may
    be thousands after an outage), each alone after that, and always counted before. With a single attempt each goes
    alone from the start: its neighbors would be buried with it, and untried."""
    were_tried = [True] * len(items)
    if context.config.max_attempts > 1 and all(raw.identity for raw, _ in items):
        firsts = await context.spool.first_attempts([raw.identity + context.tag for raw, _ in items])
        were_tried = [not is_first for is_first in firsts]
    for was_tried, group in groupby(zip(items, were_tried, strict=True), key=itemgetter(1)):
        if was_tried:
            for item, _ in group:
                await unsettled.put(await _handle_suspect(context, item))
                # On disk before the next is tried: what that one kills must not count against this one again.
                await unsettled.join()
        else:
            await unsettled.put(await _handle_items(context, [item for item, _ in group]))


def _is_redelivered(item: Item) -> bool:
    return item[0].dup


async def _handle_items(context: RouteContext, items: Sequence[Item]) -> _Handled:
    raws, late = context.terms.begin([raw for raw, _ in items])
    admitted, dropped = await admit(context.door, raws, context.source, context.clock)
    pairs, undecoded = decode_all(context, admitted)
    outcome = await _handle_patiently(context, pairs)
    outcome.dead = [*late, *undecoded, *outcome.dead]
    work = Work(
        route=context.name,
        received=len(items),
        handled=outcome.n_handled(len(items) - sum(dropped.values())),
        results=outcome.results,
        journal=outcome.journal,
        dead=outcome.dead,
        dropped=dropped,
        seen=_seen(context, items),
    )
    return _Handled(work, _receipts(items), len(items))


async def _handle_suspect(context: RouteContext, item: Item) -> _Handled:
    """Alone, and counted before it is tried."""
    raw = item[0]
    if raw.identity and await context.spool.attempt(raw.identity + context.tag) > context.config.max_attempts:
        detail = f"tried {context.config.max_attempts} times and never answered, over restarts of the process"
        dead = [dead_letter(context.name, raw, "attempts", detail)]
        work = Work(route=context.name, received=1, dead=dead, seen=_seen(context, [item]))
        return _Handled(work, _receipts([item]), 1)
    return await _handle_items(context, [item])


async def _handle_patiently(context: RouteContext, pairs: Sequence[Pair]) -> Outcome:
    """Call again on a passing failure, `max_attempts` times in all."""
    attempt = 0
    while attempt < context.config.max_attempts:
        attempt += 1
        try:
            return await handle(context, pairs)
        except GivesWay as error:
            attempt -= 1
            await pause_before_retry(context, 1, str(error))
        except TransientError as error:
            reason = str(error)
            if attempt < context.config.max_attempts:
                await pause_before_retry(context, attempt, reason)
    return Outcome(dead=[dead_letter(context.name, raw, "attempts", reason) for raw, _ in pairs])


async def pause_before_retry(context: RouteContext, attempt: int, reason: str) -> None:
    """Wait, with full jitter, before a handler that failed for a passing reason is called again."""
    delay_s = full_jitter_s(attempt, draw=context.draw(), cap_s=context.config.retry_s)
    log.warning("handler failed, will retry", route=context.name, attempt=attempt, delay_s=delay_s, cause=reason)
    await context.clock.sleep(delay_s)


def decode_all(context: RouteContext, raws: Sequence[RawMessage]) -> tuple[list[Pair], list[DeadLetter]]:
    """Decode each message; those that do not decode are dead, their neighbors are not disturbed."""
    pairs: list[Pair] = []
    dead: list[DeadLetter] = []
    for raw in raws:
        if len(raw.payload) > context.max_payload_bytes:
            dead.append(_too_large(context, raw))
            continue
        try:
            pairs.append((raw, context.decoder.decode(raw)))
        except RejectedError as error:
            dead.append(dead_letter(context.name, raw, error.reason, str(error)))
    return pairs, dead


def _too_large(context: RouteContext, raw: RawMessage) -> DeadLetter:
    detail = f"{len(raw.payload)} bytes; source.max_payload_bytes allows {context.max_payload_bytes}"
    return dead_letter(context.name, raw, "too_large", detail)


async def handle(context: RouteContext, pairs: Sequence[Pair], window: Window | None = None, lane: int = 0) -> Outcome:
    """One call of the handler: its results, published live, and its dead letters. Raises TransientError."""
    if not pairs:
        return Outcome()
    messages = [message for _, message in pairs]
    batch = Batch(route=context.name, messages=messages, now=context.clock.now(), window=window)
    started_s = context.clock.monotonic()
    with context.report.process(context.name, [raw for raw, _ in pairs]) as span:
        answer = await context.runner.answer(batch, lane)
    call_s, finished = context.clock.monotonic() - started_s, context.clock.now()
    context.report.batch_handled(context.name, len(pairs), call_s)
    context.glance.answered(finished, len(pairs), call_s, max(0.0, finished - pairs[0][0].time))
    results = new_results(
        batch,
        answer,
        finished=finished,
        traceparents=_traceparents(pairs, span.traceparent),
        include_input=context.config.include_input,
    )
    if context.live is not None and results:
        await context.live(context.name, results)
    opened = [] if context.cascade is None else context.cascade.opened(pairs, answer)
    return Outcome(results, dead_letters(context.name, pairs, answer.buried), opened)


def _traceparents(pairs: Sequence[Pair], own: str) -> dict[int, str]:
    """The trace each result joins: the batch's own span, or (not sampled) the one its message came with."""
    if own:
        return dict.fromkeys([0, *(id(message) for _, message in pairs)], own)
    return {id(message): raw.traceparent for raw, message in pairs if raw.properties}


async def _settle_batches(context: RouteContext, queue: RouteQueue, unsettled: asyncio.Queue[_Handled]) -> None:
    while True:
        batches = [await unsettled.get(), *(unsettled.get_nowait() for _ in range(unsettled.qsize()))]
        await _settle(context, queue, batches)
        for _ in batches:
            unsettled.task_done()


async def _settle(context: RouteContext, queue: RouteQueue, batches: Sequence[_Handled]) -> None:
    """Past the durable point, and only then acknowledged."""
    work = merge([batch.work for batch in batches])
    await commit(context, work)
    tokens = [receipt.token for batch in batches for receipt in batch.receipts if receipt.passed()]
    if tokens:
        context.crash.reach("route.before_ack")
        await context.source.ack(tokens)
        context.crash.reach("route.after_ack")
    queue.passed(sum(batch.n_messages for batch in batches))


async def commit(context: RouteContext, work: Work) -> None:
    """Commit, however long the spool is full; then tell telemetry."""
    is_held = False
    while True:
        try:
            await context.spool.commit(work)
            break
        except SpoolFull as error:
            if not is_held:  # said once, not with every attempt
                log.warning("spool full, holding messages back", route=context.name, cause=str(error))
            is_held = True
            await context.clock.sleep(_FULL_RETRY_S)
    if is_held:
        log.info("spool takes messages again", route=context.name)
    _report(context, work)
    if context.cascade is not None:
        context.cascade.committed(work)


def _report(context: RouteContext, work: Work) -> None:
    if work.handled:
        context.report.handled(context.name, work.handled)
    if work.results:
        context.report.spooled(context.name, len(work.results))
        context.glance.committed(work.results)
    for letter in work.dead:
        context.report.buried(context.name, letter.reason, 1)
        log.warning("message buried", route=context.name, reason=letter.reason, topic=letter.topic, key=letter.key)
    for reason, n_dropped in work.dropped.items():
        context.report.dropped(context.name, reason, n_dropped)


def merge(works: Sequence[Work]) -> Work:
    """Several works of one route as one: a single transaction is cheaper than several."""
    if len(works) == 1:
        return works[0]
    dropped: dict[str, int] = {}
    for work in works:
        for reason, n_dropped in work.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + n_dropped
    return Work(
        route=works[0].route,
        received=sum(work.received for work in works),
        handled=sum(work.handled for work in works),
        results=[result for work in works for result in work.results],
        journal=[raw for work in works for raw in work.journal],
        done=[entry for work in works for entry in work.done],
        dead=[letter for work in works for letter in work.dead],
        dropped=dropped,
        seen=[identity for work in works for identity in work.seen],
    )


def _seen(context: RouteContext, items: Sequence[Item]) -> list[bytes]:
    return [raw.identity + context.tag for raw, _ in items if raw.identity]


def _receipts(items: Sequence[Item]) -> list[Receipt]:
    return [receipt for _, receipt in items if receipt is not None]
