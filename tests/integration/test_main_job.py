"""The whole daemon as a process, between a real Mosquitto and a real HTTP cloud."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.sim.gateway import CloudProcess, Gateway, wait_until
from tests.sim.mosquitto import Mosquitto

pytestmark = [pytest.mark.broker]

ROUTES = """
[sinks.cloud]
type = "http"
url = "{cloud}"
retry_max_s = 0.5

[routes.heat]
topics = ["plant/+/temperature"]
handler = "threshold"
sinks = ["cloud"]
payload = {{ format = "json" }}
[routes.heat.options]
on = "every"
[[routes.heat.options.rules]]
field = "temperature"
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
def gateway(tmp_path: Path, mosquitto: Mosquitto, cloud: CloudProcess) -> Iterator[Gateway]:
    text = f"[source]\nport = {mosquitto.port}\nclient_id = '{tmp_path.name}'\n" + ROUTES.format(cloud=cloud.url)
    gateway = Gateway(tmp_path / "gateway", text, name=tmp_path.name.replace("_", "-")[:60])
    yield gateway
    gateway.end()


def publish(broker: Mosquitto, topic: str, *payloads: str) -> None:
    """Publish at QoS 1, one payload a line; returns when the broker has acknowledged all."""
    binary = shutil.which("mosquitto_pub")
    assert binary is not None
    command = [binary, "-p", str(broker.port), "-t", topic, "-q", "1", "-l"]
    subprocess.run(command, input="\n".join(payloads).encode() + b"\n", check=True, timeout=120)


def readings(n: int) -> list[str]:
    return [json.dumps({"temperature": 20.5, "n": index}) for index in range(n)]


def test_a_message_becomes_a_result_in_the_cloud(gateway: Gateway, mosquitto: Mosquitto, cloud: CloudProcess) -> None:
    gateway.start()

    publish(mosquitto, "plant/oven/temperature", *readings(3))

    wait_until(lambda: len(cloud.stored()) == 3, 20, gateway.describe)
    event = next(iter(cloud.stored().values()))
    assert event["subject"] == "plant/oven/temperature"
    assert event["type"] == "dev.gatewayd.result.alert"
    assert event["data"]["label"] == "seen"


def test_a_live_result_goes_back_to_the_local_bus(gateway: Gateway, mosquitto: Mosquitto) -> None:
    gateway.start()
    topic = f"gatewayd/{gateway.get('/status')['gateway']}/results/heat"
    listener = subprocess.Popen(
        ["mosquitto_sub", "-p", str(mosquitto.port), "-t", topic, "-C", "1", "-W", "20"], stdout=subprocess.PIPE
    )

    def heard() -> bool:
        publish(mosquitto, "plant/oven/temperature", *readings(1))
        return listener.poll() is not None

    wait_until(heard, 20, gateway.describe)

    assert listener.stdout is not None
    assert json.loads(listener.stdout.read())["label"] == "seen"
    listener.stdout.close()


def test_results_pile_up_while_the_cloud_is_away_and_arrive_when_it_is_back(
    gateway: Gateway, mosquitto: Mosquitto, cloud: CloudProcess
) -> None:
    gateway.start()
    cloud.stop()

    publish(mosquitto, "plant/oven/temperature", *readings(50))

    wait_until(lambda: gateway.n_pending() == 50, 20, gateway.describe)
    cloud.start()
    wait_until(lambda: len(cloud.stored()) == 50, 30, gateway.describe)
    wait_until(lambda: gateway.n_pending() == 0, 20, gateway.describe)
    ordered = [event["data"].get("value") for event in cloud.received()]
    assert ordered == sorted(ordered)
    assert gateway.books().balanced


def test_a_payload_that_does_not_decode_is_buried_and_disturbs_nobody(
    gateway: Gateway, mosquitto: Mosquitto, cloud: CloudProcess
) -> None:
    gateway.start()

    publish(mosquitto, "plant/oven/temperature", readings(1)[0], "{not json", readings(1)[0])

    wait_until(lambda: len(cloud.stored()) == 2, 20, gateway.describe)
    books = gateway.books()
    assert books.messages["heat"]["received"] == 3
    assert books.messages["heat"]["dead"] == 1
    assert books.balanced


def test_sigterm_drains_and_leaves_nothing_behind(gateway: Gateway, mosquitto: Mosquitto, cloud: CloudProcess) -> None:
    gateway.start()
    publish(mosquitto, "plant/oven/temperature", *readings(200))
    wait_until(lambda: (gateway.books().messages.get("heat") or {}).get("received", 0) > 0, 20, gateway.describe)

    status = gateway.stop()

    assert status == 0, gateway.describe()
    books = gateway.books()
    assert books.balanced
    assert books.messages["heat"]["handled"] == books.messages["heat"]["received"]


def test_sighup_takes_over_new_options_and_says_what_it_cannot(gateway: Gateway, mosquitto: Mosquitto) -> None:
    gateway.start()
    text = gateway.config.read_text()
    text = text.replace('label = "seen"', 'label = "renamed"').replace("retry_max_s = 0.5", "retry_max_s = 0.6")
    gateway.config.write_text(text)
    assert gateway.process is not None

    gateway.process.send_signal(signal.SIGHUP)

    log = gateway.folder / "gatewayd.log"
    wait_until(lambda: "reloaded" in log.read_text(), 20, gateway.describe)
    line = next(json.loads(line) for line in log.read_text().splitlines() if '"reloaded"' in line)
    assert line["taken_over"] == ["routes.heat.options.rules"]
    assert line["needs_restart"] == ["sinks.cloud.retry_max_s"]


def test_a_bad_config_ends_with_status_78_and_names_every_mistake(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    route = '[routes.x]\ntopics = ["a/#/b"]\nhandler = "nobody"\nsinks = ["nowhere"]\n'
    config.write_text('[gateway]\nid = "a b"\n' + route)

    done = subprocess.run(
        [sys.executable, "-m", "gatewayd", "run", "--config", str(config)],
        capture_output=True,
        check=False,
        timeout=120,
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path)},
    )

    assert done.returncode == 78
    words = done.stderr.decode()
    for line, key in ((2, "gateway.id"), (4, "topics"), (5, "handler"), (6, "sinks")):
        assert any(f":{line}:" in one and key in one for one in words.splitlines()), words


@pytest.fixture
def shared_pair(
    tmp_path: Path, new_mosquitto: Callable[..., Mosquitto], cloud: CloudProcess
) -> Iterator[tuple[Mosquitto, list[Gateway]]]:
    broker = new_mosquitto()
    gateways = []
    for name in ("left", "right"):
        text = f"[source]\nport = {broker.port}\nshare_group = 'pair'\n" + ROUTES.format(cloud=cloud.url)
        gateways.append(Gateway(tmp_path / name, text, name=name))
    yield broker, gateways
    for gateway in gateways:
        gateway.end()


def test_two_gateways_share_a_load_and_nothing_is_lost_or_doubled(
    shared_pair: tuple[Mosquitto, list[Gateway]], cloud: CloudProcess
) -> None:
    broker, gateways = shared_pair
    for gateway in gateways:
        gateway.start()

    publish(broker, "plant/oven/temperature", *readings(2000))

    wait_until(lambda: sum(g.books().messages.get("heat", {}).get("received", 0) for g in gateways) == 2000, 30)
    wait_until(lambda: all(gateway.n_pending() == 0 for gateway in gateways), 30)
    shares = [gateway.books().messages["heat"]["received"] for gateway in gateways]
    assert min(shares) > 200
    assert len(cloud.stored()) == len(cloud.received()) == 2000
