"""The local HTTP endpoints: /flow, /status, /books, /metrics, /healthz and /readyz.

Nothing here changes anything: GET and HEAD are the only methods. A page in somebody's browser must not read what is
here either, so a request whose Host is a name that is not ours is turned away (DNS rebinding).
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec
import structlog
from aiohttp import web

from gatewayd.config.cross_web import is_loopback
from gatewayd.config.schema import Web
from gatewayd.errors import ConfigError
from gatewayd.web.events import Events
from gatewayd.web.views import Answer, Views

__all__ = ["Views", "WebServer"]

log = structlog.get_logger(__name__)

METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"  # Prometheus' text format
_MAX_AT_ONCE = 16  # requests in the making; more wait in the kernel's queue or are answered 503
_ANSWER_S = 10.0
_CLOSE_S = 2.0  # what is being answered when the daemon stops has so long
EVENTS = "/flow/events"
_MAX_REQUEST_BYTES = 8190

Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


class WebServer:
    """The listening server. `start` and `stop` once each."""

    def __init__(self, config: Web, views: Views) -> None:
        self._config = config
        self._events = None if views.flow is None else Events(config, views.flow, views.log)
        self._runner = web.AppRunner(
            make_app(config, views, self._events),
            access_log=None,
            handle_signals=False,
            shutdown_timeout=_CLOSE_S,
            max_line_size=_MAX_REQUEST_BYTES,
            max_field_size=_MAX_REQUEST_BYTES,
        )

    async def start(self) -> str:
        """Listen; the base URL. Raises ConfigError when the address cannot be had."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._config.host, self._config.port, backlog=64)
        try:
            await site.start()
        except (OSError, socket.gaierror) as failure:
            await self._runner.cleanup()
            address = f"{self._config.host}:{self._config.port}"
            raise ConfigError("web", f"cannot listen on {address}: {failure.strerror}: choose another port") from None
        host, port = self._runner.addresses[0][:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        log.info("web endpoints are up", url=url)
        return url

    async def stop(self) -> None:
        """Stop listening and let go of connections."""
        if self._events is not None:
            self._events.closing.set()
        await self._runner.cleanup()


def make_app(config: Web, views: Views, events: Events | None = None) -> web.Application:
    """The application, without a socket."""
    app = web.Application(middlewares=[_guard(config)], client_max_size=0)
    if events is not None:
        app.router.add_get(EVENTS, events.handle)
    endpoints = _Endpoints(views)
    for path, handle in endpoints.by_path().items():
        app.router.add_get(path, handle)
    return app


class _Endpoints:
    """One method an endpoint."""

    def __init__(self, views: Views) -> None:
        self._views = views

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

    async def index(self, _request: web.Request) -> web.Response:
        return _json({"endpoints": [path for path in self.by_path() if path != "/"]})

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


def _guard(config: Web) -> Any:
    """Host check, a bound on requests at once and on the time of each."""
    names = allowed_names(config.host)
    room = asyncio.Semaphore(_MAX_AT_ONCE)

    @web.middleware
    async def guard(request: web.Request, handler: Handle) -> web.StreamResponse:
        if not is_our_name(request.headers.get("Host", ""), names):
            raise web.HTTPForbidden(text="this host name is not one of the gateway's: use its address\n")
        if request.path == EVENTS:  # has a bound of its own, and no end
            return await handler(request)
        if room.locked():
            raise web.HTTPServiceUnavailable(text="too many requests at once\n", headers={"Retry-After": "1"})
        async with room:
            try:
                async with asyncio.timeout(_ANSWER_S):
                    answer = await handler(request)
            except TimeoutError:
                raise web.HTTPServiceUnavailable(text="no answer in time\n") from None
        answer.headers["Cache-Control"] = "no-store"
        answer.headers["X-Content-Type-Options"] = "nosniff"
        return answer

    return guard


def allowed_names(host: str) -> Sequence[str] | None:
    """The host names a request may be for beside plain addresses; None: any address, and this machine's names."""
    return ("localhost",) if is_loopback(host) else None


def is_our_name(header: str, names: Sequence[str] | None) -> bool:
    """Whether the Host header names this gateway.

    An attacker's page can make its own name point here, but cannot make a browser send an address it did not use. So
    addresses pass (loopback ones alone when we listen on loopback), and of names only our own.
    """
    try:
        host = urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        own = ("localhost", socket.gethostname().lower()) if names is None else names
        return host in own
    return names is None or address.is_loopback
