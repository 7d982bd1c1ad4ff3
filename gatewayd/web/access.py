"""Who may look, and who may change: token, login, client certificates; no orders from other people's pages.

Invariant: with a token nothing but the login, /healthz and /readyz answers without it; tokens are compared in constant
time, and whoever guesses waits. What changes something comes from our own page or from a program: a browser lets no
other site set our header (it asks first, and is refused), and says with `Sec-Fetch-Site` and `Origin` who sends it.
Sources: Fetch Metadata Request Headers (W3C), RFC 6750 (bearer tokens), RFC 6265bis (SameSite).
"""

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from urllib.parse import urlsplit

import structlog
from aiohttp import web

from gatewayd.config.schema import Web

log = structlog.get_logger(__name__)

COOKIE = "gatewayd"
OWN_HEADER = "X-Gatewayd"
MIN_TOKEN = 16  # characters
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/login", "/page.css"})
_MAX_SESSIONS = 64
_MAX_REMOTES = 256
_MINUTE_S = 60.0


class Allowance:
    """So many a minute for each name. Of very many names those seen longest ago are forgotten."""

    def __init__(self, n: int, monotonic: Callable[[], float]) -> None:
        self._n = n
        self._monotonic = monotonic
        self._spent: OrderedDict[str, tuple[float, int]] = OrderedDict()  # since when, how many

    def is_used_up(self, name: str) -> bool:
        """Whether the name has to wait."""
        since_s, n = self._spent.get(name, (0.0, 0))
        return n >= self._n and self._monotonic() - since_s < _MINUTE_S

    def spend(self, name: str) -> None:
        """One more."""
        now_s = self._monotonic()
        since_s, n = self._spent.pop(name, (now_s, 0))
        self._spent[name] = (since_s, n + 1) if now_s - since_s < _MINUTE_S else (now_s, 1)
        if len(self._spent) > _MAX_REMOTES:
            self._spent.popitem(last=False)


class Access:
    """The door. `denied` is told why somebody was turned away."""

    def __init__(
        self,
        config: Web,
        token: str | None,
        denied: Callable[[str], None] = lambda _why: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._token = None if token is None else _digest(token)
        self._denied = denied
        self._monotonic = monotonic
        self._failures = Allowance(config.max_failed_logins, monotonic)
        self._changes = Allowance(config.max_changes, monotonic)
        self._sessions: OrderedDict[bytes, float] = OrderedDict()  # digest of the cookie -> until when

    def check(self, request: web.Request) -> None:
        """Raises HTTPUnauthorized (a redirect to the login for a browser) or HTTPTooManyRequests."""
        if self._token is None or request.path in OPEN_PATHS or self.has_session(request):
            return
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            self._compare(request, given.strip())
            return
        if request.method == "GET" and "text/html" in request.headers.get("Accept", ""):
            raise web.HTTPSeeOther("/login")
        raise _unauthorized("a token is needed: `Authorization: Bearer`, or log in on the page")

    def check_change(self, request: web.Request) -> None:
        """Before something is changed. Raises HTTPForbidden, HTTPUnsupportedMediaType or HTTPTooManyRequests."""
        if not request.headers.get(OWN_HEADER) or not is_same_origin(request):
            self._denied("cross_site")
            log.warning("a change was asked for from another page", remote=request.remote, path=request.path)
            raise web.HTTPForbidden(text=f"changes come from this page, or with the header {OWN_HEADER}: 1\n")
        if request.content_type != "application/json":
            raise web.HTTPUnsupportedMediaType(text="the body must be application/json\n")
        if self._changes.is_used_up(""):
            self._denied("too_many_changes")
            raise _too_many("too many changes within a minute (web.max_changes)")
        self._changes.spend("")

    def login(self, request: web.Request, given: str) -> str:
        """A fresh session for who knows the token: its cookie. Raises as `check`."""
        if self._token is None:
            raise web.HTTPNotFound
        if not is_same_origin(request):
            self._denied("cross_site")
            raise web.HTTPForbidden(text="log in on this page\n")
        self._compare(request, given)
        cookie = secrets.token_urlsafe(32)
        self._sessions[_digest(cookie)] = self._monotonic() + self._config.session_s
        while len(self._sessions) > _MAX_SESSIONS:
            self._sessions.popitem(last=False)
        log.info("somebody logged in on the page", remote=request.remote)
        return cookie

    def logout(self, request: web.Request) -> None:
        """The session is over."""
        self._sessions.pop(_digest(request.cookies.get(COOKIE, "")), None)

    def set_cookie(self, response: web.StreamResponse, cookie: str) -> None:
        """No script reads it, no other site sends it."""
        response.set_cookie(
            COOKIE,
            cookie,
            max_age=round(self._config.session_s),
            httponly=True,
            samesite="Strict",
            secure=self._config.tls is not None,
            path="/",
        )

    def has_session(self, request: web.Request) -> bool:
        """Whether somebody logged in there, and it is not over."""
        cookie = request.cookies.get(COOKIE)
        until_s = self._sessions.get(_digest(cookie), 0.0) if cookie else 0.0
        return self._monotonic() < until_s

    def _compare(self, request: web.Request, given: str) -> None:
        remote = request.remote or ""
        if self._failures.is_used_up(remote):
            self._denied("too_many_failures")
            raise _too_many("too many wrong tokens from this address (web.max_failed_logins)")
        # Digests of one length: the time does not even tell how long the token is.
        if self._token is None or not hmac.compare_digest(_digest(given), self._token):
            self._failures.spend(remote)
            self._denied("wrong_token")
            log.warning("a wrong token was given to the page", remote=remote, path=request.path)
            raise _unauthorized("this is not the token")


def is_same_origin(request: web.Request) -> bool:
    """Whether the request comes from our own page, or from what is no browser."""
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("Origin")
    if origin is None:
        return True
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return (parts.scheme, parts.netloc.lower()) == (request.scheme, request.headers.get("Host", "").lower())


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _unauthorized(words: str) -> web.HTTPException:
    return web.HTTPUnauthorized(text=f"{words}\n", headers={"WWW-Authenticate": 'Bearer realm="gatewayd"'})


def _too_many(words: str) -> web.HTTPException:
    return web.HTTPTooManyRequests(text=f"{words}\n", headers={"Retry-After": "60"})
