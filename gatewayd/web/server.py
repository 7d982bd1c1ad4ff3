"""The local page and HTTP endpoints: for this machine unless the config says otherwise.

A page in somebody's browser must not read what is here, so a request whose Host is a name that is not ours is turned
away (DNS rebinding). Who may look and change is decided in gatewayd.web.access.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog
from aiohttp import web

from gatewayd.config.cross_web import is_guarded, is_loopback
from gatewayd.config.schema import Web, WebTls
from gatewayd.errors import ConfigError
from gatewayd.web.access import COOKIE, MIN_TOKEN, Access
from gatewayd.web.assets import POLICY, Assets
from gatewayd.web.events import Events
from gatewayd.web.hosts import allowed_names, is_our_name
from gatewayd.web.letters import Letters
from gatewayd.web.views import Answer, Views

__all__ = ["Views", "WebServer", "allowed_names", "is_our_name"]

log = structlog.get_logger(__name__)

METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"  # Prometheus' text format
EVENTS = "/flow/events"
_MAX_AT_ONCE = 16  # requests in the making; more wait in the kernel's queue or are answered 503
_ANSWER_S = 10.0
_CLOSE_S = 2.0  # what is being answered when the daemon stops has so long
_MAX_REQUEST_BYTES = 8190
_FILES = ("page.css", "page.js", "draw.js", "icon.svg")

Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


class WebServer:
    """The listening server. `start` and `stop` once each. Raises ConfigError where it would be open by accident."""

    def __init__(self, config: Web, views: Views, *, token: str | None = None, beside: Path = Path()) -> None:
        """`token`: the value of `web.token`. `beside`: the folder of config.toml, for files of `web.tls`."""
        if not is_loopback(config.host) and not is_guarded(config):
            raise ConfigError("web.host", "is no loopback address: it needs `token` or `tls.client_ca_file`")
        if token is not None and len(token) < MIN_TOKEN:
            raise ConfigError("web.token", f"is too short to be safe: at least {MIN_TOKEN} characters")
        self._config = config
        self._tls = None if config.tls is None else _tls(config.tls, beside)
        self._events = None if views.flow is None else Events(config, views.flow, views.log)
        self._runner = web.AppRunner(
            make_app(config, views, Access(config, token, views.denied), self._events),
            access_log=None,
            handle_signals=False,
            shutdown_timeout=_CLOSE_S,
            max_line_size=_MAX_REQUEST_BYTES,
            max_field_size=_MAX_REQUEST_BYTES,
        )

    async def start(self) -> str:
        """Listen; the base URL. Raises ConfigError when the address cannot be had."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._config.host, self._config.port, backlog=64, ssl_context=self._tls)
        try:
            await site.start()
        except (OSError, socket.gaierror) as failure:
            await self._runner.cleanup()
            address = f"{self._config.host}:{self._config.port}"
            raise ConfigError("web", f"cannot listen on {address}: {failure.strerror}: choose another port") from None
        host, port = self._runner.addresses[0][:2]
        scheme = "http" if self._tls is None else "https"
        url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
        log.info("the page is up", url=url)
        return url

    async def stop(self) -> None:
        """Stop listening and let go of connections."""
        if self._events is not None:
            self._events.closing.set()
        await self._runner.cleanup()


