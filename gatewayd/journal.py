"""Work from the journal: entries into batches or windows, through the handler, out of the journal.

Invariants: results are inserted and their journal entries removed in one transaction, so a crash repeats work and
never an effect; an attempt is counted on disk before it is made, so that what kills the process is buried in the end;
memory holds the ids of what waits in windows, never the payloads. A stop waits for the attempt that is being made and
lets no other begin (`RouteContext.in_call`): one cut short would count against messages that have done nothing wrong.
A route with `parallel` works in as many lanes; windows, or messages of a topic, stay in theirs and in order.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from gatewayd.api import Message, Window
from gatewayd.config.schema import WindowLimits
from gatewayd.errors import GivesWay, RejectedError, TransientError
from gatewayd.lanes import Lanes
from gatewayd.payloads.paths import compile_path, follow
from gatewayd.ports import JournalEntry, Work
from gatewayd.queues import RouteQueue
from gatewayd.results import dead_letter
from gatewayd.route import Outcome, RouteContext, commit, decode_all, handle, pause_before_retry
from gatewayd.windows import Closed, Windows

_PAGE = 256  # journal entries read at once
_LEAST_SLEEP_S = 0.02  # a window that is due waits so long for what is still on its way into the journal


_Job = Closed | Sequence[JournalEntry]


@dataclass(frozen=True, slots=True)
class Wake:
    """What wakes the worker of a route: new entries, or the order to close what is open (replay, at its end)."""

    arrived: asyncio.Event
    flush: asyncio.Event


async def run_from_journal(context: RouteContext, queue: RouteQueue, wake: Wake, idle: asyncio.Event) -> None:
    """Run until cancelled. `idle` is set whenever all that is in the journal is handled or waits in a window."""

    async def work(lane: int, job: _Job) -> None:
        if isinstance(job, Closed):
            await _handle_closed(context, job, lane)
        else:
            await _handle_entries(context, job, lane)

    def rested() -> None:
        if has_given_all and not wake.arrived.is_set():
            idle.set()

    lanes: Lanes[_Job] = Lanes(context.config.parallel, work, rested)
    windows = _windows(context)
    after = 0
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(lanes.run(context.name), name=f"lanes[{context.name}]")
        while True:
            has_given_all = False
            wake.arrived.clear()
            idle.clear()
            while entries := await context.spool.journal(context.name, after=after, limit=_page_size(context)):
                after = entries[-1].id
                if windows is None:
                    await _give_entries(context, lanes, _unanswered(context, entries))
                else:
                    await _give_closed(lanes, await _place(context, windows, entries))
            if wake.arrived.is_set():
                continue  # came in after the last look: it belongs into its window before the clock closes that
            if windows is not None:
                await _give_closed(lanes, _due(context, windows, queue, wake))
            has_given_all = True
            if lanes.is_resting:
                idle.set()
            await _sleep(context, wake, windows)


async def _give_closed(lanes: Lanes[_Job], closed: Sequence[Closed]) -> None:
    for window in closed:
        await lanes.give(window.key, window)


async def _give_entries(context: RouteContext, lanes: Lanes[_Job], entries: Sequence[JournalEntry]) -> None:
    """To each lane the messages of its topics, in order."""
    if context.config.parallel == 1:
        await lanes.give("", entries)
        return
    shares: dict[int, list[JournalEntry]] = {}
    for entry in entries:
        shares.setdefault(lanes.lane_of(entry.message.topic), []).append(entry)
    for share in shares.values():
        for batch in _batches(share, context.config.batch.max_messages):
            await lanes.give(batch[0].message.topic, batch)


def _batches(entries: Sequence[JournalEntry], n: int) -> Iterator[Sequence[JournalEntry]]:
    for first in range(0, len(entries), n):
        yield entries[first : first + n]


def _unanswered(context: RouteContext, entries: Sequence[JournalEntry]) -> Sequence[JournalEntry]:
    """Without those that have an answer and wait for a better one: see gatewayd.cascade.escalation."""
    if context.cascade is None:
        return entries
    return [entry for entry in entries if not context.cascade.is_waiting(entry.message)]


def _page_size(context: RouteContext) -> int:
    config = context.config
    return _PAGE if config.window is not None else min(_PAGE, config.batch.max_messages * config.parallel)


def _windows(context: RouteContext) -> Windows | None:
    limits = context.config.window
    return None if limits is None else Windows(limits, event_time=context.config.payload.time is not None)


def _due(context: RouteContext, windows: Windows, queue: RouteQueue, wake: Wake) -> Sequence[Closed]:
    """The windows that the clock closes. Not while messages are on their way into the journal: one that arrived in
    time must not find its window closed. Under load it is the arrivals themselves that close windows."""
    if wake.flush.is_set():
        return windows.flush()
    return windows.tick(context.clock.now()) if queue.is_idle else ()


async def _sleep(context: RouteContext, wake: Wake, windows: Windows | None) -> None:
    """Until something arrives or the next window is due."""
    deadline = windows.deadline() if windows is not None else None
    timeout_s = None if deadline is None else max(_LEAST_SLEEP_S, deadline - context.clock.now())
    try:
        async with asyncio.timeout(timeout_s):
            await wake.arrived.wait()
    except TimeoutError:
        pass


async def _handle_entries(context: RouteContext, entries: Sequence[JournalEntry], lane: int) -> None:
    """In order; together what was never tried, alone what was (one of them may be what killed the process).

    With a single attempt each goes alone from the start: its neighbors would be buried with it, and untried.
    """
    for is_fresh, group in groupby(entries, key=_is_fresh):
        if is_fresh and context.config.max_attempts > 1:
            await _handle_group(context, list(group), None, lane)
            continue
        for entry in group:
            await _handle_group(context, [entry], None, lane)


def _is_fresh(entry: JournalEntry) -> bool:
    return entry.attempts == 0


async def _handle_closed(context: RouteContext, closed: Closed, lane: int) -> None:
    entries = await context.spool.journal_get(context.name, closed.ids)
    if entries:
        window = Window(key=closed.key, start=closed.start, end=closed.end, late=closed.late)
        await _handle_group(context, entries, window, lane)


async def _handle_group(
    context: RouteContext, entries: Sequence[JournalEntry], window: Window | None, lane: int
) -> None:
    """Handle entries that belong together; whatever comes of it, they leave the journal in one commit."""
    ids = [entry.id for entry in entries]
    raws, late = context.terms.begin([entry.message for entry in entries], is_window=window is not None)
    pairs, dead = decode_all(context, raws)
    dead += late
    attempts = max(entry.attempts for entry in entries)
    reason = "the process ended each time, or the handler never answered"
    is_begun = False
    while attempts < context.config.max_attempts:
        attempts += 1
        try:
            async with context.in_call:
                if not is_begun:
                    await context.spool.begin(context.name, ids)
                is_begun = False
                outcome = await handle(context, pairs, window, lane)
                outcome.dead = [*dead, *outcome.dead]
                await commit(context, _answered(context.name, ids, outcome))
                return
        except GivesWay as error:  # what is counted on disk is the attempt that is still to be made
            attempts, is_begun = attempts - 1, True
            await pause_before_retry(context, 1, str(error))
        except TransientError as error:
            reason = str(error)
            if attempts < context.config.max_attempts:
                await pause_before_retry(context, attempts, reason)
    detail = f"given up after {attempts} attempts: {reason}"
    dead += [dead_letter(context.name, raw, "attempts", detail) for raw, _ in pairs]
    await commit(context, Work(route=context.name, done=ids, dead=dead))


def _answered(route: str, ids: Sequence[int], outcome: Outcome) -> Work:
    return Work(
        route=route,
        handled=outcome.n_handled(len(ids)),
        results=outcome.results,
        journal=outcome.journal,
        done=ids,
        dead=outcome.dead,
    )


async def _place(context: RouteContext, windows: Windows, entries: Sequence[JournalEntry]) -> list[Closed]:
    """Put each entry into its window; what does not decode, or is late and unwanted, leaves the journal here."""
    closed: list[Closed] = []
    limits = context.config.window
    assert limits is not None
    for entry in entries:
        raw = entry.message
        try:
            message = context.decoder.decode(raw)
            key = window_key_of(limits, message)
        except RejectedError as error:
            letter = dead_letter(context.name, raw, error.reason, str(error))
            await commit(context, Work(route=context.name, done=[entry.id], dead=[letter]))
            continue
        placed = windows.add(entry.id, key, message.time, size=len(raw.payload), now=raw.time)
        closed += placed.closed
        if placed.fate == "drop":
            await commit(context, Work(route=context.name, done=[entry.id], dropped={"late": 1}))
        elif placed.fate == "bury":
            letter = dead_letter(context.name, raw, "late", "its window had closed before it arrived")
            await commit(context, Work(route=context.name, done=[entry.id], dead=[letter]))
    return closed


def window_key_of(limits: WindowLimits, message: Message) -> str:
    """Which of the route's windows a message belongs to. Raises RejectedError where the field is missing."""
    if limits.key in ("", "topic"):
        return message.topic if limits.key else ""
    return str(follow(message.value, compile_path(limits.key), topic=message.topic, time=message.time))
