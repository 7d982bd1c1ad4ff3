"""The rights by topic of the security guide, on a real Mosquitto: they allow enough, and nothing else passes."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sim.gateway import Gateway, wait_until
from tests.sim.mosquitto import Mosquitto

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/guides/security.md").read_text()
FILES = dict(re.findall(r"^```conf file=(\S+)\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE))
USERS = ("gatewayd", "freezer-7", "freezer-8", "panel")
CONFIG = """
[source]
port = {port}
username = "gatewayd"
password = {{ file = "mqtt-password" }}
[routes.temperature]
topics = ["plant/+/temperature"]
handler = "threshold"
payload.format = "number"
[routes.temperature.options]
on = "every"
[[routes.temperature.options.rules]]
label = "overheated"
above = 80.0
"""

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(shutil.which("mosquitto_passwd") is None, reason="mosquitto is not installed"),
]


@pytest.fixture
def broker(mosquitto_binary: str, tmp_path: Path) -> Iterator[Mosquitto]:
    """Mosquitto with the files of the guide; every user's password is the user's name."""
    (tmp_path / "acl").write_text(FILES["acl"])
    (tmp_path / "passwd").write_text("")
    for user in USERS:
        subprocess.run(["mosquitto_passwd", "-b", tmp_path / "passwd", user, user], check=True, timeout=120)
    lines = [line for line in FILES["plant.conf"].splitlines() if not line.startswith("allow_anonymous")]
    settings = [line.replace("/etc/mosquitto", str(tmp_path)) for line in lines]
    made = Mosquitto(tmp_path / "broker", settings=settings, anonymous=False)
    made.start()
    yield made
    made.kill()


@pytest.fixture
def gateway(broker: Mosquitto, tmp_path: Path) -> Iterator[Gateway]:
    made = Gateway(tmp_path / "gateway", CONFIG.format(port=broker.port), name="hall-3")
    (made.folder / "mqtt-password").write_text("gatewayd")
    made.start()
    yield made
    made.end()


def publish(broker: Mosquitto, user: str, topic: str, payload: str) -> None:
    # -V 5 and -q 1: a refusal comes back with the acknowledgement, and the tool leaves with it.
    command = ["mosquitto_pub", "-V", "5", "-q", "1", "-p", str(broker.port), "-u", user, "-P", user]
    subprocess.run([*command, "-t", topic, "-m", payload], check=False, timeout=120, capture_output=True)


def received(gateway: Gateway) -> int:
    books = gateway.books().messages
    return books.get("temperature", {}).get("received", 0)


def test_a_device_writes_its_own_topics_and_nobody_else_s(broker: Mosquitto, gateway: Gateway) -> None:
    publish(broker, "freezer-8", "plant/freezer-7/temperature", "99")  # not its own
    publish(broker, "panel", "plant/panel/temperature", "99")  # `pattern` is for every user: its own name's topics
    publish(broker, "freezer-7", "plant/freezer-7/temperature", "91")

    wait_until(lambda: received(gateway) >= 2, 60, gateway.describe)
    assert received(gateway) == 2  # the foreign one was published first, and did not come


def test_results_are_read_by_the_panel_and_written_by_the_gateway_alone(broker: Mosquitto, gateway: Gateway) -> None:
    command = ["mosquitto_sub", "-d", "-v", "-q", "1", "-p", str(broker.port), "-u", "panel", "-P", "panel"]
    with subprocess.Popen([*command, "-t", "gatewayd/hall-3/#"], stdout=subprocess.PIPE, text=True) as panel:
        assert panel.stdout is not None
        seen: list[str] = []
        for line in panel.stdout:
            seen.append(line)
            if line.startswith("Subscribed"):
                publish(broker, "freezer-8", "gatewayd/hall-3/results/temperature", '{"label":"forged"}')
                publish(broker, "panel", "gatewayd/hall-3/results/temperature", '{"label":"forged"}')
                publish(broker, "freezer-7", "plant/freezer-7/temperature", "91")
            if line.startswith("gatewayd/hall-3/results/temperature"):
                break
        panel.terminate()

    assert '"label":"overheated"' in seen[-1]
    assert not any("forged" in line for line in seen)
