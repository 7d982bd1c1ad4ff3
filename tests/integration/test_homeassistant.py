"""A real gateway, a real Mosquitto, and Home Assistant's side of the talk between them."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sim.gateway import Gateway, wait_until
from tests.sim.listening import Bus
from tests.sim.mosquitto import Mosquitto
from tests.unit.test_homeassistant import check_document

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]

CONFIG = """
[source]
port = {port}
client_id = "{name}"
[source.reconnect]
initial_s = 0.05
max_s = 0.2
[homeassistant]
enabled = {enabled}
prefix = "{name}/ha"
birth_topic = "{name}/status"
birth_jitter_s = 0.5
health_s = 0.2
commands = {commands}
[board]
look_s = 0
{routes}
"""
ROUTE = """
[routes.{route}]
topics = ["{name}/{route}/#"]
handler = "threshold"
[routes.{route}.options]
on = "every"
[[routes.{route}.options.rules]]
field = "temperature"
above = 30.0
label = "hot"
"""
GATEWAY = "box"
TOPIC = "device/gatewayd_box/config"


class Home:
    """A gateway and what a Home Assistant on the same bus sees of it."""

    def __init__(self, folder: Path, broker: Mosquitto, name: str) -> None:
        self.folder, self.broker, self.name = folder, broker, name
        self.bus = Bus(broker)
        self.bus.listen(f"{name}/ha/#", f"gatewayd/{GATEWAY}/#")
        self.gateway: Gateway | None = None

    def start(self, *routes: str, enabled: bool = True, commands: bool = False) -> Gateway:
        text = "".join(ROUTE.format(route=route, name=self.name) for route in routes)
        values = {"port": self.broker.port, "name": self.name, "routes": text}
        flags = {"enabled": str(enabled).lower(), "commands": str(commands).lower()}
        self.gateway = Gateway(self.folder, CONFIG.format(**values, **flags), name=GATEWAY)
        self.gateway.start()
        return self.gateway

    def documents(self) -> list[Any]:
        """The discovery messages that came, in order; None for an empty one."""
        return [json.loads(one) if one else None for one in self.bus.payloads(f"{self.name}/ha/{TOPIC}")]

    def health(self) -> Any:
        said = self.bus.payloads(f"gatewayd/{GATEWAY}/health")
        return json.loads(said[-1]) if said and said[-1] else None

    def wait(self, condition: Any, seconds: float = 30) -> None:
        assert self.gateway is not None
        wait_until(condition, seconds, self.gateway.describe)

    def publish(self, topic: str, payload: str, *more: str) -> None:
        binary = shutil.which("mosquitto_pub")
        assert binary is not None
        command = [binary, "-p", str(self.broker.port), "-V", "5", "-q", "1", "-t", topic, "-m", payload, *more]
        subprocess.run(command, check=True, timeout=120)


@pytest.fixture
def home(tmp_path: Path, mosquitto: Mosquitto) -> Iterator[Home]:
    home = Home(tmp_path / "gateway", mosquitto, tmp_path.name.replace("_", "-")[:60])
    yield home
    if home.gateway is not None:
        home.gateway.end()
    home.bus.close()


def test_the_gateway_is_announced_retained_with_results_that_are_there(home: Home) -> None:
    home.start("pumps")
    home.wait(lambda: home.documents() and home.health())

    [document] = home.documents()
    check_document(document)
    late = Bus(home.broker)  # a Home Assistant that comes later finds it, too
    late.listen(f"{home.name}/ha/{TOPIC}", f"gatewayd/{GATEWAY}/health")
    home.wait(lambda: late.payloads(f"{home.name}/ha/{TOPIC}") and late.payloads(f"gatewayd/{GATEWAY}/health"))
    late.close()
    home.publish(f"{home.name}/pumps/3", '{"temperature": 80}')
    topic = document["cmps"]["route_pumps_result"]["stat_t"]
    home.wait(lambda: home.bus.payloads(topic))
    assert json.loads(home.bus.payloads(topic)[0])["label"] == "hot"
    assert home.health()["live"] == {"pumps": True}
    assert home.health()["dead_letters"] == 0
    status = json.loads(home.bus.payloads(document["avty"][0]["t"])[-1])
    assert status["state"] == document["avty"][0]["pl_avail"]


def test_it_is_announced_again_when_home_assistant_has_started(home: Home) -> None:
    home.start("pumps")
    home.wait(lambda: len(home.documents()) == 1)

    home.publish(f"{home.name}/status", "online")

    home.wait(lambda: len(home.documents()) == 2)
    assert home.documents()[0] == home.documents()[1]


def test_a_broker_that_lost_everything_is_told_again(tmp_path: Path, new_mosquitto: Any) -> None:
    home = Home(tmp_path / "gateway", new_mosquitto(), "lost")
    try:
        home.start("pumps")
        home.wait(home.documents)
        home.bus.close()
        home.broker.kill()
        home.broker.start()
        home.bus = Bus(home.broker)
        home.bus.listen("lost/ha/#")
        home.wait(home.documents)
    finally:
        home.bus.close()
        assert home.gateway is not None
        home.gateway.end()


def test_a_route_that_is_gone_is_taken_out_and_so_is_the_gateway(home: Home) -> None:
    before_it = home.start("pumps", "ovens")
    home.wait(home.documents)
    before_it.stop()

    after_it = home.start("pumps")
    home.wait(lambda: len(home.documents()) == 3)
    after_it.stop()

    before, taking, after = home.documents()
    check_document(taking)
    assert {"route_ovens_result", "route_ovens_score"} == before["cmps"].keys() - after["cmps"].keys()
    assert taking["cmps"]["route_ovens_result"] == {"p": "sensor"}
    assert taking["cmps"]["route_pumps_result"] == after["cmps"]["route_pumps_result"]
    gateway = home.start("pumps", enabled=False)
    home.wait(lambda: home.documents()[-1] is None and home.bus.payloads(f"gatewayd/{GATEWAY}/health")[-1] == b"")
    home.wait(lambda: not (gateway.folder / "state" / "homeassistant.json").exists())


def test_commands_are_obeyed_where_the_config_says_so(home: Home) -> None:
    home.start("pumps", commands=True)
    home.wait(lambda: home.documents() and home.health())
    switch = home.documents()[0]["cmps"]["route_pumps_live"]
    topic = home.documents()[0]["cmps"]["route_pumps_result"]["stat_t"]

    home.publish(switch["cmd_t"], "OFF")
    home.wait(lambda: home.health()["live"] == {"pumps": False})
    home.publish(f"{home.name}/pumps/3", '{"temperature": 80}')
    home.wait(lambda: home.gateway and home.gateway.books().messages["pumps"]["handled"] == 1)
    home.publish(switch["cmd_t"], "ON")
    home.wait(lambda: home.health()["live"] == {"pumps": True})
    home.publish(f"{home.name}/pumps/3", '{"temperature": 10}')
    home.wait(lambda: home.bus.payloads(topic))

    [only] = home.bus.payloads(topic)
    assert json.loads(only)["value"] == 10, "the one while it was off must not be there"
    home.publish(home.documents()[0]["cmps"]["reload"]["cmd_t"], "PRESS")
    home.wait(lambda: home.gateway and "reloaded" in home.gateway.describe())


def test_a_command_that_the_broker_kept_or_nobody_knows_is_counted_and_not_obeyed(home: Home) -> None:
    kept = f"gatewayd/{GATEWAY}/command/routes/pumps/live"
    home.publish(kept, "OFF", "-r")
    try:
        gateway = home.start("pumps", commands=True)
        home.publish(f"gatewayd/{GATEWAY}/command/format-disk", "now")

        home.wait(lambda: "none of ours" in gateway.describe() and '"outcome": "retained"' in gateway.describe())
        home.wait(lambda: home.health() and home.health()["live"] == {"pumps": True})
    finally:
        home.publish(kept, "", "-r")


def test_without_leave_no_command_is_heard(home: Home) -> None:
    gateway = home.start("pumps")
    home.wait(lambda: len(home.documents()) == 1 and home.health())

    home.publish(f"gatewayd/{GATEWAY}/command/routes/pumps/live", "OFF")
    n_told = len(home.bus.payloads(f"gatewayd/{GATEWAY}/health"))
    home.publish(f"{home.name}/status", "online")  # the broker has it after the command: when it is answered, both came

    home.wait(lambda: len(home.documents()) == 2 and len(home.bus.payloads(f"gatewayd/{GATEWAY}/health")) > n_told)
    assert home.health()["live"] == {"pumps": True}
    assert "command on the bus" not in (gateway.folder / "gatewayd.log").read_text()
