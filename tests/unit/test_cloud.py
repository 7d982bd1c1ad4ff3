"""The small cloud of demos and tests: it must be stricter than it is friendly, for tests lean on its counts."""

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from gatewayd.cli.cloud import LocalCloud
from gatewayd.events import BATCH_CONTENT_TYPE, batch_json
from tests.sim.spool import results


@pytest.fixture
async def cloud() -> AsyncIterator[LocalCloud]:
    cloud = LocalCloud(max_ids=10, max_last=3, max_body_bytes=10_000)
    await cloud.start()
    yield cloud
    await cloud.stop()


async def post(url: str, body: bytes, content_type: str = BATCH_CONTENT_TYPE) -> int:
    headers = {"Content-Type": content_type}
    async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=headers) as response:
        return response.status


async def test_an_event_is_stored_once_however_often_it_comes(cloud: LocalCloud) -> None:
    for _ in range(3):
        assert await post(cloud.url, batch_json(results("pumps", 2), "gw")) == 200

    assert (cloud.requests, cloud.events, cloud.unique, cloud.duplicates) == (3, 6, 2, 4)
    assert cloud.has("/gateways/gw/routes/pumps", "pumps-1")
    assert not cloud.has("/gateways/gw/routes/other", "pumps-1")


async def test_the_same_id_of_two_gateways_are_two_events(cloud: LocalCloud) -> None:
    for gateway in ("one", "two"):
        await post(cloud.url, batch_json(results("pumps", 1), gateway))

    assert cloud.unique == 2


async def test_memory_is_bounded_and_what_is_forgotten_is_counted(cloud: LocalCloud) -> None:
    await post(cloud.url, batch_json(results("pumps", 25), "gw"))

    assert (cloud.unique, cloud.forgotten) == (25, 15)
    assert [event.id for event in cloud.last] == ["pumps-22", "pumps-23", "pumps-24"]


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"[]", "application/json", 400),
        (b"{}", BATCH_CONTENT_TYPE, 400),
        (b'[{"specversion":"0.3","id":"1","source":"/","type":"t"}]', BATCH_CONTENT_TYPE, 400),
        (b"[" + b" " * 20_000 + b"]", BATCH_CONTENT_TYPE, 413),
        (b"[]", BATCH_CONTENT_TYPE, 200),
    ],
)
async def test_what_is_no_batch_is_turned_away(cloud: LocalCloud, body: bytes, content_type: str, status: int) -> None:
    assert await post(cloud.url, body, content_type) == status
    assert cloud.unique == 0


async def test_a_cut_cloud_refuses_connections_and_comes_back_where_it_was(cloud: LocalCloud) -> None:
    url = cloud.url
    await cloud.cut()
    with pytest.raises(aiohttp.ClientConnectionError):
        await post(url, b"[]")

    await cloud.restore()

    assert await post(url, b"[]") == 200


async def test_a_cloud_can_also_be_overloaded(cloud: LocalCloud) -> None:
    await cloud.cut("503")
    assert cloud.is_cut
    assert await post(cloud.url, b"[]") == 503

    await cloud.restore()
    assert await post(cloud.url, b"[]") == 200


async def test_as_a_process_it_appends_all_it_receives_to_a_file(tmp_path: Path) -> None:
    file = tmp_path / "received.ndjson"
    command = [sys.executable, "-m", "gatewayd.cli.cloud", "--port", "0", "--file", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        for _ in range(2):
            assert await post(url, batch_json(results("pumps", 2), "gw")) == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 0

    received = [json.loads(line) for line in file.read_bytes().splitlines()]
    assert [event["id"] for event in received] == ["pumps-0", "pumps-1"] * 2
    assert received[0]["data"] == {"label": "ok"}
