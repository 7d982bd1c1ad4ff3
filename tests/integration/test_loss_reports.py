"""The whole daemon: what expires while the cloud is away is told to it when it is back, and the books agree."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.sim.gateway import CloudProcess, Gateway, wait_until
from tests.sim.mosquitto import Mosquitto

pytestmark = [pytest.mark.broker]

N_MESSAGES = 20
CONFIG = """
[source]
port = {port}
client_id = "loss-reports"
[spool]
loss_report_s = 1.0
[sinks.cloud]
type = "http"
url = "{cloud}"
retry_max_s = 0.5
[routes.heat]
topics = ["plant/+/temperature"]
handler = "threshold"
sinks = ["cloud"]
payload = {{ format = "json" }}
ttl_s = 2.0
[routes.heat.options]
on = "every"
[[routes.heat.options.rules]]
field = "temperature"
above = -1000.0
label = "seen"
"""


def test_what_expired_while_the_cloud_was_away_is_told_when_it_is_back(tmp_path: Path, mosquitto: Mosquitto) -> None:
    cloud = CloudProcess(tmp_path)
    gateway = Gateway(tmp_path / "gateway", CONFIG.format(port=mosquitto.port, cloud=cloud.url), name="lossy")
    try:
        gateway.start()
        publish(mosquitto, N_MESSAGES)
        wait_until(lambda: expired(gateway) >= N_MESSAGES, 30, gateway.describe)

        cloud.start()
        wait_until(lambda: reports(cloud), 15, gateway.describe)
        publish(mosquitto, 1)
        wait_until(lambda: len(cloud.stored()) > len(reports(cloud)), 15, gateway.describe)
        assert gateway.stop() == 0
        books = gateway.books()
    finally:
        gateway.end()
        cloud.stop()

    newest = reports(cloud)[-1]
    assert newest["source"] == "/gateways/lossy/routes/heat"
    assert newest["data"]["route"] == "heat"
    assert newest["data"]["since"] < newest["time"]
    assert newest["data"]["results"]["cloud"]["expired"]["ttl"] >= N_MESSAGES
    assert newest["data"]["results"]["cloud"]["expired"] == books.reasons["results/heat/cloud/expired"]
    assert books.balanced
    assert books.results["heat"]["cloud"]["delivered"] == len(cloud.stored())


def publish(broker: Mosquitto, n: int) -> None:
    binary = shutil.which("mosquitto_pub")
    assert binary is not None
    payloads = "".join(json.dumps({"temperature": number}) + "\n" for number in range(n))
    command = [binary, "-p", str(broker.port), "-t", "plant/a/temperature", "-q", "1", "-l"]
    subprocess.run(command, input=payloads.encode(), check=True, timeout=120)


def expired(gateway: Gateway) -> int:
    return gateway.books().results["heat"]["cloud"]["expired"]


def reports(cloud: CloudProcess) -> list[dict[str, Any]]:
    return [event for event in cloud.stored().values() if event["type"] == "dev.gatewayd.result.loss"]
