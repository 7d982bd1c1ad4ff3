"""Overlapping filters and the whole daemon: two routes, and each of them answers each message once."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sim.gateway import CloudProcess, Gateway, wait_until
from tests.sim.mosquitto import Mosquitto

pytestmark = [pytest.mark.broker]

N = 200
ROUTE = """
[routes.{name}]
topics = [{topics}]
handler = "threshold"
sinks = ["cloud"]
payload = {{ format = "json" }}
[routes.{name}.options]
on = "every"
[[routes.{name}.options.rules]]
field = "value"
above = -1000.0
label = "seen"
"""


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[CloudProcess]:
    cloud = CloudProcess(tmp_path)
    cloud.start()
    yield cloud
    cloud.stop()


@pytest.fixture
def root(tmp_path: Path) -> str:
    return tmp_path.name.replace("_", "-")[-40:]


@pytest.fixture
def gateway(tmp_path: Path, root: str, mosquitto: Mosquitto) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path / "gateway", f"[source]\nport = {mosquitto.port}\n", name=root)
    yield gateway
    gateway.end()


def configure(gateway: Gateway, cloud: CloudProcess, root: str, **routes: list[str]) -> None:
    """Write the routes behind what the config begins with; `routes`: name to topic filters below `root`."""
    head = gateway.config.read_text().partition("[sinks")[0]
    text = f'{head}[sinks.cloud]\ntype = "http"\nurl = "{cloud.url}"\n'
    for name, topics in {**routes, "end": ["x/end"]}.items():
        text += ROUTE.format(name=name, topics=", ".join(f'"{root}/{topic}"' for topic in topics))
    gateway.config.write_text(text)


def publish(broker: Mosquitto, topic: str, first: int = 0, n: int = N) -> None:
    """Publish `n` readings at QoS 1; returns when the broker has acknowledged all."""
    lines = "".join(f'{{"value": {index}}}\n' for index in range(first, first + n))
    command = ["mosquitto_pub", "-p", str(broker.port), "-t", topic, "-q", "1", "-l"]
    subprocess.run(command, input=lines.encode(), check=True, timeout=120)


def received(gateway: Gateway) -> dict[str, int]:
    return {name: book["received"] for name, book in gateway.books().messages.items() if book["received"]}


def results(cloud: CloudProcess, route: str) -> int:
    return sum(event["source"].endswith(f"/{route}") for event in cloud.received())


def settle(gateway: Gateway, broker: Mosquitto, root: str, expected: dict[str, int]) -> None:
    """Wait for a message that was published after all others, and so arrives after all copies; then stop."""
    n_ends = received(gateway).get("end", 0) + 1
    publish(broker, f"{root}/x/end", n=1)
    arrived = expected | {"end": n_ends}
    wait_until(
        lambda: received(gateway).get("end") == n_ends and sum(received(gateway).values()) >= sum(arrived.values()),
        30,
        lambda: f"{received(gateway)}\n{gateway.describe()}",
    )
    assert gateway.stop() == 0, gateway.describe()
    assert received(gateway) == arrived


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
@pytest.mark.parametrize(
    "routes",
    [{"wide": ["oven/#"], "narrow": ["oven/+"]}, {"wide": ["+/vibration"], "narrow": ["oven/+"]}],
    ids=["covered", "partly"],
)
def test_two_routes_with_overlapping_filters_answer_each_message_once(
    gateway: Gateway, mosquitto: Mosquitto, cloud: CloudProcess, root: str, routes: dict[str, list[str]], protocol: str
) -> None:
    gateway.config.write_text(f'{gateway.config.read_text()}protocol = "{protocol}"\n')
    configure(gateway, cloud, root, **routes)
    gateway.start()

    publish(mosquitto, f"{root}/oven/vibration")

    settle(gateway, mosquitto, root, {"wide": N, "narrow": N})
    assert (results(cloud, "wide"), results(cloud, "narrow")) == (N, N)
    assert gateway.books().balanced


def test_a_filter_that_left_the_config_doubles_nothing_after_a_restart(
    gateway: Gateway, mosquitto: Mosquitto, cloud: CloudProcess, root: str
) -> None:
    configure(gateway, cloud, root, wide=["+/vibration"], narrow=["oven/+"])
    gateway.start()
    publish(mosquitto, f"{root}/oven/vibration")
    settle(gateway, mosquitto, root, {"wide": N, "narrow": N})
    publish(mosquitto, f"{root}/oven/vibration", first=N)  # waits at the broker, twice, over the change
    configure(gateway, cloud, root, wide=["+/vibration"])
    gateway.start()

    publish(mosquitto, f"{root}/oven/vibration", first=2 * N)

    settle(gateway, mosquitto, root, {"wide": 3 * N, "narrow": N})
    assert (results(cloud, "wide"), results(cloud, "narrow")) == (3 * N, N)
    assert gateway.books().balanced
