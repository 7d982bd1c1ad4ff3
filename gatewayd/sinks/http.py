"""HTTP sink: CloudEvents batches by POST. A status decides what becomes of a batch; see DESIGN.md section 6.

Nothing is confirmed but by a 2xx. A result is refused only by a 4xx that can mean the result itself; whatever can mean
the way there (credentials, address, a proxy, load) is an error of the sink, and the results wait.
"""

import asyncio
import gzip
import io
import ssl
import time
from collections.abc import Callable, Mapping, Sequence

import aiohttp
import structlog
from yarl import URL

from gatewayd import __version__
from gatewayd.config import schema
from gatewayd.errors import BatchRefused, BatchTooLarge, ConfigError, SinkMisconfigured, SinkUnavailable
from gatewayd.events import BATCH_CONTENT_TYPE, batch_json
from gatewayd.ports import StoredResult
from gatewayd.retry import parse_http_date, parse_retry_after
from gatewayd.sinks import wire
from gatewayd.sinks.tls import tls_context

log = structlog.get_logger(__name__)

_MAX_ANSWER_BYTES = 65_536  # of an answer we read; one that is longer costs its connection
_MAX_REASON_CHARS = 200
_THREAD_ABOVE_BYTES = 65_536  # compressing less is quicker than a thread hop is worth
_GZIP_LEVEL = 4
_EVENTS_A_TURN = 32  # a tenth of a millisecond on x86, one on a Raspberry Pi
_NOT_YET_VALID = 9  # X509_V_ERR_CERT_NOT_YET_VALID
_MISCONFIGURED = {
    401: "check `token`: missing, wrong or expired",
    402: "the far side wants to be paid, or its quota is used up",
    403: "the far side knows us and says no: check the rights of `token`",
    404: "check `url`: nothing is there",
    405: "check `url`: what is there takes no POST",
    406: "check `url` and `headers`: what is there does not answer as we ask",
    407: "a proxy wants credentials",
    411: "check `url`, and the proxies on the way: one of them lost our Content-Length",
    415: "check `url`: what is there takes no `application/cloudevents-batch+json`, or not compressed",
    421: "check `url` and `tls.server_name`: that host is not served there",
    426: "check `url`: another protocol is wanted there, perhaps https",
    431: "check `headers` and `token`: too large for the far side",
}
_AWAY = frozenset({408, 425, 429})


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
        self._url = URL(config.url)
        if self._url.user or self._url.password:
            raise ConfigError(f"sinks.{name}.url", "must not hold credentials: use `token`")
        self._headers = headers
        self._now = now
        self._tls = tls_context(config.tls, f"sinks.{name}.tls")
        self._secrets = [text for text in (token, *config.headers.values()) if text and len(text) >= 4]
        self._fixed_headers = {
            "User-Agent": f"gatewayd/{__version__}",
            "Accept-Encoding": "identity",
            **config.headers,
            "Content-Type": BATCH_CONTENT_TYPE,
        }
        if token:
            self._fixed_headers["Authorization"] = f"Bearer {token}"
        self._session: aiohttp.ClientSession | None = None
        self._is_https = self._url.scheme == "https"
        self.sent_bytes = 0
        self._is_warm = False  # a connection is kept alive, which the far side may be closing just now

    async def send(self, results: Sequence[StoredResult]) -> Mapping[str, str]:
        """Return when the far side stored them all. The caller sets the time limit."""
        body, headers = await self._pack(results)
        try:
            await self._post(body, headers)
        except (aiohttp.ClientError, OSError) as exc:
            raise self._unavailable(exc) from exc
        return {}

    async def close(self) -> None:
        """Let go of the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _pack(self, results: Sequence[StoredResult]) -> tuple[bytes, dict[str, str]]:
        body = await _encoded(results, self._gateway)
        headers = {**self._fixed_headers, **self._headers()}
        if len(body) > self._config.gzip_above_bytes:
            headers["Content-Encoding"] = "gzip"
            if len(body) > _THREAD_ABOVE_BYTES:
                body = await asyncio.to_thread(gzip.compress, body, _GZIP_LEVEL, mtime=0)
            else:
                body = gzip.compress(body, _GZIP_LEVEL, mtime=0)
        return body, headers

    async def _post(self, body: bytes, headers: Mapping[str, str]) -> None:
        was_warm = self._is_warm
        try:
            await self._post_once(body, headers)
        except (aiohttp.ServerDisconnectedError, ConnectionResetError):
            # A far side that closes idle connections after a few seconds does so under our hands now and then. The
            # events have ids, so that a second try at once is harmless, and the sink is not called away for nothing.
            if not was_warm:
                raise
            self._is_warm = False
            await self._post_once(body, headers)

    async def _post_once(self, body: bytes, headers: Mapping[str, str]) -> None:
        server_name = self._config.tls.server_name if self._config.tls else None
        async with self._open().post(
            self._url,
            data=io.BytesIO(body),
            headers=headers,
            allow_redirects=False,
            server_hostname=server_name,
        ) as response:
            answer, n_bytes = await _read_some(response)
            self._count(n_bytes + _header_bytes(response.raw_headers))
            self._is_warm = True
            self._judge(response, answer)

    def _judge(self, response: aiohttp.ClientResponse, answer: str) -> None:
        """Raise what the status means. Only a refusal quotes the answer: it ends in a dead letter, never in a log."""
        status = response.status
        if 200 <= status < 300:
            return
        if status == 413:
            raise BatchTooLarge("HTTP 413")
        if status in _MISCONFIGURED or 300 <= status < 400:
            error = SinkMisconfigured(f"HTTP {status} from {self._where}")
            error.hint = _MISCONFIGURED.get(status, "redirects are not followed: set `url` to where it leads")
            raise error
        if status in _AWAY or status >= 500:
            raise SinkUnavailable(f"HTTP {status} from {self._where}", retry_after_s=self._retry_after_s(response))
        raise BatchRefused(f"HTTP {status}: {self._redacted(answer)[:_MAX_REASON_CHARS]}")

    def _retry_after_s(self, response: aiohttp.ClientResponse) -> float | None:
        if response.status not in {429, 503}:
            return None
        now = parse_http_date(response.headers.get("Date"))
        return parse_retry_after(response.headers.get("Retry-After"), self._now() if now is None else now)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._tls, limit=0),  # the uplink bounds it: one request a route
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._config.timeout_s),
                auto_decompress=False,
                trace_configs=[self._traced()],
            )
        return self._session

    def _traced(self) -> aiohttp.TraceConfig:
        """What is written to connections counts, whatever becomes of the request."""

        async def headers_sent(_session: object, _context: object, sent: aiohttp.TraceRequestHeadersSentParams) -> None:
            pairs = [(name.encode(), value.encode()) for name, value in sent.headers.items()]
            self._count(len(sent.method) + len(sent.url.raw_path_qs) + _header_bytes(pairs))

        async def chunk_sent(_session: object, _context: object, sent: aiohttp.TraceRequestChunkSentParams) -> None:
            self._count(len(sent.chunk))

        async def connecting(_session: object, _context: object, _sent: object) -> None:
            self.sent_bytes += wire.connecting(is_tls=self._is_https)

        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(headers_sent)
        trace.on_request_chunk_sent.append(chunk_sent)
        trace.on_connection_create_start.append(connecting)
        return trace

    def _count(self, n_bytes: int) -> None:
        self.sent_bytes += wire.on_wire(n_bytes, is_tls=self._is_https)

    def _unavailable(self, exc: Exception) -> SinkUnavailable:
        error = SinkUnavailable(f"{self._where}: {self._redacted(str(exc) or type(exc).__name__)}")
        cause = exc.certificate_error if isinstance(exc, aiohttp.ClientConnectorCertificateError) else exc
        if isinstance(cause, ssl.SSLCertVerificationError):
            if cause.verify_code == _NOT_YET_VALID:
                error.hint = (
                    f"the certificate is not yet valid: is this machine's clock right? It says {_utc(self._now())}"
                )
            else:
                error.hint = "the certificate is not trusted: check `tls.ca_file`, `tls.server_name` and the clock"
        return error

    @property
    def _where(self) -> str:
        return str(self._url.with_query(None).with_fragment(None))

    def _redacted(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text.replace(self._url.query_string, "***") if self._url.query_string else text


async def _encoded(results: Sequence[StoredResult], gateway: str) -> bytes:
    """A batch of events, a few at a time: live results, and all else on this loop, must not wait for a whole batch."""
    pieces = []
    for start in range(0, len(results), _EVENTS_A_TURN):
        if start:
            await asyncio.sleep(0)
        pieces.append(batch_json(results[start : start + _EVENTS_A_TURN], gateway)[1:-1])
    return b"[%s]" % b",".join(pieces)


async def _read_some(response: aiohttp.ClientResponse) -> tuple[str, int]:
    """The answer's body, so that its connection can be used again; of a long one the beginning, and no connection.

    The beginning as text, and how many bytes were read.
    """
    answer = bytearray()
    async for chunk in response.content.iter_any():
        answer += chunk
        if len(answer) > _MAX_ANSWER_BYTES:
            response.close()
            break
    return answer[: 4 * _MAX_REASON_CHARS].decode(errors="replace"), len(answer)


def _header_bytes(pairs: Sequence[tuple[bytes, bytes]]) -> int:
    """Of a first line's fixed part and the header lines (RFC 9112, 2.1)."""
    return 16 + sum(len(name) + len(value) + 4 for name, value in pairs)


def _utc(now: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
