"""Two routes on one language model, in the real daemon: the alarm does not wait for the nightly report."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sim.gateway import Gateway, wait_until
from tests.sim.models import demo_models
from tests.sim.mosquitto import Mosquitto

pytestmark = [pytest.mark.broker, pytest.mark.model, pytest.mark.slow, pytest.mark.timeout(300)]

pytest.importorskip("xllamacpp", reason="the runtime xllamacpp is not installed")

CONFIG = """
[source]
port = {port}
[models]
dir = "{models}"
llm_threads = 1
worker_nice = 0
[handlers]
paths = ["site.py"]
[routes.nightly]
topics = ["{name}/nightly"]
handler = "ask"
priority = 1
live = false
options = {{ n_tokens = 200 }}
[routes.alarms]
topics = ["{name}/alarm"]
handler = "ask"
priority = 9
live = false
options = {{ n_tokens = 3 }}
"""

SITE = """
import msgspec
from gatewayd.api import Result

class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    n_tokens: int

class Ask:
    Config = Options
    journaled = True
    inline = False

    def __init__(self, config):
        self._n_tokens = config.n_tokens
        self._session = None

    def start(self, models):
        self._session = models.get("gemma3-270m").text()

    def stop(self):
        self._session = None

    def handle(self, batch):
        said = self._session.complete("One, two,", max_tokens=self._n_tokens, timeout_s=280.0, grammar='root ::= "a"+')
        return [Result(kind="said", data={"tokens": said.tokens_out})]

HANDLERS = {"ask": Ask}
"""


@pytest.fixture
def gateway(tmp_path: Path, mosquitto: Mosquitto) -> Iterator[Gateway]:
    name = tmp_path.name.replace("_", "-")[:60]
    text = CONFIG.format(port=mosquitto.port, name=name, models=demo_models("gemma3-270m"))
    gateway = Gateway(tmp_path / "gateway", text, name=name)
    (gateway.folder / "site.py").write_text(SITE)
    gateway.start()
    wait_until(lambda: state_of(gateway) == {"running"}, 120, gateway.describe)
    yield gateway
    gateway.end()


def state_of(gateway: Gateway) -> set[str]:
    return {route["state"] for route in gateway.get("/status")["routes"].values()}


def figures(gateway: Gateway) -> dict[str, float]:
    return gateway.get("/status")["models"]["gemma3-270m"]


def handled(gateway: Gateway, route: str) -> int:
    return gateway.books().messages[route]["handled"]


def publish(broker: Mosquitto, topic: str) -> None:
    binary = shutil.which("mosquitto_pub")
    assert binary is not None
    subprocess.run([binary, "-p", str(broker.port), "-t", topic, "-q", "1", "-m", '"go"'], check=True, timeout=120)


def test_an_alarm_overtakes_the_nightly_report_in_the_middle_of_it_and_both_are_answered(
    gateway: Gateway, mosquitto: Mosquitto
) -> None:
    name = gateway.get("/status")["gateway"]
    publish(mosquitto, f"{name}/nightly")
    wait_until(lambda: figures(gateway)["running"] == 1, 60, gateway.describe)

    publish(mosquitto, f"{name}/alarm")

    wait_until(lambda: handled(gateway, "alarms") == 1, 120, gateway.describe)
    n_nightly_meanwhile = handled(gateway, "nightly")
    wait_until(lambda: handled(gateway, "nightly") == 1, 200, gateway.describe)
    assert n_nightly_meanwhile == 0
    assert figures(gateway)["preempted"] == 1
    assert gateway.books().balanced
