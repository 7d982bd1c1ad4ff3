"""The way to one HTTP far side, a sink's or a tier's: connections, bytes on the wire, and what its statuses mean.

Invariants: no secret is in any message; redirects are not followed and cookies not kept; of an answer no more is read
than the bound; every byte that is handed to a connection or read from one is counted, whatever becomes of the request.
"""

import io
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import aiohttp
from yarl import URL

from gatewayd import __version__
from gatewayd.config.links import Tls
from gatewayd.errors import ConfigError
from gatewayd.retry import parse_http_date, parse_retry_after
from gatewayd.sinks import wire
from gatewayd.sinks.tls import tls_context

FAILURES = (aiohttp.ClientError, OSError)  # of a request: no answer came, or not all of it

_MIN_SECRET_CHARS = 4  # a shorter one would black out half of every message
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
    415: "check `url`: what is there does not take our content type, or not compressed",
    421: "check `url` and `tls.server_name`: that host is not served there",
    426: "check `url`: another protocol is wanted there, perhaps https",
    431: "check `headers` and `token`: too large for the far side",
}
_REDIRECTED = "redirects are not followed: set `url` to where it leads"
_AWAY = frozenset({408, 425, 429})

# What an answer's status means for what was sent. Whatever can mean the way there (credentials, address, a proxy,
# load) is no fault of what was sent: "misconfigured" and "away" are tried again.
Meaning = Literal["done", "too_large", "misconfigured", "away", "refused"]


def meaning_of(status: int) -> Meaning:
    """See `Meaning`, and DESIGN.md section 6."""
    if 200 <= status < 300:
        return "done"
    if status == 413:
        return "too_large"
    if status in _MISCONFIGURED or 300 <= status < 400:
        return "misconfigured"
    return "away" if status in _AWAY or status >= 500 else "refused"


def hint_of(status: int) -> str:
    """What the operator can do about a status that means "misconfigured"."""
    return _MISCONFIGURED.get(status, _REDIRECTED)


