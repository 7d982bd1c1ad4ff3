"""A small cloud to try gatewayd against: it takes CloudEvents batches, remembers their ids, and can be cut off.

It stores nothing but counts, the last few events and, where asked, a file of all it received. For demos and tests; the
far side of a real gateway is somebody else's.

    python -m gatewayd.cli.cloud --port 8080 --file received.ndjson
"""

import argparse
import asyncio
import hashlib
from collections import OrderedDict, deque
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec
from aiohttp import web

from gatewayd.events import BATCH_CONTENT_TYPE, Event, parse_batch

CutMode = Literal["refuse", "503"]


class LocalCloud:
    """An HTTP server on loopback that stores each event once, by `source` and `id`.

    Args:
        max_ids: ids remembered; the oldest are forgotten first, and `forgotten` counts them.
        max_last: events kept for display, in `last`.
        max_body_bytes: larger bodies are answered 413 (after decompression).
        file: every event received is appended here, one a line, duplicates included.
    """

    def __init__(
        self,
        *,
        max_ids: int = 1_000_000,
        max_last: int = 20,
        max_body_bytes: int = 64 * 1024 * 1024,
        file: str | Path | None = None,
    ) -> None:
        self.requests = 0
        self.bad_requests = 0
        self.events = 0  # received, duplicates included
        self.duplicates = 0
        self.forgotten = 0
        self.last: deque[Event] = deque(maxlen=max_last)
        self._ids: OrderedDict[bytes, None] = OrderedDict()
        self._max_ids = max_ids
        self._max_body_bytes = max_body_bytes
        self._file: BinaryIO | None = Path(file).open("ab") if file else None  # noqa: SIM115  closed by `stop`
        self._host = "127.0.0.1"
        self._port = 0
        self._runner: web.AppRunner | None = None
        self._is_overloaded = False

    @property
    def unique(self) -> int:
        """How many different events were stored."""
        return len(self._ids) + self.forgotten

    @property
    def url(self) -> str:
        """Where to post batches; the same after `cut` and `restore`."""
        return f"http://{self._host}:{self._port}/events"

    @property
    def is_cut(self) -> bool:
        """Whether posts fail for the time being."""
        return self._runner is None or self._is_overloaded

    def has(self, source: str, event_id: str) -> bool:
        """Whether this event was stored (and its id not forgotten since)."""
        return _digest(source, event_id) in self._ids

    async def start(self, port: int = 0, host: str = "127.0.0.1") -> None:
        """Listen; port 0 takes any free one."""
        self._host, self._port = host, port
        await self._listen()

    async def stop(self) -> None:
        """Stop listening for good."""
        await self._hang_up()
        if self._file is not None:
            self._file.close()
            self._file = None

    async def cut(self, mode: CutMode = "refuse") -> None:
        """Go away: nobody listens, or every post is answered 503."""
        if mode == "503":
            self._is_overloaded = True
        else:
            await self._hang_up()

    async def restore(self) -> None:
        """Come back on the same port."""
        self._is_overloaded = False
        if self._runner is None:
            await self._listen()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one post. A subclass may answer in its own way (tests do)."""
        self.requests += 1
        if self._is_overloaded:
            return web.Response(status=503, text="cut off")
        try:
            events = await self.read(request)
        except ValueError as exc:
            self.bad_requests += 1
            return web.Response(status=400, text=str(exc))
        self.store(events)
        return web.json_response({"stored": len(events)})

    async def read(self, request: web.Request) -> list[Event]:
        """The batch of a request. Raises ValueError for what is none."""
        if request.content_type != BATCH_CONTENT_TYPE:
            raise ValueError(f"content type must be {BATCH_CONTENT_TYPE}")
        return parse_batch(await request.read())

    def store(self, events: list[Event]) -> None:
        """Take a batch: each event counts, each new one is stored."""
        for event in events:
            self._store(event)
        if self._file is not None:
            encode = msgspec.json.encode
            self._file.write(b"".join(encode(event) + b"\n" for event in events))
            self._file.flush()

    def _store(self, event: Event) -> None:
        self.events += 1
        digest = _digest(event.source, event.id)
        if digest in self._ids:
            self.duplicates += 1
            return
        self._ids[digest] = None
        if len(self._ids) > self._max_ids:
            self._ids.popitem(last=False)
            self.forgotten += 1
        # A copy of the data, for the event's own is a view that keeps its whole batch in memory.
        self.last.append(msgspec.structs.replace(event, data=event.data.copy()))

    async def _listen(self) -> None:
        app = web.Application(client_max_size=self._max_body_bytes)
        app.router.add_post("/events", self.answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, self._host, self._port, reuse_address=True)
        await site.start()
        self._port = runner.addresses[0][1]
        self._runner = runner

    async def _hang_up(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()


def _digest(source: str, event_id: str) -> bytes:
    return hashlib.blake2b(f"{source}\0{event_id}".encode(), digest_size=16).digest()


async def _serve(host: str, port: int, file: str | None) -> None:
    cloud = LocalCloud(file=file)
    await cloud.start(port, host)
    print(f"listening on {cloud.url}", flush=True)  # who started us waits for this line
    try:
        await asyncio.Event().wait()
    finally:
        await cloud.stop()


def main() -> None:
    """Run a cloud of its own until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m gatewayd.cli.cloud", description="A small cloud for trials.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on; 0: any free one")
    parser.add_argument("--file", help="append every event received to this file, one a line")
    args = parser.parse_args()
    try:
        asyncio.run(_serve(args.host, args.port, args.file))
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
