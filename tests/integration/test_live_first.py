"""The whole daemon with `drain = "live_first"`: an outage, the return, and a kill -9 in the middle of the drain."""

import asyncio
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec
import pytest

from gatewayd.events import Event
from tests.sim.cloud import FaultyCloud, Scripted
from tests.sim.gateway import Gateway, wait_until
from tests.sim.mosquitto import Mosquitto

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]

N_OLD = 400
N_FRESH = 5
CONFIG = """
[source]
port = {port}
[spool]
commit_window_ms = 0
[sinks.cloud]
type = "http"
url = "{url}"
max_batch = 20
retry_max_s = 1.0
[routes.readings]
topics = ["{root}/#"]
handler = "threshold"
sinks = ["cloud"]
include_input = true
drain = "{drain}"
[routes.readings.options]
on = "every"
[[routes.readings.options.rules]]
field = "value"
above = -1.0
label = "seen"
"""


class NumberingCloud(FaultyCloud):
    """Knows which reading each event is about; while it turns all away it asks for four seconds' pause."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[int] = []  # in order of their first arrival

    def store(self, events: Sequence[Event]) -> None:
        for event in events:
            number = msgspec.json.decode(event.data)["input"]["value"]
            if number not in self.numbers:
                self.numbers.append(number)
        super().store(events)

    def turn_away(self) -> None:
        self.script.extend([Scripted(503, {"Retry-After": "4"})] * 1000)

    def welcome(self) -> None:
        self.script.clear()


@pytest.fixture
async def cloud() -> AsyncIterator[NumberingCloud]:
    cloud = NumberingCloud()
    await cloud.start()
    yield cloud
    await cloud.stop()


@pytest.fixture
def root(tmp_path: Path) -> str:
    return tmp_path.name.replace("_", "-")[-40:]


@pytest.fixture
def gateway(tmp_path: Path, root: str) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path / "gateway", "", name=root)
    yield gateway
    gateway.end()


def publish(broker: Mosquitto, root: str, first: int, n: int) -> None:
    lines = "".join(f'{{"value": {number}}}\n' for number in range(first, first + n))
    command = ["mosquitto_pub", "-p", str(broker.port), "-t", f"{root}/x", "-q", "1", "-l"]
    subprocess.run(command, input=lines.encode(), check=True, timeout=120)


async def until(condition: Callable[[], bool], gateway: Gateway) -> None:
    await asyncio.to_thread(wait_until, condition, 60, gateway.describe)


def n_failed(gateway: Gateway) -> int:
    """Requests that the gateway knows to have failed."""
    with urllib.request.urlopen(f"http://127.0.0.1:{gateway.web_port}/metrics", timeout=20) as response:
        lines = response.read().decode().splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith("gatewayd_uplink_retries_total{"))


async def outage(cloud: NumberingCloud, gateway: Gateway, broker: Mosquitto, root: str) -> int:
    """Old readings wait, the sink was asked for, fresh ones came since; the number of the first of those."""
    cloud.turn_away()
    await asyncio.to_thread(gateway.start)
    await waiting(gateway, broker, root, 0, N_OLD)
    first_fresh = N_OLD
    while True:
        asked = cloud.requests
        await until(partial(lambda asked: n_failed(gateway) > asked, asked), gateway)
        failed = cloud.requests
        await waiting(gateway, broker, root, first_fresh, N_FRESH)
        if cloud.requests == failed == n_failed(gateway):  # else what was fresh waited for a request that failed
            cloud.welcome()
            return first_fresh
        first_fresh += N_FRESH


async def waiting(gateway: Gateway, broker: Mosquitto, root: str, first: int, n: int) -> None:
    """Publish so many readings; return when they are on disk with all those before."""
    await asyncio.to_thread(publish, broker, root, first, n)
    await until(lambda: gateway.n_pending() == first + n, gateway)


@pytest.mark.parametrize("is_killed", [False, True])
async def test_after_an_outage_the_first_that_arrives_is_fresh_and_the_old_ones_keep_their_order(
    cloud: NumberingCloud, gateway: Gateway, mosquitto: Mosquitto, root: str, is_killed: bool
) -> None:
    gateway.config.write_text(
        gateway.config.read_text() + CONFIG.format(port=mosquitto.port, url=cloud.url, root=root, drain="live_first")
    )

    first_fresh = await outage(cloud, gateway, mosquitto, root)
    if is_killed:
        cloud.slow_s = 0.05
        await until(lambda: len(cloud.numbers) >= 100, gateway)
        gateway.kill()
        cloud.slow_s = 0.0
        await asyncio.to_thread(gateway.start)
    await asyncio.to_thread(publish, mosquitto, root, 10_000, 5)
    await until(lambda: gateway.n_pending() == 0, gateway)

    arrived = cloud.numbers
    assert arrived[0] == first_fresh
    old = [number for number in arrived if number < first_fresh]
    assert old == list(range(first_fresh))
    fresh = [number for number in arrived if number >= first_fresh]
    assert fresh == sorted(fresh)
    assert len(arrived) == gateway.books().results["readings"]["cloud"]["delivered"]
    assert gateway.books().balanced


async def test_with_the_strict_order_the_oldest_comes_first(
    cloud: NumberingCloud, gateway: Gateway, mosquitto: Mosquitto, root: str
) -> None:
    gateway.config.write_text(
        gateway.config.read_text() + CONFIG.format(port=mosquitto.port, url=cloud.url, root=root, drain="oldest_first")
    )

    await outage(cloud, gateway, mosquitto, root)
    await until(lambda: gateway.n_pending() == 0, gateway)

    assert cloud.numbers == sorted(cloud.numbers)
    assert len(cloud.numbers) > N_OLD
