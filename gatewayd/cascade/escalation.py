"""Work off escalations: journal rows that wait for a tier, oldest first, until each is settled with one correction.

Invariants: a correction is inserted and its journal row removed in one transaction, so a crash repeats work and never
an effect; policy is asked again before anything is handed out, for what waits too; one tier that is away holds up only
what waits for it; memory holds one page of the journal a tier, however much waits. A stop waits for the question that
is out and lets no other begin (`Ladder.calls`).
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog

from gatewayd.api import Message
from gatewayd.cascade.corrections import correction, is_changed
from gatewayd.cascade.ladder import Ladder
from gatewayd.cascade.note import Note, read_note, with_note
from gatewayd.cascade.policy import Case, decide, is_within
from gatewayd.cascade.post import Post
from gatewayd.cascade.redact import key_that_leaves
from gatewayd.cascade.verdict import Cause, Decision, Question, Refusal, Verdict
from gatewayd.errors import FatalError, GivesWay, RejectedError, TierSpent, TransientError
from gatewayd.ports import JournalEntry, NewResult, RawMessage, Work
from gatewayd.route import RouteContext, commit

log = structlog.get_logger(__name__)

_PAGE = 128  # journal entries read at once

Redact = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Open:
    """An escalation as the journal has it."""

    entry: JournalEntry
    note: Note


@dataclass(frozen=True, slots=True)
class Escalations:
    """What the workers of one route share."""

    context: RouteContext
    ladder: Ladder
    redact: Redact

    @property
    def route(self) -> str:
        """Its name."""
        return self.context.name


async def run_cascade(shared: Escalations) -> None:
    """Run until cancelled: work off the escalations of a route, those of each tier by themselves."""
    ladder = shared.ladder
    await settle_strays(shared)
    async with asyncio.TaskGroup() as tasks:
        for tier in ladder.posted:
            if tier.post is not None:
                tasks.create_task(run_escalations(shared, tier.post), name=f"escalate[{shared.route}.{tier.name}]")


async def run_escalations(shared: Escalations, post: Post) -> None:
    """Run until cancelled: work off what waits for this tier."""
    bell = shared.ladder.bells[post.name]
    after = 0
    while True:
        bell.clear()
        entries = await shared.context.spool.journal(shared.route, after=after, limit=_PAGE)
        waiting = [each for each in map(_open, entries) if each is not None and each.note.waits_for == post.name]
        if waiting:
            after = waiting[0].entry.id - 1
            await _work_off(shared, post, waiting)
        elif entries:
            after = entries[-1].id
        else:
            if not await shared.context.spool.journal(shared.route, after=0, limit=1):
                shared.ladder.n_waiting = 0
            if not bell.is_set():
                await bell.wait()


async def settle_strays(shared: Escalations) -> None:
    """Once, at the start: what waits for a tier that this route no longer has is decided anew."""
    known = {tier.name for tier in shared.ladder.posted}
    after = 0
    while entries := await shared.context.spool.journal(shared.route, after=after, limit=_PAGE):
        after = entries[-1].id
        strays = [each for each in map(_open, entries) if each is not None and each.note.waits_for not in known]
        if strays:
            await _leave(shared, [(each, _decide(shared, each)) for each in strays])


def _open(entry: JournalEntry) -> Open | None:
    note = read_note(entry.message)
    return None if note is None else Open(entry, note)


async def _work_off(shared: Escalations, post: Post, waiting: Sequence[Open]) -> None:
    """Settle what no longer waits, then ask for the oldest of the rest; or sleep until that may be done."""
    decided = [(each, _decide(shared, each)) for each in waiting]
    leaving = [(each, decision) for each, decision in decided if decision.next_tier != post.name]
    if leaving:
        await _leave(shared, leaving)
        return
    if (wait_s := post.wait_s()) > 0:
        rest_s = shared.ladder.rules.max_age_s - waiting[0].note.born.age_s(shared.context.clock)
        # A little later than the limit, for what is exactly as old as it may be is not too old yet.
        await shared.context.clock.sleep(min(wait_s, max(0.0, rest_s) + 0.01))
        return
    await _ask(shared, post, _batch(post, waiting))


def _batch(post: Post, waiting: Sequence[Open]) -> Sequence[Open]:
    """The oldest. Alone what was tried before by a handler on this box: it may be what killed the process."""
    if _attempts(post, waiting[0]):
        return waiting[:1]
    tried = (index for index, each in enumerate(waiting) if _attempts(post, each))
    return waiting[: min(post.max_batch, next(tried, post.max_batch))]


def _attempts(post: Post, each: Open) -> int:
    """How often a handler on this box was asked about it, over crashes too."""
    if not post.counts_attempts:
        return 0
    return each.entry.attempts - (each.entry.id in post.begun)


async def _ask(shared: Escalations, post: Post, batch: Sequence[Open]) -> None:
    context = shared.context
    given_up = [each for each in batch if _attempts(post, each) >= context.config.max_attempts]
    if given_up:
        await _leave(shared, [(each, _refused(shared, each, post.name, "refused")) for each in given_up])
        return
    questions, unasked = _questions(shared, post, batch)
    if unasked:
        await _leave(shared, [(each, _refused(shared, each, post.name, "refused")) for each in unasked])
        return
    async with shared.ladder.calls[post.name]:
        try:
            await post.prepare()
            await _begin(context, post, batch)
            context.crash.reach("cascade.before_ask")
            answers = await _answers(post, questions)
        except GivesWay:  # what is counted on disk is the attempt that is still to be made
            post.begun = frozenset(each.entry.id for each in batch)
            return
        except TransientError:
            return  # the post knows when to ask again, and the policy is asked first
        context.crash.reach("cascade.after_answer")
        decided = [
            (_after(each, answer, question, post.name), answer)
            for each, answer, question in zip(batch, answers, questions, strict=True)
            if answer is not None
        ]
        await _leave(shared, [(each, _decide(shared, each)) for each, _ in decided])
        context.crash.reach("cascade.after_settle")


async def _begin(context: RouteContext, post: Post, batch: Sequence[Open]) -> None:
    """Count the attempt on disk before it is made."""
    if post.counts_attempts:
        ids = [each.entry.id for each in batch if each.entry.id not in post.begun]
        post.begun = frozenset()
        if ids:
            await context.spool.begin(context.name, ids)


async def _answers(post: Post, questions: Sequence[Question]) -> Sequence[Verdict | Refusal | None]:
    """One a question; None for one that the budget of the day did not allow. Raises TransientError."""
    try:
        return await post.ask(questions)
    except TierSpent:
        if len(questions) == 1:
            raise
    answers: list[Verdict | Refusal | None] = []
    for question in questions:  # what was paid for is answered from the client's memory
        try:
            answers += await post.ask([question])
        except TierSpent:
            break
    if not answers:
        raise TierSpent("the budget of the day does not allow one more question")
    return [*answers, *[None] * (len(questions) - len(answers))]


def _questions(shared: Escalations, post: Post, batch: Sequence[Open]) -> tuple[list[Question], list[Open]]:
    """What is asked, redacted where it leaves the box; and what cannot be asked, for it does not decode (any more)."""
    if not is_within(shared.ladder.rules.privacy, post.client.place):
        raise FatalError(f"route {shared.route}: tier {post.name} must not be asked: privacy")
    questions: list[Question] = []
    unasked: list[Open] = []
    for each in batch:
        try:
            questions.append(_question(shared, post, each))
        except RejectedError as error:
            log.warning("escalation cannot be asked", route=shared.route, key=each.note.first_key, cause=str(error))
            unasked.append(each)
    return questions, unasked


def _question(shared: Escalations, post: Post, each: Open) -> Question:
    message = _decoded(shared, each)
    note = each.note
    evidence = msgspec.json.decode(note.evidence)
    value = message.value if evidence is None else evidence
    leaves = post.client.place != "gateway"
    return Question(
        key=key_that_leaves(note.first_key, shared.redact) if leaves else note.first_key,
        topic=shared.redact(message.topic) if leaves else message.topic,
        value=shared.redact(value) if leaves else value,
        time=message.time,
        labels=tuple(note.first.scores) if len(note.first.scores) > 1 else (),
        first=note.first,
        n_attempts=max(1, post.failures + 1),
    )


def _decoded(shared: Escalations, each: Open) -> Message:
    return shared.context.decoder.decode(each.entry.message)


def _after(each: Open, answer: Verdict | Refusal | None, question: Question, tier: str) -> Open:
    """The escalation as the answer leaves it."""
    note = each.note
    if isinstance(answer, Verdict) and (not question.labels or answer.label in question.labels):
        named = msgspec.structs.replace(answer, tier=tier)
        return Open(each.entry, msgspec.structs.replace(note, asked=(*note.asked, named)))
    cause: Cause = "refused" if isinstance(answer, Refusal) else "no_answer"
    return Open(each.entry, msgspec.structs.replace(note, refused={**note.refused, tier: cause}))


def _refused(shared: Escalations, each: Open, tier: str, cause: Cause) -> Decision:
    refused: Mapping[str, Cause] = {**each.note.refused, tier: cause}
    return _decide(shared, Open(each.entry, msgspec.structs.replace(each.note, refused=refused)))


def _decide(shared: Escalations, each: Open) -> Decision:
    """What becomes of it as things are now."""
    clock, note = shared.context.clock, each.note
    case = Case(
        route=shared.route,
        key=note.first_key,
        time=clock.now(),
        asked=note.asked,
        refused=note.refused,
        age_s=note.born.age_s(clock),
    )
    return decide(shared.ladder.rules, shared.ladder.views(), case)


async def _leave(shared: Escalations, decided: Sequence[tuple[Open, Decision]]) -> None:
    """These rows leave the journal: settled with a correction, or put behind, for another tier. One commit."""
    context, ladder = shared.context, shared.ladder
    settled = [(each, decision) for each, decision in decided if decision.is_final]
    results = [_correction(shared, each, decision) for each, decision in settled]
    moved = [_moved(each, decision) for each, decision in decided if not decision.is_final]
    if context.live is not None and results:
        await context.live(context.name, results)
    for each, decision in decided:
        ladder.decided(decision, corrects=each.note.first_key)
    work = Work(
        route=context.name,
        handled=len(settled),
        results=results,
        journal=moved,
        done=[each.entry.id for each, _ in decided],
    )
    await commit(context, work)
    for each, decision in settled:
        ladder.report.corrected(context.name, _outcome(each.note, decision), 1)
        if ladder.wants_lesson(decision):
            with suppress(RejectedError):  # a payload that does not decode any more teaches nothing
                ladder.learn(decision, _decoded(shared, each), each.note.evidence)


def _moved(each: Open, decision: Decision) -> RawMessage:
    note = msgspec.structs.replace(
        each.note,
        waits_for=decision.next_tier,
        cause=decision.cause,
        asked=decision.asked,
        refused={name: cause for name, cause in decision.passed_over.items() if cause in ("refused", "no_answer")},
    )
    return with_note(each.entry.message, note)


def _correction(shared: Escalations, each: Open, decision: Decision) -> NewResult:
    context = shared.context
    extra: dict[str, Any] = {}
    if context.config.include_input:
        with suppress(RejectedError):  # it is settled because of that
            extra["input"] = _decoded(shared, each).value
    return correction(each.entry.message, each.note, decision, now=context.clock.now(), extra=extra)


def _outcome(note: Note, decision: Decision) -> str:
    """For counters: whether a better tier answered, and whether it said something else."""
    if len(decision.asked) == note.n_local:
        return decision.cause
    return "changed" if is_changed(note, decision) else "confirmed"
