"""A board that gets hot: routes of a low priority do without their language model, none loses a message."""

import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sim.boards import JETSON, lay
from tests.sim.gateway import CloudProcess, Gateway, wait_until
from tests.sim.models import demo_models
from tests.sim.mosquitto import Mosquitto

pytestmark = [pytest.mark.broker, pytest.mark.timeout(600)]

CONFIG = """
[source]
port = {port}
client_id = "{name}"
[models]
dir = "{models}"
llm_threads = 1
[board]
root = "{root}"
look_s = 0.1
hot_c = 80.0
cool_c = 70.0
shed_below_priority = 5
[sinks.cloud]
type = "http"
url = "{url}"
retry_max_s = 0.3
[routes.nightly]
topics = ["{name}/#"]
handler = "summarize_text"
sinks = ["cloud"]
priority = 2
options = {{ model = "{model}", max_tokens_out = 48 }}
window = {{ max_messages = 2 }}
payload = {{ format = "text" }}
"""
TEMPERATURE = "sys/class/thermal/thermal_zone0/temp"


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[CloudProcess]:
    cloud = CloudProcess(tmp_path)
    cloud.start()
    yield cloud
    cloud.stop()


def make_gateway(tmp_path: Path, mosquitto: Mosquitto, cloud: CloudProcess, model: str, models: Path) -> Gateway:
    name = tmp_path.name.replace("_", "-")[:60]
    root = lay(tmp_path / "root", JETSON)
    text = CONFIG.format(port=mosquitto.port, name=name, models=models, url=cloud.url, root=root, model=model)
    return Gateway(tmp_path / "gateway", text, name=name)


def heat(tmp_path: Path, celsius: float) -> None:
    (tmp_path / "root" / TEMPERATURE).write_text(f"{celsius * 1000:.0f}\n")


def is_hot(gateway: Gateway) -> bool:
    return bool(gateway.get("/status")["board"]["hot"])


def metric(gateway: Gateway, name: str) -> str | None:
    with urllib.request.urlopen(f"http://127.0.0.1:{gateway.web_port}/metrics", timeout=20) as response:
        found = re.search(rf"^{re.escape(name)} (\S+)$", response.read().decode(), re.MULTILINE)
    return found.group(1) if found else None


def publish(gateway: Gateway, broker: Mosquitto, *lines: str) -> None:
    topic = gateway.get("/status")["gateway"] + "/log"
    command = ["mosquitto_pub", "-p", str(broker.port), "-t", topic, "-q", "1", "-l"]
    subprocess.run(command, input="\n".join(lines).encode() + b"\n", check=True, timeout=120)


def data(cloud: CloudProcess) -> list[dict[str, Any]]:
    return [event["data"] for event in sorted(cloud.stored().values(), key=lambda event: event["time"])]


def test_the_daemon_sees_the_board_and_says_once_that_it_is_hot(
    tmp_path: Path, mosquitto: Mosquitto, cloud: CloudProcess
) -> None:
    gateway = make_gateway(tmp_path, mosquitto, cloud, "", tmp_path)
    try:
        gateway.start()
        wait_until(lambda: "temperatures_c" in gateway.get("/status")["board"], 120, gateway.describe)
        assert not is_hot(gateway)
        assert metric(gateway, 'hw_host_power_watts{hw_id="hwmon3/in1",hw_name="VDD_IN"}') == "6.0"

        heat(tmp_path, 85)

        wait_until(lambda: is_hot(gateway), 120, gateway.describe)
        heat(tmp_path, 75)
        wait_until(lambda: "75.0 C" in str(gateway.get("/status")["board"]["causes"]), 120, gateway.describe)
        assert is_hot(gateway)
        heat(tmp_path, 69)
        wait_until(lambda: not is_hot(gateway), 120, gateway.describe)
        log = (gateway.folder / "gatewayd.log").read_text()
        assert log.count("board is hot or held back") == 1
        assert log.count("board is cool again") == 1
    finally:
        gateway.end()


@pytest.mark.model
@pytest.mark.slow
def test_while_hot_summaries_quote_their_window_and_when_cool_the_model_writes_again(
    tmp_path: Path, mosquitto: Mosquitto, cloud: CloudProcess
) -> None:
    pytest.importorskip("xllamacpp", reason="the runtime xllamacpp is not installed")
    gateway = make_gateway(tmp_path, mosquitto, cloud, "gemma3-270m", demo_models("gemma3-270m"))
    try:
        gateway.start()
        wait_until(lambda: gateway.get("/status")["routes"]["nightly"]["state"] == "running", 120, gateway.describe)
        heat(tmp_path, 85)
        wait_until(lambda: is_hot(gateway), 120, gateway.describe)

        publish(gateway, mosquitto, "pump-3 bearing temperature 81.2", "pump-3 stopped: bearing protection")

        wait_until(lambda: len(data(cloud)) == 1, 120, gateway.describe)
        [hot] = data(cloud)
        assert (hot["reason"], hot["method"], hot["provisional"]) == ("hot", "extractive", True)
        refused = metric(gateway, 'gatewayd_model_refused_total{reason="hot",route="nightly"}')
        assert refused is not None
        assert float(refused) >= 1
        heat(tmp_path, 60)
        wait_until(lambda: not is_hot(gateway), 120, gateway.describe)
        publish(gateway, mosquitto, "pump-4 pressure 4.1 bar", "pump-4 started by operator")
        wait_until(lambda: len(data(cloud)) == 2, 120, gateway.describe)
        assert data(cloud)[1]["reason"] != "hot"
        assert data(cloud)[1]["tokens_out"] > 0
        wait_until(lambda: gateway.n_pending() == 0, 120, gateway.describe)
        books = gateway.books()
        assert books.balanced
        assert books.messages["nightly"]["handled"] == 4
    finally:
        gateway.end()
