"""`/flow/events`: the flow as server-sent events, for the page and `gatewayd tail`.

Source of the format: the HTML standard, section 9.2 (server-sent events). Each event has a name and one line of JSON.
"""

import asyncio
import time
from collections.abc import Sequence

import msgspec
import structlog
from aiohttp import web

from gatewayd.config.schema import Web
from gatewayd.web.views import Flow, Listener, Log

log = structlog.get_logger(__name__)

TICK_S = 0.25  # results and log lines wait at most so long
_RETRY_MS = 2000  # after so long a browser that lost us asks again
_encode = msgspec.json.Encoder().encode


class Events:
    """Serves those who follow, at most `max_listeners` of them. `closing` ends them all."""

    def __init__(self, config: Web, flow: Flow, tail: Log | None) -> None:
        self._config = config
        self._flow = flow
        self._tail = tail
        self._n = 0
        self.closing = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """`GET /flow/events[?route=NAME]`: server-sent events until the client or the daemon goes.

        `event: flow`     the snapshot of `GET /flow` without its `history`, every `web.flow_every_s`
        `event: history`  `history` of that snapshot, at the begin and with each new point (5 s)
        `event: result`   a result: route, number, time, key, kind, subject, label, data, and `left_out`: how many
                          before it were not sent (at most `web.max_results_per_s` are)
        `event: log`      a line of the daemon's log: number, time, level, event, logger, fields
        503 with Retry-After when `web.max_listeners` follow already.
        """
        if self._n >= self._config.max_listeners:
            words = f"{self._n} follow the flow already (web.max_listeners)\n"
            raise web.HTTPServiceUnavailable(text=words, headers={"Retry-After": "5"})
        self._n += 1
        try:
            return await self._serve(request)
        finally:
            self._n -= 1

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        room = max(1, round(self._config.max_results_per_s * TICK_S))
        with self._flow.listening(request.query.get("route", ""), room) as listener:
            try:
                await response.write(f"retry: {_RETRY_MS}\n\n".encode())
                await self._stream(response, listener)
            except (ConnectionError, TimeoutError):  # it went away, or does not read
                pass
        return response

    async def _stream(self, response: web.StreamResponse, listener: Listener) -> None:
        flow_at_s, n_points, line = 0.0, -1, 0
        while not self.closing.is_set():
            events: list[bytes] = []
            now_s = time.monotonic()
            if now_s - flow_at_s >= self._config.flow_every_s:
                flow_at_s = now_s
                events.append(_event("flow", self._flow.flow()))
            else:
                self._flow.look()
            if self._flow.n_points != n_points:
                n_points = self._flow.n_points
                events.append(_event("history", _encode(self._flow.history())))
            events += _results(listener)
            for said in self._tail.since(line) if self._tail is not None else ():
                line = int(said["number"])
                events.append(_event("log", _encode(said)))
            if events:
                async with asyncio.timeout(10.0):  # who does not read for so long is let go, and comes again
                    await response.write(b"".join(events))
            await self._pause()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(TICK_S):
                await self.closing.wait()
        except TimeoutError:
            pass


def _results(listener: Listener) -> Sequence[bytes]:
    events = []
    while listener.waiting:
        shown = {**listener.waiting.popleft().shown(), "left_out": listener.n_left_out}
        listener.n_left_out = 0
        events.append(_event("result", _encode(shown)))
    return events


def _event(name: str, data: bytes) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data)
