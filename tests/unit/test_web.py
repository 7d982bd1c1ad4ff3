"""gatewayd.web: read-only endpoints on a real socket, closed to other people's web pages."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import pytest

from gatewayd.config.schema import Web
from gatewayd.errors import ConfigError
from gatewayd.web.server import Views, WebServer, allowed_names, is_our_name


class Gateway:
    """A gateway's state, as the endpoints see it."""

    def __init__(self) -> None:
        self.stuck: str | None = None
        self.missing: str | None = None
        self.connected = True
        self.hold: asyncio.Event | None = None

    async def books(self) -> Mapping[str, Any]:
        if self.hold is not None:
            await self.hold.wait()
        return {"pumps": {"received": 3, "handled": 3}}

    def views(self) -> Views:
        return Views(
            metrics=lambda: b"gatewayd_build_info 1.0\n",
            stuck=lambda: self.stuck,
            ready=lambda: self.missing,
            status=lambda: {"gateway": "g1", "broker": {"connected": self.connected}},
            books=self.books,
        )


class Served:
    """A gateway, its server and a client."""

    def __init__(self, gateway: Gateway, url: str, client: aiohttp.ClientSession) -> None:
        self.gateway = gateway
        self.url = url
        self.client = client

    async def get(self, path: str, **options: Any) -> tuple[int, Any]:
        async with self.client.get(self.url + path, **options) as answer:
            is_json = answer.content_type == "application/json"
            return answer.status, await answer.json() if is_json else await answer.text()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    gateway = Gateway()
    server = WebServer(Web(port=0), gateway.views())
    url = await server.start()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=100)) as client:
        yield Served(gateway, url, client)
    await server.stop()


async def test_metrics_are_prometheus_text(served: Served) -> None:
    async with served.client.get(served.url + "/metrics") as answer:
        body = await answer.text()

    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert body == "gatewayd_build_info 1.0\n"


async def test_health_says_what_is_stuck(served: Served) -> None:
    well = await served.get("/healthz")
    served.gateway.stuck = "commit has not moved for 31.0 s"
    ill = await served.get("/healthz")

    assert well == (200, {"alive": True, "stuck": None})
    assert ill == (503, {"alive": False, "stuck": "commit has not moved for 31.0 s"})


async def test_an_absent_broker_is_told_and_does_not_make_the_gateway_unready(served: Served) -> None:
    served.gateway.connected = False

    assert await served.get("/readyz") == (200, {"ready": True, "missing": None, "broker_connected": False})


async def test_a_route_that_waits_makes_the_gateway_unready(served: Served) -> None:
    served.gateway.missing = "route pumps waits for its model"

    status, body = await served.get("/readyz")

    assert (status, body["missing"]) == (503, "route pumps waits for its model")


async def test_status_and_books_are_json(served: Served) -> None:
    assert await served.get("/status") == (200, {"gateway": "g1", "broker": {"connected": True}})
    assert await served.get("/books") == (200, {"pumps": {"received": 3, "handled": 3}})
    assert await served.get("/") == (
        200,
        {"endpoints": ["/books", "/flow", "/healthz", "/metrics", "/readyz", "/status"]},
    )


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_nothing_can_be_changed(served: Served, method: str) -> None:
    async with served.client.request(method, served.url + "/status") as answer:
        assert answer.status == 405


async def test_a_page_that_made_its_own_name_point_here_is_turned_away(served: Served) -> None:
    status, _ = await served.get("/status", headers={"Host": "evil.example:8686"})

    assert status == 403


@pytest.mark.parametrize(
    ("listens_on", "header", "is_ours"),
    [
        ("127.0.0.1", "127.0.0.1:8686", True),
        ("127.0.0.1", "localhost", True),
        ("127.0.0.1", "LOCALHOST:1", True),
        ("127.0.0.1", "[::1]:8686", True),
        ("127.0.0.1", "192.168.1.5:8686", False),
        ("127.0.0.1", "localhost.evil.example", False),
        ("127.0.0.1", "", False),
        ("127.0.0.1", "[::1", False),
        ("0.0.0.0", "192.168.1.5:8686", True),
        ("0.0.0.0", "evil.example", False),
    ],
)
def test_a_host_name_is_ours_or_it_is_not(listens_on: str, header: str, is_ours: bool) -> None:
    assert is_our_name(header, allowed_names(listens_on)) is is_ours


async def test_more_requests_than_there_is_room_for_are_turned_away(served: Served) -> None:
    served.gateway.hold = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(served.get("/books"), name=f"books[{n}]") for n in range(20)]
        while sum(task.done() for task in asked) < 4:
            await asyncio.sleep(0.01)
        served.gateway.hold.set()

    statuses = sorted(task.result()[0] for task in asked)
    assert statuses == [200] * 16 + [503] * 4


async def test_a_port_that_is_taken_is_an_error_of_the_config(served: Served) -> None:
    port = int(served.url.rsplit(":", 1)[1])
    server = WebServer(Web(port=port), Gateway().views())

    with pytest.raises(ConfigError, match="choose another port"):
        await server.start()
