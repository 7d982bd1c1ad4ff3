"""One request to a tier and what came of it: reserved, sent, bounded in time and size, judged, settled.

Invariant: the budget is settled with what the request took, whatever becomes of it. Calls, tokens and money are spent
when the far side worked on it (an answer, a refusal), and when nobody knows (a time-out); bytes always.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Sequence
from statistics import median

import aiohttp
import msgspec
from yarl import URL

from gatewayd.cascade.budgets import NOTHING, Budget, Reserved, Spending, nanos
from gatewayd.cascade.remote.dialect import Dialect, GarbledError, Reply, Request, Said
from gatewayd.cascade.verdict import Question
from gatewayd.config.tiers import RemoteTier
from gatewayd.errors import TierMisconfigured, TierSpent, TierUnavailable
from gatewayd.http_link import FAILURES, Answer, HttpLink, Traffic, hint_of
from gatewayd.ports import Clock
from gatewayd.sinks import wire

_MAX_REASON_CHARS = 200
_LATENCIES = 15  # requests that `usual_latency_ms` is the middle of
_HEADERS_BYTES = 800  # of a request and its answer, about
_ANSWER_BYTES = 200  # of the answer to one question, about
_MAX_HEADERS_BYTES = 65_536  # more than aiohttp reads


class RefusedError(Exception):
    """The far side will never take this request: split it until the refused question stands alone."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class TooLargeError(RefusedError):
    """Request or answer are too large: smaller ones may do."""


class ChokedError(TierUnavailable):
    """The far side failed at this request (500, a time-out, a lost connection): it may be a question it cannot bear."""

    def __init__(self, message: str, *, is_quick: bool = False) -> None:
        super().__init__(message)
        self.is_quick = is_quick  # it said so at once: smaller requests cost little


class Exchanged(msgspec.Struct, frozen=True, kw_only=True):
    """What a request brought."""

    replies: Sequence[Reply]
    seconds: float
    n_bytes: int


