"""One tier outside of this box: asks it, whatever its dialect.

Invariants: every question gets a verdict or a refusal, or `ask` raises and the question is as open as before; an answer
that came is not asked for again, for it is remembered until it is handed over; what can mean the way there refuses no
question; nothing is sent that the day's budget does not allow, nor while the tier is down.
"""

import asyncio
from collections import deque
from collections.abc import Hashable, Sequence
from typing import Protocol

from gatewayd.cascade.budgets import Budget
from gatewayd.cascade.remote.breaker import Breaker, BreakerReport, State
from gatewayd.cascade.remote.dialect import Dialect, GarbledError, Reply, Said, usable
from gatewayd.cascade.remote.exchange import ChokedError, Exchange, Exchanged, RefusedError, TooLargeError
from gatewayd.cascade.remote.memory import Remembered, Suspects, digest_of
from gatewayd.cascade.verdict import Place, Question, Refusal, Verdict
from gatewayd.config.tiers import RemoteTier
from gatewayd.errors import TierMisconfigured, TierSpent, TierUnavailable
from gatewayd.gate import Room

_MAX_ASKED = 3  # times within one call that a question which the far side left out is put


class TierReport(BreakerReport, Protocol):
    """Who is told what a tier does."""

    def tier_answered(self, tier: str, n: int, seconds: float) -> None:
        """A request was answered with `n` verdicts."""

    def tier_refused(self, tier: str, reason: str, n: int) -> None:
        """`n` questions will never be answered."""

    def tier_failed(self, tier: str, reason: str) -> None:
        """A request brought no answers, and will be made again."""

    def tier_tokens(self, tier: str, tokens_in: int, tokens_out: int) -> None:
        """What the far side says that a request took."""


