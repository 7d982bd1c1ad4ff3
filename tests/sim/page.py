"""The page's server on a real socket, in front of a real spool that the real writer serves."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from gatewayd.config.schema import Web
from gatewayd.flow.watch import FlowWatch
from gatewayd.status import Depths, status
from gatewayd.web.server import Views, WebServer
from tests.sim.handlers import Scripted
from tests.sim.stages import Rig, stages

OWN = {"X-Gatewayd": "1", "Content-Type": "application/json"}


class Served:
    """The stages, the server and a client."""

    def __init__(self, rig: Rig, url: str, client: aiohttp.ClientSession) -> None:
        self.rig = rig
        self.url = url
        self.client = client
        self.denied: list[str] = []
        self.changed: list[tuple[str, int]] = []

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Status, and the body: JSON where it is some."""
        async with self.client.request(method, self.url + path, allow_redirects=False, **options) as answer:
            body = await answer.text()
            return answer.status, json.loads(body) if answer.content_type == "application/json" else body

    async def bury(self, *payloads: bytes) -> None:
        """So many dead letters."""
        for payload in payloads:
            self.rig.source.offer("t/a", payload)
        await self.rig.acked(len(payloads))


@asynccontextmanager
async def page(folder: Path, *, token: str | None = None, **web: Any) -> AsyncIterator[Served]:
    """A page with the routes `r`, and `open`, whose payloads may be seen."""
    keys = {"r": {"payload": {"format": "json"}}, "open": {"topics": ["o/#"], "include_input": True}}
    async with stages(folder, {"r": Scripted(), "open": Scripted()}, keys) as rig:
        config = Web(port=0, **web)
        depths = Depths()
        client = aiohttp.ClientSession()
        served = Served(rig, "", client)

        async def books() -> Any:
            return (await rig.parts.spool.books()).totals()

        views = Views(
            metrics=rig.telemetry.prometheus,
            stuck=lambda: None,
            ready=lambda: None,
            status=lambda: status(rig.parts, depths),
            books=books,
            flow=FlowWatch(rig.parts, depths, config),
            spool=rig.parts.ground.paths.spool,
            shows_input=lambda route: route == "open",
            denied=served.denied.append,
            changed=lambda what, n: served.changed.append((what, n)),
        )
        server = WebServer(config, views, token=token)
        served.url = await server.start()
        try:
            yield served
        finally:
            await client.close()
            await server.stop()