class Exchange:
    """Sends the requests of one tier."""

    def __init__(
        self, name: str, config: RemoteTier, dialect: Dialect, *, link: HttpLink, budget: Budget, clock: Clock
    ) -> None:
        self.budget = budget
        self.link = link
        self._name = name
        self._config = config
        self._dialect = dialect
        self._clock = clock
        self._is_https = link.url.scheme == "https"
        self._latencies_ms: deque[float] = deque(maxlen=_LATENCIES)

    @property
    def usual_latency_ms(self) -> float | None:
        """How long a request took of late, in the middle; None: none was made."""
        return median(self._latencies_ms) if self._latencies_ms else None

    async def put(self, questions: Sequence[Question]) -> Exchanged:
        """Ask them, in one request.

        Raises RefusedError (TooLargeError) and TierUnavailable (TierMisconfigured, TierSpent, ChokedError).
        """
        while True:
            request = self._dialect.compose(questions)
            reserved = await self._reserve(request, len(questions))
            exchanged = await self._exchange(request, reserved, questions)
            if exchanged is not None:
                return exchanged

    async def get(self, url: URL) -> Answer:
        """Read what is there. Raises as `put`; only its bytes count."""
        reserved = await self._reserve(Request(body=b""), 0)
        traffic = Traffic()
        try:
            answer = await self._bounded(self.link.get(url, traffic=traffic))
            self._check_status(answer)
        finally:
            self.budget.settle(reserved, Spending(n_bytes=traffic.n_bytes))
        return answer

    async def _exchange(self, request: Request, reserved: Reserved, questions: Sequence[Question]) -> Exchanged | None:
        """None: the far side objected to something we can do without."""
        traffic, started_s = Traffic(), self._clock.monotonic()
        took = self._price(len(questions), request.n_tokens_in, 0)  # unless we know better
        headers = {"Content-Type": request.content_type}
        try:
            answer = await self._bounded(
                self.link.post(request.body, headers, url=request.url, traffic=traffic), is_sample=True
            )
            if answer.meaning not in ("done", "refused"):
                took = NOTHING
            if answer.meaning == "refused" and self._dialect.yields(answer):
                took = NOTHING
                return None
            replies = self._read(answer, questions)
            took = self._paid(replies, len(questions))
        except TierUnavailable as exc:
            if not isinstance(exc, ChokedError | TierMisconfigured):
                took = NOTHING  # it was never there
            raise
        finally:
            self.budget.settle(reserved, msgspec.structs.replace(took, n_bytes=traffic.n_bytes))
        return Exchanged(replies=replies, seconds=self._clock.monotonic() - started_s, n_bytes=traffic.n_bytes)

    async def _bounded(self, call: Awaitable[Answer], *, is_sample: bool = False) -> Answer:
        """The answer, in time. `is_sample`: how long it takes is what questions take."""
        started_s = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._config.timeout_s):
                answer = await call
        except TimeoutError as exc:
            self._latencies_ms.append(1000.0 * self._config.timeout_s)
            raise ChokedError(f"no answer from {self.link.where} within {self._config.timeout_s:g} s") from exc
        except FAILURES as exc:
            message, hint = self.link.describe(exc)
            kind = TierUnavailable if isinstance(exc, aiohttp.ClientConnectorError) else ChokedError
            raise _with_hint(kind(message), hint) from exc
        if is_sample and answer.meaning == "done":
            self._latencies_ms.append(1000.0 * (self._clock.monotonic() - started_s))
        return answer

    def _read(self, answer: Answer, questions: Sequence[Question]) -> Sequence[Reply]:
        self._check_status(answer)
        if answer.is_cut:
            raise TooLargeError("answer_too_large", f"the answer is larger than {self._config.max_answer_bytes} bytes")
        try:
            return self._dialect.read(questions, answer)
        except GarbledError as exc:
            hint = "check `url`: what is there is no such tier, or a proxy answers for it"
            raise _with_hint(TierMisconfigured(f"{self.link.where}: {exc}"), hint) from exc

    def _check_status(self, answer: Answer) -> None:
        """Raise what a status that is no 2xx means. Only a refusal quotes the answer."""
        where = f"HTTP {answer.status} from {self.link.where}"
        match answer.meaning:
            case "too_large":
                raise TooLargeError("too_large", "HTTP 413")
            case "misconfigured":
                raise _with_hint(TierMisconfigured(where), hint_of(answer.status))
            case "away" if answer.status == 500:
                raise ChokedError(where, is_quick=True)
            case "away":
                raise TierUnavailable(where, retry_after_s=answer.retry_after_s)
            case "refused":
                text = self.link.redacted(answer.body[: 4 * _MAX_REASON_CHARS].decode(errors="replace"))
                raise RefusedError("refused", f"HTTP {answer.status}: {text[:_MAX_REASON_CHARS]}")

    async def _reserve(self, request: Request, n: int) -> Reserved:
        sent = wire.on_wire(len(request.body) + _HEADERS_BYTES, is_tls=self._is_https)
        read = wire.on_wire(n * _ANSWER_BYTES, is_tls=self._is_https)
        most_read = wire.on_wire(self._config.max_answer_bytes + _MAX_HEADERS_BYTES, is_tls=self._is_https)
        most_bytes = 2 * (sent + most_read + wire.connecting(is_tls=self._is_https))  # it may be sent twice
        expected = self._price(n, request.n_tokens_in, request.max_tokens_out)
        most = self._price(n, max(len(request.body), request.n_tokens_in), request.max_tokens_out)
        reserved = await self.budget.reserve(
            msgspec.structs.replace(expected, n_bytes=sent + read),
            most=msgspec.structs.replace(most, n_bytes=most_bytes),
        )
        if reserved is None:
            message = f"the budget of tier {self._name} for this day is spent"
            raise TierSpent(message, retry_after_s=self.budget.rest_s())
        return reserved

    def _paid(self, replies: Sequence[Reply], n: int) -> Spending:
        said = [reply for reply in replies if isinstance(reply, Said)]
        took = self._price(n, sum(each.tokens_in for each in said), sum(each.tokens_out for each in said))
        told = [each.cost for each in said if each.cost is not None]
        return msgspec.structs.replace(took, n_nanos=nanos(sum(told))) if told else took

    def _price(self, n: int, tokens_in: int, tokens_out: int) -> Spending:
        n_nanos = self.budget.prices.nanos(n_calls=n, tokens_in=tokens_in, tokens_out=tokens_out)
        return Spending(n_calls=n, n_tokens=tokens_in + tokens_out, n_nanos=n_nanos)


def _with_hint(error: TierUnavailable, hint: str) -> TierUnavailable:
    error.hint = hint
    return error
