"""A local cloud with fault switches: answers from a script, hangs, loses answers, refuses, is slow."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from aiohttp import web

from gatewayd.cli.cloud import LocalCloud
from gatewayd.events import Event


@dataclass(frozen=True)
class Scripted:
    """One answer: nothing is stored, unless `stores` is set."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    stores: bool = False


class FaultyCloud(LocalCloud):
    """A LocalCloud that misbehaves on demand. `script` answers first, one entry a request; then the switches hold."""

    def __init__(self) -> None:
        super().__init__()
        self.script: deque[Scripted] = deque()
        self.hangs = False  # reads the request, and never answers
        self.loses_answers = 0  # stores that many more batches and drops the connection instead of answering
        self.max_request_bytes: int | None = None  # 413 above this, as sent (compressed)
        self.refuses: Callable[[Event], bool] = lambda event: False  # 422 for a batch with such an event
        self.slow_s = 0.0
        self.seen_headers: list[Mapping[str, str]] = []
        self.seen_bytes: list[int] = []
        self.stored: list[str] = []  # ids in order of their first arrival

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.seen_headers.append(dict(request.headers))
        self.seen_bytes.append(request.content_length or 0)
        if self.script:
            return await self._play(request, self.script.popleft())
        if self.hangs:
            self.requests += 1
            await asyncio.Event().wait()
        if self.slow_s:
            await asyncio.sleep(self.slow_s)
        if self.max_request_bytes is not None and (request.content_length or 0) > self.max_request_bytes:
            self.requests += 1
            return web.Response(status=413)
        answer = await super().answer(request)
        if self.loses_answers and answer.status < 300:
            self.loses_answers -= 1
            assert request.transport is not None
            request.transport.abort()
        return answer

    def store(self, events: Sequence[Event]) -> None:
        if any(self.refuses(event) for event in events):
            raise web.HTTPUnprocessableEntity(text="an event is not in the schema")
        self.stored += [event.id for event in events if not self.has(event.source, event.id)]
        super().store(list(events))

    async def _play(self, request: web.Request, entry: Scripted) -> web.StreamResponse:
        self.requests += 1
        if entry.stores:
            self.store(await self.read(request))
        return web.Response(status=entry.status, headers=dict(entry.headers), text=entry.body)
