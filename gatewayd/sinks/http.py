"""HTTP sink: CloudEvents batches by POST. A status decides what becomes of a batch; see DESIGN.md section 6.

Nothing is confirmed but by a 2xx. A result is refused only by a 4xx that can mean the result itself; whatever can mean
the way there (credentials, address, a proxy, load) is an error of the sink, and the results wait.
"""

import asyncio
import gzip
import time
from collections.abc import Callable, Mapping, Sequence

from gatewayd.config import schema
from gatewayd.errors import BatchRefused, BatchTooLarge, SinkMisconfigured, SinkUnavailable
from gatewayd.events import BATCH_CONTENT_TYPE, batch_json
from gatewayd.http_link import FAILURES, Answer, HttpLink, hint_of
from gatewayd.ports import StoredResult

_MAX_ANSWER_BYTES = 65_536  # of an answer we read; one that is longer costs its connection
_MAX_REASON_CHARS = 200
_THREAD_ABOVE_BYTES = 65_536  # compressing less is quicker than a thread hop is worth
_GZIP_LEVEL = 4
_EVENTS_A_TURN = 32  # a tenth of a millisecond on x86, one on a Raspberry Pi


def _no_headers() -> Mapping[str, str]:
    return {}


class HttpSink:
    """Posts batches to one URL.

    Args:
        config: `[sinks.<name>]`.
        gateway: the gateway's id, for the events' source.
        token: sent as bearer token; the only secret.
        headers: called for each request, for headers that change: the trace context of the span around it.
        now: wall clock, for a `Retry-After` date of a far side that sends no `Date`.
        name: the sink's name in the config, for error messages.

    Raises ConfigError when a TLS file cannot be used, or the URL holds a password.
    """

    def __init__(
        self,
        config: schema.HttpSink,
        *,
        gateway: str,
        token: str | None,
        headers: Callable[[], Mapping[str, str]] = _no_headers,
        now: Callable[[], float] = time.time,
        name: str = "http",
    ) -> None:
        self._config = config
        self._gateway = gateway
        self._headers = headers
        self._link = HttpLink(
            config.url,
            key=f"sinks.{name}",
            token=token,
            tls=config.tls,
            headers=config.headers,
            connect_timeout_s=config.timeout_s,
            max_answer_bytes=_MAX_ANSWER_BYTES,
            now=now,
        )

    @property
    def sent_bytes(self) -> int:
        """See ports.Sink."""
        return self._link.sent_bytes

    async def send(self, results: Sequence[StoredResult]) -> Mapping[str, str]:
        """Return when the far side stored them all. The caller sets the time limit."""
        body, headers = await self._pack(results)
        try:
            answer = await self._link.post(body, headers)
        except FAILURES as exc:
            message, hint = self._link.describe(exc)
            error = SinkUnavailable(message)
            error.hint = hint
            raise error from exc
        self._judge(answer)
        return {}

    async def close(self) -> None:
        """Let go of the connections."""
        await self._link.close()

    async def _pack(self, results: Sequence[StoredResult]) -> tuple[bytes, dict[str, str]]:
        body = await _encoded(results, self._gateway)
        headers = {**self._headers(), "Content-Type": BATCH_CONTENT_TYPE}
        if len(body) > self._config.gzip_above_bytes:
            headers["Content-Encoding"] = "gzip"
            if len(body) > _THREAD_ABOVE_BYTES:
                body = await asyncio.to_thread(gzip.compress, body, _GZIP_LEVEL, mtime=0)
            else:
                body = gzip.compress(body, _GZIP_LEVEL, mtime=0)
        return body, headers

    def _judge(self, answer: Answer) -> None:
        """Raise what the status means. Only a refusal quotes the answer: it ends in a dead letter, never in a log."""
        where = f"HTTP {answer.status} from {self._link.where}"
        match answer.meaning:
            case "too_large":
                raise BatchTooLarge("HTTP 413")
            case "misconfigured":
                error = SinkMisconfigured(where)
                error.hint = hint_of(answer.status)
                raise error
            case "away":
                raise SinkUnavailable(where, retry_after_s=answer.retry_after_s)
            case "refused":
                text = answer.body[: 4 * _MAX_REASON_CHARS].decode(errors="replace")
                raise BatchRefused(f"HTTP {answer.status}: {self._link.redacted(text)[:_MAX_REASON_CHARS]}")


async def _encoded(results: Sequence[StoredResult], gateway: str) -> bytes:
    """A batch of events, a few at a time: live results, and all else on this loop, must not wait for a whole batch."""
    pieces = []
    for start in range(0, len(results), _EVENTS_A_TURN):
        if start:
            await asyncio.sleep(0)
        pieces.append(batch_json(results[start : start + _EVENTS_A_TURN], gateway)[1:-1])
    return b"[%s]" % b",".join(pieces)
