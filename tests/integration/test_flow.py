"""/flow and /flow/events of a real daemon, between a real Mosquitto and a real cloud."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_main_job import ROUTES, publish, readings
from tests.sim.gateway import CloudProcess, Gateway, wait_until
from tests.sim.mosquitto import Mosquitto

pytestmark = [pytest.mark.broker]


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


def events_of(gateway: Gateway, *wanted: str) -> dict[str, Any]:
    """One event of each name, from a fresh stream."""
    found: dict[str, Any] = {}
    url = f"http://127.0.0.1:{gateway.web_port}/flow/events"
    with urllib.request.urlopen(url, timeout=60) as stream:
        name = ""
        while not set(wanted) <= set(found):
            line = stream.readline().decode().rstrip("\n")
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                found[name] = json.loads(line.removeprefix("data: "))
    return found


def test_the_flow_shows_what_came_in_what_came_of_it_and_that_the_cloud_is_gone(
    gateway: Gateway, mosquitto: Mosquitto, cloud: CloudProcess
) -> None:
    gateway.start()
    publish(mosquitto, "plant/oven/temperature", *readings(7), "{not json")
    wait_until(lambda: len(cloud.stored()) == 7, 30, gateway.describe)
    wait_until(lambda: gateway.get("/flow")["sinks"]["cloud"]["delivered"] == 7, 30, gateway.describe)
    cloud.stop()
    publish(mosquitto, "plant/oven/temperature", *readings(3))

    wait_until(lambda: gateway.get("/flow")["sinks"]["cloud"]["pending"] == 3, 30, gateway.describe)
    wait_until(lambda: gateway.get("/flow")["sinks"]["cloud"]["state"] == "away", 30, gateway.describe)
    flow = gateway.get("/flow")

    route = flow["routes"]["heat"]
    assert route["results"] == 10
    assert (route["book"]["received"], route["book"]["handled"], route["book"]["dead"]) == (11, 10, 1)
    assert route["book"]["reasons"]["dead"] == {"decode": 1}
    assert route["latest"][0]["label"] == "seen"
    assert route["latest"][0]["subject"] == "plant/oven/temperature"
    assert route["age_ms"]["p99"] >= route["age_ms"]["p50"] > 0
    assert flow["sinks"]["cloud"]["retries"] > 0
    assert flow["sinks"]["cloud"]["last_error"]["words"]
    assert flow["books"]["balanced"]
    assert [each["where"] for each in flow["troubles"]] == ["spool", "sinks.cloud"]
    assert flow["history"]["every_s"] == 5.0


def test_who_follows_gets_the_flow_its_results_and_the_log(gateway: Gateway, mosquitto: Mosquitto) -> None:
    gateway.start()
    publish(mosquitto, "plant/oven/temperature", *readings(1))

    found = events_of(gateway, "flow", "history", "log")
    status = gateway.stop()

    assert found["flow"]["broker"]["subscribed"]
    assert found["log"]["event"]
    assert "every_s" in found["history"]
    assert status == 0


def test_a_daemon_that_stops_lets_go_of_those_who_follow(gateway: Gateway) -> None:
    gateway.start()
    with urllib.request.urlopen(f"http://127.0.0.1:{gateway.web_port}/flow/events", timeout=60) as stream:
        assert stream.readline() == b"retry: 2000\n"

        status = gateway.stop()

        assert b"event: flow" in stream.read()
    assert status == 0, gateway.describe()