@dataclass(slots=True)
class Traffic:
    """What one request took on the wire so far, both ways. Filled in while the request is under way."""

    n_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the far side said."""

    status: int
    body: bytes  # only the beginning when `is_cut`
    is_cut: bool  # longer than the bound
    retry_after_s: float | None  # its own wish, with 429 and 503
    traffic: Traffic = field(default_factory=Traffic)

    @property
    def meaning(self) -> Meaning:
        """See `meaning_of`."""
        return meaning_of(self.status)


class HttpLink:
    """The connections to one far side.

    Args:
        url: where requests go, unless one says otherwise.
        key: dotted key of the far side's table in config.toml, for messages.
        token: sent as bearer token.
        headers: sent with every request; their values are secrets too.
        connect_timeout_s: how long making a connection may take. The whole request is bounded by the caller.
        max_answer_bytes: of an answer that are read; one that is longer costs its connection.
        now: wall clock, for a `Retry-After` date of a far side that sends no `Date`.

    Raises ConfigError when a TLS file cannot be used, or the URL holds a password.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str,
        token: str | None,
        tls: Tls | None,
        connect_timeout_s: float,
        max_answer_bytes: int,
        headers: Mapping[str, str] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.url = URL(url)
        if self.url.user or self.url.password:
            raise ConfigError(f"{key}.url", "must not hold credentials: use `token`")
        own = dict(headers or {})
        self._tls = tls_context(tls, f"{key}.tls")
        self._server_name = tls.server_name if tls else None
        self._connect_timeout_s = connect_timeout_s
        self._max_answer_bytes = max_answer_bytes
        self._now = now
        self._secrets = [text for text in (token, *own.values()) if text and len(text) >= _MIN_SECRET_CHARS]
        self._headers = {"User-Agent": f"gatewayd/{__version__}", "Accept-Encoding": "identity", **own}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._session: aiohttp.ClientSession | None = None
        self._is_https = self.url.scheme == "https"
        self._is_warm = False  # a connection is kept alive, which the far side may be closing just now
        self.sent_bytes = 0  # on the wire so far, both ways; never falls

    async def post(
        self, body: bytes, headers: Mapping[str, str], *, url: URL | None = None, traffic: Traffic | None = None
    ) -> Answer:
        """Post, and read the answer. Raises what is in `FAILURES`; `describe` puts it into words.

        It may be sent twice, so it has to be something that does no harm twice.
        """
        return await self._patiently("POST", url or self.url, body, headers, traffic or Traffic())

    async def get(self, url: URL, *, traffic: Traffic | None = None) -> Answer:
        """Read what is there. Raises as `post`."""
        return await self._patiently("GET", url, None, {}, traffic or Traffic())

    async def close(self) -> None:
        """Let go of the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def describe(self, exc: Exception) -> tuple[str, str]:
        """A failure in words, and what the operator can do about it ("" when nothing is known)."""
        text = f"{self.where}: {self.redacted(str(exc) or type(exc).__name__)}"
        cause = exc.certificate_error if isinstance(exc, aiohttp.ClientConnectorCertificateError) else exc
        if not isinstance(cause, ssl.SSLCertVerificationError):
            return text, ""
        if cause.verify_code == _NOT_YET_VALID:
            return text, f"the certificate is not yet valid: is this machine's clock right? It says {_utc(self._now())}"
        return text, "the certificate is not trusted: check `tls.ca_file`, `tls.server_name` and the clock"

    @property
    def where(self) -> str:
        """The far side's address, without what may be secret in it."""
        return str(self.url.with_query(None).with_fragment(None))

    def redacted(self, text: str) -> str:
        """Text of the far side, or of a library, without our secrets."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text.replace(self.url.query_string, "***") if self.url.query_string else text

    async def _patiently(
        self, method: str, url: URL, body: bytes | None, headers: Mapping[str, str], traffic: Traffic
    ) -> Answer:
        was_warm = self._is_warm
        try:
            return await self._once(method, url, body, headers, traffic)
        except (aiohttp.ServerDisconnectedError, ConnectionResetError):
            # A far side that closes idle connections after a few seconds does so under our hands now and then. A second
            # try at once is harmless, and the far side is not called away for nothing.
            if not was_warm:
                raise
            self._is_warm = False
            return await self._once(method, url, body, headers, traffic)

    async def _once(
        self, method: str, url: URL, body: bytes | None, headers: Mapping[str, str], traffic: Traffic
    ) -> Answer:
        async with self._open().request(
            method,
            url,
            data=None if body is None else io.BytesIO(body),
            headers={**self._headers, **headers},
            allow_redirects=False,
            server_hostname=self._server_name,
            trace_request_ctx=traffic,
        ) as response:
            start, n_bytes = await self._read(response)
            self._count(n_bytes + _header_bytes(response.raw_headers), traffic)
            self._is_warm = True
            return Answer(
                status=response.status,
                body=start,
                is_cut=n_bytes > self._max_answer_bytes,
                retry_after_s=self._retry_after_s(response),
                traffic=traffic,
            )

    async def _read(self, response: aiohttp.ClientResponse) -> tuple[bytes, int]:
        """The answer's body, so that its connection can be used again; of a long one the beginning, and no connection.

        The beginning, and how many bytes were read.
        """
        answer = bytearray()
        async for chunk in response.content.iter_any():
            answer += chunk
            if len(answer) > self._max_answer_bytes:
                response.close()
                break
        return bytes(answer[: self._max_answer_bytes]), len(answer)

    def _retry_after_s(self, response: aiohttp.ClientResponse) -> float | None:
        if response.status not in {429, 503}:
            return None
        now = parse_http_date(response.headers.get("Date"))
        return parse_retry_after(response.headers.get("Retry-After"), self._now() if now is None else now)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._tls, limit=0),  # the caller bounds the requests at once
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout_s),
                auto_decompress=False,
                trace_configs=[self._traced()],
            )
        return self._session

    def _traced(self) -> aiohttp.TraceConfig:
        """What is written to connections counts, whatever becomes of the request."""

        async def headers_sent(_session: object, context: object, sent: aiohttp.TraceRequestHeadersSentParams) -> None:
            pairs = [(name.encode(), value.encode()) for name, value in sent.headers.items()]
            n_bytes = len(sent.method) + len(sent.url.raw_path_qs) + _header_bytes(pairs)
            self._count(n_bytes, _traffic_of(context))

        async def chunk_sent(_session: object, context: object, sent: aiohttp.TraceRequestChunkSentParams) -> None:
            self._count(len(sent.chunk), _traffic_of(context))

        async def connecting(_session: object, context: object, _sent: object) -> None:
            self._add(wire.connecting(is_tls=self._is_https), _traffic_of(context))

        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(headers_sent)
        trace.on_request_chunk_sent.append(chunk_sent)
        trace.on_connection_create_start.append(connecting)
        return trace

    def _count(self, n_bytes: int, traffic: Traffic) -> None:
        self._add(wire.on_wire(n_bytes, is_tls=self._is_https), traffic)

    def _add(self, n_bytes: int, traffic: Traffic) -> None:
        self.sent_bytes += n_bytes
        traffic.n_bytes += n_bytes


def _traffic_of(context: object) -> Traffic:
    traffic: Traffic = context.trace_request_ctx  # type: ignore[attr-defined]  # what `_once` handed in
    return traffic


def _header_bytes(pairs: Sequence[tuple[bytes, bytes]]) -> int:
    """Of a first line's fixed part and the header lines (RFC 9112, 2.1)."""
    return 16 + sum(len(name) + len(value) + 4 for name, value in pairs)


def _utc(now: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
