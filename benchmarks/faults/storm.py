"""Case 7: a cloud that refuses, asks for patience, hangs, resets, talks nonsense, or stores and never answers.

Each misbehavior in turn, over a run of messages; then the cloud is well again. Where it stored a batch and lost the
answer, the batch comes again: those are the duplicates by id that its own dedup removes.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from benchmarks.faults.bench import Part, Run
from gatewayd.events import Event
from tests.sim.cloud import FaultyCloud, Scripted
from tests.sim.oracle import Line, judge
from tests.sim.rig import bench

_PER_S = 200
_SETTLE_S = 0.3
_RETRY_AFTER_S = 2
_FEW_RESULTS_BYTES = 1500  # compressed


class StormyCloud(FaultyCloud):
    """A FaultyCloud on a thread of its own; what it stores goes to `file`, duplicates included."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._out = file.open("ab")
        self.resets_bodies = 0  # answers 200, then resets within the body: stored or not, it did not say so in full
        self.resets_requests = 0  # resets before it has read the request
        self.at_s: list[float] = []  # when each request came
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cloud", daemon=True)

    def begin(self) -> None:
        """Return when it listens."""
        self._thread.start()
        self.do(self.start())

    def end(self) -> None:
        """Stop for good."""
        self.do(self.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._out.close()

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it on the cloud's loop."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.at_s.append(time.monotonic())
        assert request.transport is not None
        if self.resets_requests:
            self.resets_requests -= 1
            request.transport.abort()
            return web.Response()
        if self.resets_bodies:
            self.resets_bodies -= 1
            self.store(await self.read(request))
            response = web.StreamResponse(headers={"Content-Length": "1000"})
            await response.prepare(request)
            await response.write(b"{")
            request.transport.abort()
            return response
        return await super().answer(request)

    def store(self, events: Sequence[Event]) -> None:
        super().store(events)
        self._out.write(b"".join(msgspec.json.encode(event) + b"\n" for event in events))
        self._out.flush()


def _script(n: int, *entries: Scripted) -> Callable[[StormyCloud], int]:
    def misbehave(cloud: StormyCloud) -> int:
        cloud.script.extend(entries * n)
        _wait(lambda: not cloud.script)
        return n * len(entries)

    return misbehave


def _count_down(name: str, n: int) -> Callable[[StormyCloud], int]:
    def misbehave(cloud: StormyCloud) -> int:
        setattr(cloud, name, n)
        _wait(lambda: getattr(cloud, name) == 0)
        return n

    return misbehave


def _hang(cloud: StormyCloud) -> int:
    before = cloud.requests
    cloud.hangs = True
    _wait(lambda: cloud.requests >= before + 2)
    cloud.hangs = False
    return cloud.requests - before


def _small(cloud: StormyCloud) -> int:
    """413 for whatever is larger than a few results: batches are halved until they fit."""
    cloud.hangs = True  # so that there is a backlog, and with it a large batch
    time.sleep(1.5)
    n_before, cloud.max_request_bytes = len(cloud.seen_bytes), _FEW_RESULTS_BYTES
    cloud.hangs = False
    time.sleep(3.0)
    cloud.max_request_bytes = None
    return sum(n_bytes > _FEW_RESULTS_BYTES for n_bytes in cloud.seen_bytes[n_before:])


def _wait(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


@dataclass(frozen=True)
class Storm:
    """One misbehavior, and whether batches come again for it."""

    name: str
    misbehave: Callable[[StormyCloud], int]
    comes_again: bool = False


_HTML = {"Content-Type": "text/html"}
_PATIENCE = {"Retry-After": str(_RETRY_AFTER_S)}
STORMS = [
    Storm("429 with Retry-After", _script(2, Scripted(429, headers=_PATIENCE))),
    Storm("503 with Retry-After", _script(2, Scripted(503, headers=_PATIENCE))),
    Storm("500, 502, 503", _script(4, Scripted(500), Scripted(502), Scripted(503))),
    Storm("401, 403, 404, 407", _script(2, Scripted(401), Scripted(403), Scripted(404), Scripted(407))),
    Storm("301 to a login page", _script(4, Scripted(302, headers={"Location": "http://127.0.0.1:1/login"}))),
    Storm("413", _small),
    Storm("nonsense with 200, stored", _script(4, Scripted(200, headers=_HTML, body="<html>" * 99, stores=True))),
    Storm("nonsense with 500", _script(4, Scripted(500, headers=_HTML, body="\x00<html>" * 20_000))),
    Storm("hangs", _hang),
    Storm("resets the request", _count_down("resets_requests", 6)),
    Storm("resets within the answer", _count_down("resets_bodies", 6), comes_again=True),
    Storm("stores and drops the answer", _count_down("loses_answers", 6), comes_again=True),
]


def parts(run: Run) -> list[Part]:
    """Each misbehavior on a bench of its own."""
    return [
        Part(f"7 the cloud: {storm.name}", "gatewayd", partial(_weather_at, seed=run.seed, number=number))
        for number, storm in enumerate(STORMS)
    ]


def _weather_at(folder: Path, seed: int, number: int) -> Line:
    return weather(folder, seed, STORMS[number])


def weather(folder: Path, seed: int, storm: Storm) -> Line:
    """One misbehavior on a bench of its own."""
    line = Line(test=f"7 the cloud: {storm.name}", subject="gatewayd", seed=seed)
    with bench(folder, seed) as the:
        cloud = StormyCloud(the.cloud.file)
        cloud.begin()
        try:
            gateway = the.gateway(url=cloud.url, timeout_s=1)
            gateway.start()
            device = the.send(per_s=_PER_S)
            _wait(lambda: the.ledger.read() > 50)
            n_before = len(cloud.at_s)
            line.faults = storm.misbehave(cloud)
            began_s, n_stored = time.monotonic(), the.ledger.read()
            _wait(lambda: the.ledger.read() > n_stored)
            line.recovery_s = round(time.monotonic() - began_s, 2)
            line.more["requests"] = len(cloud.at_s) - n_before
            time.sleep(_SETTLE_S)
            device.halt()
            device.finish()
            the.settle()
            line.fresh_event_ok = the.is_fresh_through()
            the.close_books(line)
        finally:
            cloud.end()
    judge(line, min_acked=100, min_faults=1, min_resent=int(storm.comes_again))
    _judge_patience(line, storm, cloud.at_s[n_before:])
    if line.resent and not storm.comes_again:
        line.problems.append(f"resent: {line.resent}, though no answer was lost")
    if line.dead_letter:
        line.problems.append(f"dead_letter: {line.dead_letter}, though nothing was wrong with the results")
    return line


def _judge_patience(line: Line, storm: Storm, at_s: Sequence[float]) -> None:
    """Retry-After is obeyed to the second: no request comes sooner after an answer that asked for it."""
    if "Retry-After" not in storm.name:
        return
    pauses = [later - sooner for sooner, later in pairwise(at_s[: line.faults + 1])]
    line.more["pauses_s"] = [round(pause, 2) for pause in pauses]
    if not pauses or min(pauses) < _RETRY_AFTER_S:
        line.problems.append(f"Retry-After: {_RETRY_AFTER_S} was not obeyed: {line.more['pauses_s']}")
