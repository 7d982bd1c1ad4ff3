"""A real gateway hears a Sparkplug edge node over a real Mosquitto: births, aliases, gaps, deaths, restarts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gatewayd.spool.books import Books
from tests.sim.edge_node import BOOLEAN, DOUBLE, INT32, EdgeNode
from tests.sim.gateway import Gateway, wait_until
from tests.sim.listening import Bus
from tests.sim.mosquitto import Mosquitto

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]

CONFIG = """
[source]
port = {port}
client_id = "{group}"
[routes.motors]
topics = ["spBv1.0/{group}/#"]
handler = "threshold"
mode = "{mode}"
payload.format = "sparkplug"
payload.time = "timestamp"
payload.optional = ["temperature"]
payload.fields = {{ temperature = 'metrics."Motor/Temperature"' }}
payload.sparkplug.rebirth_s = 0.2
[routes.motors.options]
on = "every"
missing = "ignore"
[[routes.motors.options.rules]]
field = "temperature"
above = -1000.0
label = "seen"
"""
DEVICES = {"motor-1": {"Motor/Temperature": DOUBLE, "Motor/Running": BOOLEAN, "Motor/Turns": INT32}}


class Plant:
    """A gateway and an edge node on one bus."""

    def __init__(self, folder: Path, broker: Mosquitto, mode: str) -> None:
        self.group = folder.parent.name.replace("_", "-")[-50:]
        self.gateway = Gateway(folder, CONFIG.format(port=broker.port, group=self.group, mode=mode), name=self.group)
        self.node = EdgeNode(broker, self.group, "edge-1", DEVICES)
        self.bus = Bus(broker)
        self.bus.listen(f"gatewayd/{self.group}/results/#")

    def temperatures(self) -> list[float]:
        return [json.loads(one)["value"] for one in self.bus.payloads(f"gatewayd/{self.group}/results/motors")]

    def wait(self, condition: Any) -> None:
        wait_until(condition, 30, self.gateway.describe)

    def messages(self) -> dict[str, int]:
        books: Books = self.gateway.books()
        return books.messages.get("motors", {})

    def close(self) -> None:
        self.gateway.end()
        self.node.close()
        self.bus.close()


@pytest.fixture(params=["direct", "journaled"])
def plant(request: pytest.FixtureRequest, tmp_path: Path, mosquitto: Mosquitto) -> Iterator[Plant]:
    plant = Plant(tmp_path / "gateway", mosquitto, request.param)
    yield plant
    plant.close()


def test_what_an_edge_node_says_by_alias_is_understood(plant: Plant) -> None:
    plant.gateway.start()
    plant.node.connect()
    for value in (20.5, -3.25):
        plant.node.send("motor-1", {"Motor/Temperature": value, "Motor/Running": True, "Motor/Turns": -5})

    plant.wait(lambda: plant.temperatures() == [20.5, -3.25])
    assert plant.node.n_rebirths == 0


def test_a_gap_makes_the_gateway_ask_for_the_births(plant: Plant) -> None:
    plant.gateway.start()
    plant.node.connect()
    plant.node.send("motor-1", {"Motor/Temperature": 1.0})
    plant.wait(lambda: plant.temperatures() == [1.0])

    plant.node.lose()
    plant.node.send("motor-1", {"Motor/Temperature": 3.0})

    plant.wait(lambda: plant.node.n_rebirths == 1 and plant.temperatures() == [1.0, 3.0])
    plant.node.send("motor-1", {"Motor/Temperature": 4.0})
    plant.wait(lambda: plant.temperatures() == [1.0, 3.0, 4.0])
    assert plant.node.n_rebirths == 1


def test_a_gateway_that_comes_late_asks_and_then_understands(plant: Plant) -> None:
    plant.node.connect()
    plant.gateway.start()
    plant.node.send("motor-1", {"Motor/Temperature": 1.0})
    plant.wait(lambda: plant.node.n_rebirths == 1)
    plant.wait(lambda: plant.messages().get("dead") == 1)

    plant.node.send("motor-1", {"Motor/Temperature": 2.0})

    plant.wait(lambda: plant.temperatures() == [2.0])


def test_a_node_that_died_and_came_back_is_followed(plant: Plant) -> None:
    plant.gateway.start()
    plant.node.connect()
    plant.node.send("motor-1", {"Motor/Temperature": 1.0})
    plant.wait(lambda: plant.temperatures() == [1.0])
    plant.node.die()
    plant.wait(lambda: plant.messages().get("dropped") == 1)  # the NDEATH that the broker says for it

    plant.node.aliases = {key: alias + 1000 for key, alias in plant.node.aliases.items()}
    plant.node.connect()
    plant.node.send("motor-1", {"Motor/Temperature": 2.0})

    plant.wait(lambda: plant.temperatures() == [1.0, 2.0])
    assert plant.node.n_rebirths == 0
    plant.gateway.stop()
    lines = plant.messages()
    assert lines["received"] == sum(lines.get(name, 0) for name in ("handled", "journaled", "dead", "dropped"))


def test_what_was_journaled_is_understood_after_a_crash(tmp_path: Path, mosquitto: Mosquitto) -> None:
    plant = Plant(tmp_path / "gateway", mosquitto, "journaled")
    # A file, for what is live while the broker is not connected yet is lost.
    sink = f'sinks = ["out"]\n[sinks.out]\ntype = "file"\npath = "{tmp_path}/out.ndjson"\n[routes.motors.options]'
    text = plant.gateway.config.read_text().replace("[routes.motors.options]", sink)
    plant.gateway.config.write_text(text.replace('sinks = ["out"]', 'sinks = ["out"]\nwindow.every_s = 3600'))
    try:
        plant.gateway.start()
        plant.node.connect()
        plant.node.send("motor-1", {"Motor/Temperature": 7.5})
        plant.wait(lambda: plant.messages().get("journaled") == 3)  # two births and the reading
        plant.gateway.kill()
        plant.gateway.config.write_text(text)  # without the window: now it is handled at once

        plant.gateway.start()

        plant.wait(lambda: plant.messages().get("handled") == 3 and (tmp_path / "out.ndjson").exists())
        plant.wait((tmp_path / "out.ndjson").read_text)
        [event] = [json.loads(line) for line in (tmp_path / "out.ndjson").read_text().splitlines()]
        assert event["data"]["value"] == 7.5
    finally:
        plant.close()
