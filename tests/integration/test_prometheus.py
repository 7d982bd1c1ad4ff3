"""A real Prometheus reads a real daemon: every expression of the dashboard is taken, alerts fire and end."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.docs.test_observability import DASHBOARD, RULES, expressions
from tests.sim.gateway import CloudProcess, Gateway, wait_until
from tests.sim.mosquitto import Mosquitto
from tests.sim.prometheus import Prometheus, find

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(find("prometheus") is None, reason="prometheus is not installed: apt install prometheus"),
]

CONFIG = """
[source]
port = {port}
[source.reconnect]
initial_s = 0.05
max_s = 0.3
[sinks.cloud]
type = "http"
url = "{url}"
retry_max_s = 0.5
timeout_s = 2.0
[routes.temperature]
topics = ["plant/+/temperature"]
handler = "threshold"
sinks = ["cloud"]
payload.format = "number"
[routes.temperature.options]
on = "every"
[[routes.temperature.options.rules]]
label = "overheated"
above = 80.0
"""
_WAIT_S = 60.0


class Rig:
    """Broker, cloud, daemon and Prometheus, which waits a second where it would wait for minutes."""

    def __init__(self, folder: Path, broker: Mosquitto) -> None:
        self.broker = broker
        self.cloud = CloudProcess(folder)
        self.gateway = Gateway(folder / "gateway", CONFIG.format(port=broker.port, url=self.cloud.url))
        rules = re.sub(r"for: \d+[mh]$", "for: 1s", RULES.read_text(), flags=re.MULTILINE)
        self.prometheus = Prometheus(folder / "prometheus", f"127.0.0.1:{self.gateway.web_port}", rules)

    def publish(self, value: float) -> None:
        command = ["mosquitto_pub", "-p", str(self.broker.port), "-q", "1", "-t", "plant/a/temperature"]
        subprocess.run([*command, "-m", str(value)], check=True, timeout=120)

    def until_firing(self, name: str) -> None:
        wait_until(lambda: name in self.prometheus.firing(), _WAIT_S, lambda: f"{name}: {self.prometheus.firing()}")

    def until_calm(self, name: str) -> None:
        wait_until(lambda: name not in self.prometheus.firing(), _WAIT_S, lambda: f"{self.prometheus.firing()}")


@pytest.fixture
def rig(tmp_path: Path, new_mosquitto: Callable[..., Mosquitto]) -> Iterator[Rig]:
    made = Rig(tmp_path, new_mosquitto())
    made.cloud.start()
    made.gateway.start()
    made.prometheus.start()
    yield made
    made.prometheus.end()
    made.gateway.end()
    made.cloud.stop()


def test_alerts_fire_when_broker_cloud_and_daemon_go_and_end_when_they_are_back(rig: Rig) -> None:
    rig.publish(90)
    wait_until(lambda: "gatewayd_results_delivered_total" in rig.prometheus.names(), _WAIT_S)
    assert rig.prometheus.firing() == set()

    rig.cloud.stop()
    rig.publish(91)
    rig.until_firing("GatewaydCloudAway")
    rig.cloud.start()
    rig.until_calm("GatewaydCloudAway")

    rig.broker.stop()
    rig.until_firing("GatewaydBrokerAway")
    rig.broker.start()
    rig.until_calm("GatewaydBrokerAway")

    rig.gateway.kill()
    rig.until_firing("GatewaydDown")


def test_a_message_put_aside_is_told_although_its_counter_was_not_there_before(rig: Rig) -> None:
    rig.publish(20)
    wait_until(lambda: "gatewayd_messages_received_total" in rig.prometheus.names(), _WAIT_S)
    command = ["mosquitto_pub", "-p", str(rig.broker.port), "-q", "1", "-t", "plant/a/temperature", "-m", "hot"]
    subprocess.run(command, check=True, timeout=120)

    rig.until_firing("GatewaydBurying")


def test_prometheus_takes_every_expression_of_the_dashboard_and_the_flow_is_in_it(rig: Rig) -> None:
    def publish_and_ask() -> bool:  # a rate wants two samples
        rig.publish(90)
        return bool(rig.prometheus.query("rate(gatewayd_results_delivered_total[30s]) > 0"))

    wait_until(publish_and_ask, _WAIT_S)
    shown = {}
    for expression in expressions(json.loads(DASHBOARD.read_text())):
        asked = expression.replace("$instance", ".*").replace("$__rate_interval", "30s")
        shown[expression] = rig.prometheus.query(asked)

    with_values = [expression for expression, samples in shown.items() if samples]
    assert len(with_values) >= len(shown) / 2, [each for each in shown if each not in with_values]
    for name in ("gatewayd_source_connected", "gatewayd_sink_reachable", "gatewayd_spool_size_bytes"):
        assert any(name in expression for expression in with_values), name
