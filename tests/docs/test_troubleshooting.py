"""The messages of the troubleshooting guide are what the program says in that situation."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gatewayd.cli import EXIT_CONFIG, EXIT_FAILED, EXIT_UNAVAILABLE
from tests.sim.gateway import Gateway, wait_until
from tests.sim.mosquitto import Mosquitto, free_port

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/guides/troubleshooting.md").read_text()
CASES = dict(re.findall(r"^```text case=(\w+)\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE))
ROUTE = """
[routes.temperature]
topics = ["plant/+/temperature"]
handler = "threshold"
payload.format = "number"
sinks = ["cloud"]
[[routes.temperature.options.rules]]
label = "overheated"
above = 80.0
[sinks.cloud]
type = "http"
url = "http://127.0.0.1:9/events"
"""
TYPO = """[routes.temperature]
handler = "treshold"
topics = ["plant/+/temperature"]
payload.format = "number"
topcs = ["x"]
"""
MODEL = """
[routes.lines]
topics = ["logs/#"]
handler = "classify_text"
payload.format = "text"
[routes.lines.options]
model = "minilm-int8"
labels.a = { description = "x" }
labels.b = { description = "y" }
"""


def gateway_of(folder: Path, text: str, port: int) -> Gateway:
    return Gateway(folder / "gateway", f"{text}\n[source]\nport = {port}\n")


def said(gateway: Gateway, *command: str) -> tuple[int, str]:
    """Exit status and output, with ports and folders as the guide has them."""
    done = subprocess.run(
        [sys.executable, "-m", "gatewayd", *command, "--config", str(gateway.config)],
        env={name: value for name, value in os.environ.items() if name != "MQTT_PASSWORD"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, as_in_guide(gateway, done.stdout + done.stderr)


def as_in_guide(gateway: Gateway, text: str) -> str:
    text = text.replace(str(gateway.config), "/etc/gatewayd/gatewayd.toml")
    text = text.replace(str(gateway.folder), "/etc/gatewayd").replace(str(gateway.web_port), "8686")
    for port in re.findall(r"^port = (\d+)$", gateway.config.read_text(), re.MULTILINE)[1:]:  # the first is [web]'s
        text = text.replace(f":{port}", ":1883")
    return text


def holds(case: str, text: str) -> None:
    missing = [line for line in CASES[case].splitlines() if line not in text]
    assert missing == [], text


def test_every_message_of_the_guide_is_tested() -> None:
    tested = {name for name in CASES if f'"{name}"' in Path(__file__).read_text()}

    assert tested == set(CASES)
    assert len(CASES) >= 8


def test_a_mistake_in_the_config(tmp_path: Path) -> None:
    gateway = gateway_of(tmp_path, "", 1)
    gateway.config.write_text(TYPO)

    status, text = said(gateway, "check")

    assert status == EXIT_CONFIG
    holds("typo", text)


def test_a_secret_that_is_not_there(tmp_path: Path) -> None:
    gateway = gateway_of(tmp_path, ROUTE, 1)
    with gateway.config.open("a") as config:
        config.write('username = "gatewayd"\npassword = { env = "MQTT_PASSWORD" }\n')

    status, text = said(gateway, "run")

    assert status == EXIT_CONFIG
    holds("secret", text)


def test_nobody_answers_and_no_broker_is_there(tmp_path: Path) -> None:
    gateway = gateway_of(tmp_path, ROUTE, free_port())

    asked, examined = said(gateway, "status"), said(gateway, "doctor")

    assert (asked[0], examined[0]) == (EXIT_UNAVAILABLE, EXIT_FAILED)
    holds("status", asked[1])
    holds("broker", examined[1])


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    gateway = gateway_of(tmp_path, MODEL, free_port())

    holds("model", said(gateway, "doctor")[1])


@pytest.mark.broker
def test_dead_letters_a_cloud_that_is_away_and_a_second_daemon(
    tmp_path: Path, new_mosquitto: Callable[..., Mosquitto]
) -> None:
    broker = new_mosquitto()
    gateway = gateway_of(tmp_path, ROUTE, broker.port)
    log = gateway.folder / "gatewayd.log"
    gateway.start()
    try:
        for payload in ("91", "hot"):
            command = ["mosquitto_pub", "-p", str(broker.port), "-q", "1", "-t", "plant/a/temperature", "-m", payload]
            subprocess.run(command, check=True, timeout=120)
        wait_until(lambda: "does not confirm" in log.read_text() and "buried" in log.read_text(), 60, gateway.describe)
        holds("dead", log.read_text())
        holds("cloud", log.read_text())
        gateway.config.write_text(gateway.config.read_text().replace(str(gateway.web_port), str(free_port())))
        status, text = said(gateway, "run")
        assert status == EXIT_CONFIG
        holds("second", text)
    finally:
        gateway.end()


@pytest.mark.broker
def test_a_broker_that_wants_a_password(tmp_path: Path, new_mosquitto: Callable[..., Mosquitto]) -> None:
    gateway = gateway_of(tmp_path, ROUTE, new_mosquitto(anonymous=False).port)
    log = gateway.folder / "gatewayd.log"
    gateway.start(ready=False)
    try:
        wait_until(lambda: log.exists() and "refused the connection" in log.read_text(), 60, gateway.describe)
        holds("password", log.read_text())
    finally:
        gateway.end()
