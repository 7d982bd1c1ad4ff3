"""A TCP proxy that spoils a link, with the vocabulary of toxiproxy: toxics, per direction, on a share of connections.

It runs on a thread with an event loop of its own, so that a test without one can use it. Toxics may change at any
moment; data already on its way is not called back.
"""

import asyncio
import random
import threading
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

Direction = Literal["upstream", "downstream"]  # towards the server · towards the client
Kind = Literal["latency", "bandwidth", "slow_close", "timeout", "reset_peer", "slicer", "limit_data"]

_CHUNK = 65536
_STOP_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Toxic:
    """One way to spoil one direction. What each kind reads:

    - latency: `latency_ms` ± `jitter_ms` before each piece
    - bandwidth: `rate_bytes_per_s`
    - slow_close: `delay_ms` before an end is handed on
    - timeout: nothing passes; the connection ends after `timeout_ms` (0: it stays half open while the toxic holds)
    - reset_peer: RST after `timeout_ms`
    - slicer: pieces of `average_bytes` ± `variation_bytes`, `delay_ms` apart
    - limit_data: RST after `max_bytes`

    `toxicity` is the share of connections it holds for.
    """

    kind: Kind
    direction: Direction = "downstream"
    toxicity: float = 1.0
    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    rate_bytes_per_s: float = 0.0
    delay_ms: float = 0.0
    timeout_ms: float = 0.0
    average_bytes: int = 0
    variation_bytes: int = 0
    max_bytes: int = 0


class _CutError(Exception):
    """The connection is to end with a reset."""


@dataclass(eq=False)
class _Link:
    """One connection through the proxy."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    draw: float  # decides which toxics hold for it
    task: "asyncio.Task[Any] | None"
    n_passed: dict[Direction, int] = field(default_factory=lambda: {"upstream": 0, "downstream": 0})

    def reset(self) -> None:
        """RST to both sides."""
        self.client.transport.abort()
        self.server.transport.abort()


class Proxy:
    """Listens on a free port of loopback and hands on to `target_port`."""

    def __init__(self, target_port: int, seed: int = 1) -> None:
        self._target_port = target_port
        self._chance = random.Random(seed)
        self._toxics: tuple[Toxic, ...] = ()
        self._links: set[_Link] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self.port = 0
        self.n_connections = 0
        self.n_bytes = 0  # passed on, both ways

    def start(self) -> None:
        """Return when it listens."""
        self._thread.start()
        self._do(self._listen())

    def stop(self) -> None:
        """Cut everything and end the thread."""
        self._do(self._hang_up())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_S)
        self._loop.close()

    def down(self) -> None:
        """Nobody listens, every connection is cut."""
        self._do(self._hang_up())

    def up(self) -> None:
        """Listen again, on the same port."""
        self._do(self._listen())

    def put(self, toxics: Sequence[Toxic] = ()) -> None:
        """From now on these toxics hold, and no others."""
        self._toxics = tuple(toxics)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_STOP_S)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _hang_up(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for link in list(self._links):
            if link.task is not None:
                link.task.cancel()  # a toxic may hold it for long
        while self._links:
            await asyncio.sleep(0.001)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.n_connections += 1
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, server_writer, self._chance.random(), asyncio.current_task())
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(link, reader, server_writer, "upstream"), name="upstream")
                tasks.create_task(self._pump(link, server_reader, writer, "downstream"), name="downstream")
        except* (_CutError, OSError):
            pass  # cut by a toxic, or by one of the two sides
        finally:
            link.reset()
            self._links.discard(link)

    async def _pump(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction
    ) -> None:
        while data := await reader.read(_CHUNK):
            for toxic in self._on(link, direction):
                data = await self._spoil(link, toxic, direction, data)
            for piece, delay_s in self._slices(link, direction, data):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(delay_s)
            link.n_passed[direction] += len(data)
            self.n_bytes += len(data)
            if any(toxic.kind == "limit_data" and self._is_spent(link, toxic) for toxic in self._on(link, direction)):
                raise _CutError
        for toxic in self._on(link, direction):
            if toxic.kind == "slow_close":
                await asyncio.sleep(toxic.delay_ms / 1000)
        with suppress(OSError, RuntimeError):
            writer.write_eof()

    def _on(self, link: _Link, direction: Direction) -> list[Toxic]:
        return [toxic for toxic in self._toxics if toxic.direction == direction and link.draw < toxic.toxicity]

    async def _spoil(self, link: _Link, toxic: Toxic, direction: Direction, data: bytes) -> bytes:
        if toxic.kind == "latency":
            spread_ms = self._chance.uniform(-toxic.jitter_ms, toxic.jitter_ms)
            await asyncio.sleep(max(0.0, toxic.latency_ms + spread_ms) / 1000)
        elif toxic.kind == "bandwidth":
            await asyncio.sleep(len(data) / toxic.rate_bytes_per_s)
        elif toxic.kind == "timeout":
            await self._swallow(toxic)
        elif toxic.kind == "reset_peer":
            await asyncio.sleep(toxic.timeout_ms / 1000)
            raise _CutError
        elif toxic.kind == "limit_data":
            return data[: max(0, toxic.max_bytes - link.n_passed[direction])]
        return data

    async def _swallow(self, toxic: Toxic) -> None:
        """As a cable that was pulled: what is sent goes nowhere, and nobody is told."""
        if toxic.timeout_ms:
            await asyncio.sleep(toxic.timeout_ms / 1000)
            raise _CutError
        while toxic in self._toxics:
            await asyncio.sleep(0.02)
        raise _CutError  # the far side has forgotten this connection meanwhile

    def _is_spent(self, link: _Link, toxic: Toxic) -> bool:
        return link.n_passed[toxic.direction] >= toxic.max_bytes

    def _slices(self, link: _Link, direction: Direction, data: bytes) -> list[tuple[bytes, float]]:
        slicer = next((toxic for toxic in self._on(link, direction) if toxic.kind == "slicer"), None)
        if slicer is None:
            return [(data, 0.0)]
        pieces, at = [], 0
        while at < len(data):
            spread = self._chance.randint(-slicer.variation_bytes, slicer.variation_bytes)
            n_bytes = max(1, slicer.average_bytes + spread)
            pieces.append((data[at : at + n_bytes], slicer.delay_ms / 1000))
            at += n_bytes
        return pieces