def _tls(config: WebTls, beside: Path) -> ssl.SSLContext:
    """For a server. Raises ConfigError."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(beside / config.cert_file, beside / config.key_file)
        if config.client_ca_file is not None:
            context.load_verify_locations(beside / config.client_ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as failure:
        raise ConfigError("web.tls", f"certificate, key or authorities cannot be read: {failure}") from None
    return context


def make_app(config: Web, views: Views, access: Access, events: Events | None = None) -> web.Application:
    """The application, without a socket."""
    app = web.Application(middlewares=[_guard(config, access)], client_max_size=config.max_body_bytes)
    app.on_response_prepare.append(_harden)
    endpoints = _Endpoints(views, access)
    for path, handle in endpoints.by_path().items():
        app.router.add_get(path, handle)
    for name in _FILES:
        app.router.add_get(f"/{name}", endpoints.file)
    app.router.add_get("/login", endpoints.login_page)
    app.router.add_post("/login", endpoints.login)
    app.router.add_post("/logout", endpoints.logout)
    app.router.add_get("/session", endpoints.session)
    if events is not None:
        app.router.add_get(EVENTS, events.handle)
    if views.spool is not None:
        letters = Letters(views.spool, access, views.shows_input, views.changed)
        app.router.add_get("/dead", letters.ls)
        app.router.add_get("/dead/{id}", letters.show)
        app.router.add_post("/dead/requeue", letters.requeue)
        app.router.add_post("/dead/purge", letters.purge)
    if views.switches:
        app.router.add_post("/switch/{name}", endpoints.switch)
    return app


class _Endpoints:
    """One method an endpoint."""

    def __init__(self, views: Views, access: Access) -> None:
        self._views = views
        self._access = access
        self._assets = Assets()

    def by_path(self) -> Mapping[str, Handle]:
        return {
            "/": self.index,
            "/books": self.books,
            "/flow": self.flow,
            "/healthz": self.healthz,
            "/metrics": self.metrics,
            "/readyz": self.readyz,
            "/status": self.status,
        }

    async def index(self, request: web.Request) -> web.Response:
        """The page for a browser, the list of endpoints for a program."""
        if "text/html" in request.headers.get("Accept", ""):
            return self._assets.serve(request, "page.html")
        return _json({"endpoints": [path for path in self.by_path() if path != "/"]})

    async def file(self, request: web.Request) -> web.Response:
        """One of the page's files."""
        return self._assets.serve(request, request.path.removeprefix("/"))

    async def login_page(self, request: web.Request) -> web.Response:
        """The form."""
        return self._assets.serve(request, "login.html")

    async def login(self, request: web.Request) -> web.Response:
        """`POST /login` with the form field `token`: a cookie, and back to the page; to the form where it is wrong."""
        given = (await request.post()).get("token", "")
        try:
            cookie = self._access.login(request, given if isinstance(given, str) else "")
        except web.HTTPUnauthorized:
            raise web.HTTPSeeOther("/login?wrong=1") from None
        answer = web.Response(status=303, headers={"Location": "/"})
        self._access.set_cookie(answer, cookie)
        return answer

    async def session(self, request: web.Request) -> web.Response:
        """`GET /session`: whether the page was logged in to, and has a way out."""
        return _json({"login": self._access.has_session(request)})

    async def logout(self, request: web.Request) -> web.Response:
        """`POST /logout`."""
        self._access.logout(request)
        answer = web.Response(status=303, headers={"Location": "/login"})
        answer.del_cookie(COOKIE, path="/")
        return answer

    async def switch(self, request: web.Request) -> web.Response:
        """`POST /switch/<name>` with `{"on": true}`: only where somebody registered switches, as the demo does."""
        self._access.check_change(request)
        switch = self._views.switches.get(request.match_info["name"])
        if switch is None:
            raise web.HTTPNotFound
        try:
            wanted = msgspec.json.decode(await request.read(), type=dict[str, bool])["on"]
        except (msgspec.MsgspecError, UnicodeDecodeError, KeyError):
            raise web.HTTPBadRequest(text='say {"on": true} or {"on": false}\n') from None
        switch.set(wanted)
        return _json({"on": wanted})

    async def flow(self, _request: web.Request) -> web.Response:
        """The whole flow as one JSON object: see docs/guides/page.md for its fields.

        gateway, version, uptime_s, time · broker · routes by name · spool · sinks by name · models by name · board ·
        books · tiers · troubles (what is wrong, in words) · history (the charts of the last `web.history_s`).
        """
        if self._views.flow is None:
            raise web.HTTPNotFound
        flow = self._views.flow.flow()
        history = msgspec.json.encode(self._views.flow.history())
        return web.Response(body=flow[:-1] + b',"history":' + history + b"}", content_type="application/json")

    async def metrics(self, _request: web.Request) -> web.Response:
        body = await asyncio.to_thread(self._views.metrics)
        return web.Response(body=body, headers={"Content-Type": METRICS_CONTENT_TYPE})

    async def healthz(self, _request: web.Request) -> web.Response:
        """Alive: what a watchdog acts on. An absent broker or cloud is no fault of ours and does not show here."""
        stuck = self._views.stuck()
        return _json({"alive": stuck is None, "stuck": stuck}, status=200 if stuck is None else 503)

    async def readyz(self, _request: web.Request) -> web.Response:
        """Spool open and routes running. An absent broker is in the body alone: a restart would not bring it back."""
        missing = self._views.ready()
        broker = self._views.status().get("broker", {})
        body = {"ready": missing is None, "missing": missing, "broker_connected": broker.get("connected")}
        return _json(body, status=200 if missing is None else 503)

    async def status(self, _request: web.Request) -> web.Response:
        return _json(self._views.status())

    async def books(self, _request: web.Request) -> web.Response:
        return _json(await self._views.books())


def _json(body: Answer, *, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")


async def _harden(_request: web.Request, answer: web.StreamResponse) -> None:
    """Headers of every answer, errors and streams included."""
    for name, value in _HEADERS.items():
        answer.headers.setdefault(name, value)
    answer.headers["Server"] = "gatewayd"  # and not which library, in which version


_HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def _guard(config: Web, access: Access) -> Any:
    """Host check, who may, a bound on requests at once and on the time of each."""
    names = allowed_names(config.host)
    room = asyncio.Semaphore(_MAX_AT_ONCE)

    @web.middleware
    async def guard(request: web.Request, handler: Handle) -> web.StreamResponse:
        if not is_our_name(request.headers.get("Host", ""), names):
            raise web.HTTPForbidden(text="this host name is not one of the gateway's: use its address\n")
        access.check(request)
        if request.path == EVENTS:  # has a bound of its own, and no end
            return await handler(request)
        if room.locked():
            raise web.HTTPServiceUnavailable(text="too many requests at once\n", headers={"Retry-After": "1"})
        async with room:
            try:
                async with asyncio.timeout(_ANSWER_S):
                    return await handler(request)
            except TimeoutError:
                raise web.HTTPServiceUnavailable(text="no answer in time\n") from None

    return guard
