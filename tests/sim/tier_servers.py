"""Far sides of tiers, on loopback: servers that speak a tier's protocol, and misbehave on demand."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from gatewayd.cascade.budgets import Book, Tally
from gatewayd.cascade.remote.build import build_client
from gatewayd.cascade.remote.client import RemoteTierClient
from gatewayd.cascade.verdict import Question, Verdict
from gatewayd.config.tiers import RemoteTier
from tests.sim.clock import ManualClock

LABELS = ("ok", "faulty", "on fire")


@dataclass(frozen=True)
class Scripted:
    """One answer, instead of the true one."""

    status: int = 200
    body: str | bytes = ""
    headers: Mapping[str, str] = field(default_factory=dict)


HANG_UP = Scripted(status=0)  # the connection is cut without an answer
NEVER = Scripted(status=-1)  # no answer comes


class TierServer:
    """Listens on a free port. `script` answers first, one entry a request; then `faults`, then the tier itself."""

    path = "/ask"

    def __init__(self) -> None:
        self.script: deque[Scripted] = deque()
        self.fault: Callable[[Any], Scripted | None] = lambda body: None  # by the request's JSON
        self.max_request_bytes: int | None = None
        self.requests: list[Any] = []  # what was posted, as JSON
        self.headers: list[Mapping[str, str]] = []
        self.paths: list[str] = []  # with their queries
        self.gate: asyncio.Event | None = None  # answers wait for it
        self.n_at_once = 0
        self.most_at_once = 0
        self._runner: web.AppRunner | None = None
        self._port = 0

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        return self.root + self.path

    def routes(self, app: web.Application) -> None:
        app.router.add_post(self.path, self._post)

    async def start(self) -> None:
        app = web.Application(client_max_size=1 << 26)
        self.routes(app)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def answer(self, asked: Any) -> Any:
        """The answer to one request, as JSON. A server of a protocol has its own."""
        raise NotImplementedError

    async def _post(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        asked = json.loads(raw)
        self.requests.append(asked)
        self.headers.append(dict(request.headers))
        self.paths.append(request.path_qs)
        self.n_at_once += 1
        self.most_at_once = max(self.most_at_once, self.n_at_once)
        try:
            if self.gate is not None:
                await self.gate.wait()
            return await self._answer(request, raw, asked)
        finally:
            self.n_at_once -= 1

    async def _answer(self, request: web.Request, raw: bytes, asked: Any) -> web.StreamResponse:
        scripted = self.script.popleft() if self.script else self.fault(asked)
        if scripted is None and self.max_request_bytes is not None and len(raw) > self.max_request_bytes:
            scripted = Scripted(413)
        if scripted is None:
            return web.json_response(await self.answer(asked))
        if scripted == NEVER:
            await asyncio.Event().wait()
        if scripted == HANG_UP:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        body = scripted.body if isinstance(scripted.body, bytes) else scripted.body.encode()
        return web.Response(status=scripted.status, body=body, headers=dict(scripted.headers))


class HttpTierServer(TierServer):
    """Answers as docs/guides/remote-tiers.md says. `say` gives one answer, without its id; None leaves the id out."""

    def __init__(self) -> None:
        super().__init__()
        self.say: Callable[[Any], Mapping[str, Any] | None] = lambda event: {"label": "faulty", "confidence": 0.97}

    async def answer(self, asked: Any) -> Any:
        said = [(event["id"], self.say(event)) for event in asked]
        return [{"id": key, **answer} for key, answer in said if answer is not None]

    @property
    def asked_ids(self) -> list[list[str]]:
        return [[event["id"] for event in events] for events in self.requests]


class Report:
    """Implements remote.client.TierReport: remembers what it was told."""

    def __init__(self) -> None:
        self.turns: list[str] = []
        self.n_answered = 0
        self.refusals: list[str] = []
        self.failures: list[str] = []
        self.tokens = (0, 0)

    def tier_down(self, tier: str, reason: str) -> None:
        self.turns.append(f"down: {reason}")

    def tier_up(self, tier: str) -> None:
        self.turns.append("up")

    def tier_answered(self, tier: str, n: int, seconds: float) -> None:
        self.n_answered += n

    def tier_refused(self, tier: str, reason: str, n: int) -> None:
        self.refusals += [reason] * n

    def tier_failed(self, tier: str, reason: str) -> None:
        self.failures.append(reason)

    def tier_tokens(self, tier: str, tokens_in: int, tokens_out: int) -> None:
        self.tokens = (self.tokens[0] + tokens_in, self.tokens[1] + tokens_out)


class TierRig:
    """A client, and all that it is built on."""

    def __init__(
        self, config: RemoteTier, *, book: Book | None = None, clock: ManualClock | None = None, **options: Any
    ) -> None:
        self.clock = clock or ManualClock()
        self.book = book or Tally()
        self.report = Report()
        self.client: RemoteTierClient = build_client(
            "far",
            config,  # type: ignore[arg-type]
            gateway="gw",
            token=options.pop("token", None),
            book=self.book,
            clock=self.clock,
            draw=lambda: 0.5,
            report=self.report,
            **options,
        )


@asynccontextmanager
async def asking(config: RemoteTier, **options: Any) -> AsyncIterator[TierRig]:
    rig = TierRig(config, **options)
    try:
        yield rig
    finally:
        await rig.client.close()


def question(key: str = "m-1", value: Any = "bearing 7 is hot", labels: Sequence[str] = LABELS) -> Question:
    first = Verdict(tier="student", label=labels[0] if labels else "ok", scores={"ok": 0.6}, confidence=0.6)
    return Question(key=key, topic="pumps/7/log", value=value, time=1_763_724_000.0, labels=tuple(labels), first=first)


def questions(n: int) -> list[Question]:
    return [question(f"m-{index}", f"text {index}") for index in range(n)]