class _Round:
    """One call of `ask`: its questions, and what is known about each."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self.questions = questions
        self.digests = [digest_of(question) for question in questions]
        self.answers: list[Verdict | Refusal | None] = [None] * len(questions)
        self.n_left_out = [0] * len(questions)
        self.portions: deque[list[int]] = deque()
        self.n_learned = -1  # what the dialect knew when the portions were made
        self.failure: TierUnavailable | None = None

    @property
    def open(self) -> list[int]:
        """The questions without an answer."""
        return [index for index, answer in enumerate(self.answers) if answer is None]

    def split(self, portion: list[int]) -> None:
        """Two smaller ones are next."""
        middle = len(portion) // 2
        self.portions.extendleft((portion[middle:], portion[:middle]))


class RemoteTierClient:
    """Implements ports.TierClient."""

    def __init__(
        self,
        name: str,
        config: RemoteTier,
        dialect: Dialect,
        *,
        exchange: Exchange,
        breaker: Breaker,
        report: TierReport,
    ) -> None:
        self._name = name
        self._place: Place = config.place
        self._dialect = dialect
        self._exchange = exchange
        self._breaker = breaker
        self._report = report
        self._room = Room(max_batch=dialect.max_questions, max_batch_bytes=1 << 62, max_probe=1)
        self._probing = asyncio.Lock()
        self._remembered = Remembered()
        self._suspects = Suspects()
        self._n_learned = 0

    @property
    def name(self) -> str:
        """See ports.TierClient."""
        return self._name

    @property
    def place(self) -> Place:
        """See ports.TierClient."""
        return self._place

    @property
    def usual_latency_ms(self) -> float | None:
        """See ports.TierClient."""
        return self._exchange.usual_latency_ms

    @property
    def state(self) -> State:
        """Of its circuit breaker."""
        return self._breaker.state

    @property
    def reason(self) -> str:
        """Why it is down; "" while it is up."""
        return self._breaker.reason

    @property
    def budget(self) -> Budget:
        """What it costs, and may."""
        return self._exchange.budget

    @property
    def sent_bytes(self) -> int:
        """On the wire so far, both ways; never falls."""
        return self._exchange.link.sent_bytes

    async def ask(self, questions: Sequence[Question]) -> Sequence[Verdict | Refusal]:
        """See ports.TierClient."""
        round_ = _Round(questions)
        for index, digest in enumerate(round_.digests):
            round_.answers[index] = self._remembered.take(digest) or self._suspects.refusal(digest)
        try:
            await self._answer(round_)
        finally:  # also when cancelled: synchronous
            if round_.open:
                self._remembered.put(zip(round_.digests, round_.answers, strict=True))
        return [answer for answer in round_.answers if answer is not None]

    async def close(self) -> None:
        """See ports.TierClient."""
        await self._exchange.link.close()

    async def _answer(self, round_: _Round) -> None:
        if round_.open and self._breaker.state != "up":
            await self._probe(round_)
        if round_.open:
            await self._learn()
            round_.portions.clear()
            self._plan(round_, round_.open)
        n_at_once = min(self._dialect.n_at_once, len(round_.portions))
        async with asyncio.TaskGroup() as tasks:
            for number in range(n_at_once):
                tasks.create_task(self._work_off(round_), name=f"tier[{self._name}].{number}")
        if round_.failure is not None:
            raise round_.failure

    def _plan(self, round_: _Round, indexes: Sequence[int]) -> None:
        """Refuse those that cannot be put at all; make portions of the others, of those that may share a request."""
        size, _ = self._room.limits(probe=False)
        groups: dict[Hashable, list[int]] = {}
        for index in self._screened(round_, indexes):
            group = self._dialect.group(round_.questions[index])
            groups.setdefault((index,) if group is None else ("", group), []).append(index)
        for waiting in groups.values():
            round_.portions.extend(waiting[start : start + size] for start in range(0, len(waiting), size))
        round_.n_learned = self._n_learned

    async def _probe(self, round_: _Round) -> None:
        """The tier is down: one question asks for it, and not one that may be what the far side chokes on."""
        async with self._probing:
            if self._breaker.state == "up":
                return  # another call's probe got through while we waited
            self._breaker.begin_probe()
            try:
                await self._learn()
                waiting = self._screened(round_, round_.open)
                round_.n_learned = self._n_learned
                if waiting:
                    index = min(waiting, key=lambda each: self._suspects.n_failed(round_.digests[each]))
                    await self._put(round_, [index])
            finally:
                self._breaker.end_probe()

    async def _learn(self) -> None:
        """Read what the dialect has to know first."""
        if self._dialect.wants is None:
            return
        ticket = self._breaker.ticket()
        try:
            self._dialect.learn(await self._exchange.get(self._dialect.wants))
            self._n_learned += 1
        except (GarbledError, RefusedError) as exc:
            error = TierMisconfigured(f"tier {self._name} cannot be asked: {exc}")
            error.hint = f"check `url`, `model` and the rest of tiers.{self._name}"
            raise self._failed(ticket, error) from exc
        except TierUnavailable as exc:
            raise self._failed(ticket, exc) from exc.__cause__

    def _screened(self, round_: _Round, indexes: Sequence[int]) -> list[int]:
        """Those that can be put; the others are refused."""
        fit = []
        for index in indexes:
            refusal = self._dialect.check(round_.questions[index])
            if refusal is None:
                fit.append(index)
            else:
                self._refuse(round_, [index], refusal)
        return fit

    async def _work_off(self, round_: _Round) -> None:
        while round_.portions and round_.failure is None:
            try:
                await self._put(round_, round_.portions.popleft())
            except TierUnavailable as exc:
                round_.failure = round_.failure or exc

    async def _put(self, round_: _Round, portion: list[int]) -> None:
        """One request. Raises TierUnavailable when it brought no answers, and smaller ones would not either."""
        await self._learn()
        if round_.n_learned != self._n_learned:  # another call has learned anew: what fits together may be another
            self._plan(round_, portion)
            return
        ticket = self._breaker.ticket()
        try:
            exchanged = await self._exchange.put([round_.questions[index] for index in portion])
        except RefusedError as exc:
            self._breaker.worked(ticket)
            self._divide(round_, portion, exc)
        except TierSpent:
            if len(portion) == 1:
                raise
            round_.split(portion)  # the day may have room for fewer
        except ChokedError as exc:
            if exc.is_quick and len(portion) > 1 and self._breaker.state == "up":
                round_.split(portion)
                return
            if len(portion) == 1:
                self._suspects.failed(round_.digests[portion[0]])
            else:
                self._room.shrink()  # it may have been too much at once
            raise self._failed(ticket, exc) from exc.__cause__
        except TierUnavailable as exc:
            raise self._failed(ticket, exc) from exc.__cause__
        else:
            self._breaker.worked(ticket)
            self._room.fitted()
            self._take(round_, portion, exchanged)

    def _divide(self, round_: _Round, portion: list[int], refused: RefusedError) -> None:
        if len(portion) > 1:
            if isinstance(refused, TooLargeError):
                self._room.shrink()
            self._report.tier_failed(self._name, refused.reason)
            round_.split(portion)
        else:
            self._refuse(round_, portion, Refusal(reason=refused.reason, detail=refused.detail))

    def _take(self, round_: _Round, portion: list[int], exchanged: Exchanged) -> None:
        """The replies become verdicts and refusals; what was left out is asked again, so and so often."""
        n_bytes = exchanged.n_bytes // len(portion)
        left_out, said = [], []
        for index, reply in zip(portion, exchanged.replies, strict=True):
            answer = self._answered(reply, round_.questions[index], exchanged.seconds, n_bytes)
            if isinstance(answer, Refusal):
                self._refuse(round_, [index], answer)
            elif answer is not None:
                round_.answers[index] = answer
                said.append(answer)
            else:
                round_.n_left_out[index] += 1
                left_out.append(index)
        hopeless = [index for index in left_out if round_.n_left_out[index] >= _MAX_ASKED]
        self._refuse(round_, hopeless, Refusal(reason="no_answer", detail=f"left out of {_MAX_ASKED} answers"))
        if again := [index for index in left_out if index not in hopeless]:
            self._report.tier_failed(self._name, "left_out")
            round_.portions.append(again)
        self._suspects.worked(round_.digests[index] for index in portion if round_.answers[index] is not None)
        self._report.tier_answered(self._name, len(said), exchanged.seconds)
        tokens_in, tokens_out = sum(each.tokens_in for each in said), sum(each.tokens_out for each in said)
        if tokens_in or tokens_out:
            self._report.tier_tokens(self._name, tokens_in, tokens_out)

    def _answered(self, reply: Reply, question: Question, seconds: float, n_bytes: int) -> Verdict | Refusal | None:
        said = usable(reply, question) if isinstance(reply, Said) else reply
        if not isinstance(said, Said):
            return said
        paid = self.budget.prices.nanos(n_calls=1, tokens_in=said.tokens_in, tokens_out=said.tokens_out) / 1e9
        return Verdict(
            tier=self._name,
            label=said.label,
            scores=said.scores,
            confidence=said.confidence or 0.0,
            kind=question.first.kind,
            model=said.model,
            model_version=said.model_version,
            latency_ms=round(1000.0 * seconds, 3),
            tokens_in=said.tokens_in,
            tokens_out=said.tokens_out,
            n_bytes=n_bytes,
            cost=paid if said.cost is None else said.cost,
        )

    def _refuse(self, round_: _Round, indexes: list[int], refusal: Refusal) -> None:
        for index in indexes:
            round_.answers[index] = refusal
        if indexes:
            self._report.tier_refused(self._name, refusal.reason, len(indexes))

    def _failed(self, ticket: int, exc: TierUnavailable) -> TierUnavailable:
        if isinstance(exc, TierSpent):
            return exc
        reason = "misconfigured" if isinstance(exc, TierMisconfigured) else "unavailable"
        if isinstance(exc.__cause__, TimeoutError):
            reason = "timeout"
        self._report.tier_failed(self._name, reason)
        self._dialect.forget()
        return self._breaker.failed(ticket, exc, reason)
