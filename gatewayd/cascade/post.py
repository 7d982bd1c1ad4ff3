"""A tier that escalations wait for: whether it answers now, and when it is to be asked again.

Invariants: one that is away is asked with full jitter, never before its own `Retry-After`, for ever; all routes that
ask it share what is known of it, so that a cloud that comes back is not stormed by one route while another waits.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import structlog

from gatewayd.cascade.recall import Recall, ask_once
from gatewayd.cascade.verdict import Question, Refusal, Verdict
from gatewayd.errors import TierSpent, TransientError
from gatewayd.ports import Clock, Draw, TierClient
from gatewayd.retry import full_jitter_s

log = structlog.get_logger(__name__)

_LEAST_S = 0.05  # a draw of 0 must not make a loop that never sleeps


@dataclass(slots=True)
class Post:
    """One tier, shared by the routes that ask it."""

    client: TierClient
    clock: Clock
    draw: Draw
    max_batch: int = 16
    retry_max_s: float = 300.0
    counts_attempts: bool = False  # a handler on this box: it may kill the process, so attempts are counted on disk
    recall: Recall | None = None  # None: every question is asked
    on_recalled: Callable[[str, int], None] = lambda _tier, _n: None  # (tier, questions that were not asked)
    start: Callable[[], Awaitable[None]] | None = None  # to be called before questions, cheap when it was
    begun: frozenset[int] = frozenset()  # journal rows whose attempt is counted, and still to be made
    failures: int = 0  # in a row
    _due_at_s: float = field(default=float("-inf"))
    _spent_until_s: float = field(default=float("-inf"))

    @property
    def name(self) -> str:
        """The tier's name in the config."""
        return self.client.name

    @property
    def usual_latency_ms(self) -> float:
        """What its answers took of late; 0 while nobody knows."""
        return self.client.usual_latency_ms or 0.0

    @property
    def is_spent(self) -> bool:
        """Whether its budget of the day was found spent."""
        return self.clock.monotonic() < self._spent_until_s

    @property
    def state(self) -> str:
        """For people."""
        if self.is_spent:
            return "over its budget"
        return "away" if self.failures else "answers"

    @property
    def _says(self) -> bool:
        """Whether it is logged here. Outside of this box the client's circuit breaker logs it."""
        return self.client.place == "gateway"

    def wait_s(self) -> float:
        """How long it is not to be asked, in seconds; 0: now."""
        now_s = self.clock.monotonic()
        return max(0.0, self._due_at_s - now_s, self._spent_until_s - now_s)

    async def prepare(self) -> None:
        """Before a question: what takes long the first time, and is no attempt. Raises TransientError."""
        if self.start is None:
            return
        try:
            await self.start()
        except TransientError as error:
            self._failed(error)
            raise

    async def ask(self, questions: Sequence[Question]) -> Sequence[Verdict | Refusal]:
        """Its answers, one a question. Raises TransientError: it is to be asked again when `wait_s` is over."""
        try:
            answers = await self._ask(questions)
        except TierSpent as error:
            self._spent_until_s = self.clock.monotonic() + max(_LEAST_S, error.retry_after_s or 0.0)
            raise
        except TransientError as error:
            self._failed(error)
            raise
        if self.failures and self._says:
            log.info("tier answers again", tier=self.name, attempts=self.failures)
        self.failures = 0
        return answers

    async def _ask(self, questions: Sequence[Question]) -> Sequence[Verdict | Refusal]:
        if self.recall is None:
            return await self.client.ask(questions)
        answers, n_recalled = await ask_once(self.recall, questions, self.client.ask, self.clock.monotonic())
        if n_recalled:
            self.on_recalled(self.name, n_recalled)
        return answers

    def _failed(self, error: TransientError) -> None:
        self.failures += 1
        asked_s = getattr(error, "retry_after_s", None)
        jitter_s = full_jitter_s(self.failures, draw=self.draw(), cap_s=self.retry_max_s)
        delay_s = max(_LEAST_S, asked_s if asked_s is not None else jitter_s)
        self._due_at_s = self.clock.monotonic() + delay_s
        if self._says and self.failures & (self.failures - 1) == 0:  # the 1st, 2nd, 4th … in a row: ever more rarely
            cause, attempts = str(error), self.failures
            log.warning("tier does not answer", tier=self.name, cause=cause, attempts=attempts, delay_s=delay_s)
