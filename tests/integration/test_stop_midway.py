"""A clean stop in the middle of a slow call: the call is finished, and nobody is buried for our restarts."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sim.gateway import CloudProcess, Gateway, wait_until
from tests.sim.mosquitto import Mosquitto

pytestmark = [pytest.mark.broker]

# Says that it is in a call, and stays in it for as long as a language model on a small box does.
SLOW = """
import time
from pathlib import Path

import msgspec
from gatewayd.api import Result


class Slow:
    class Config(msgspec.Struct, forbid_unknown_fields=True):
        calls: str

    journaled = True
    inline = False

    def __init__(self, config):
        self.calls = Path(config.calls)

    def start(self, models):
        pass

    def handle(self, batch):
        with self.calls.open("a") as file:
            file.write(f"{len(batch.messages)}\\n")
        time.sleep(1.0)
        return [Result(kind="test", data={}, message=message) for message in batch.messages]

    def stop(self):
        pass
"""

ROUTES = """
[handlers]
paths = ["slow.py"]
[sinks.cloud]
type = "http"
url = "{cloud}"
[routes.slow]
topics = ["slow/#"]
handler = "slow"
sinks = ["cloud"]
max_attempts = 1
window = {{ max_messages = 2 }}
[routes.slow.options]
calls = "{calls}"
"""


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[CloudProcess]:
    cloud = CloudProcess(tmp_path)
    cloud.start()
    yield cloud
    cloud.stop()


@pytest.fixture
def gateway(tmp_path: Path, mosquitto: Mosquitto, cloud: CloudProcess) -> Iterator[Gateway]:
    text = f"[source]\nport = {mosquitto.port}\n" + ROUTES.format(cloud=cloud.url, calls=tmp_path / "calls")
    gateway = Gateway(tmp_path / "gateway", text, name="stop-midway")
    handler = gateway.folder / "slow.py"
    handler.write_text(SLOW)
    handler.chmod(0o644)
    yield gateway
    gateway.end()


def test_a_call_that_a_stop_meets_is_finished_and_no_other_is_begun(
    tmp_path: Path, gateway: Gateway, mosquitto: Mosquitto
) -> None:
    calls = tmp_path / "calls"
    gateway.start()
    binary = shutil.which("mosquitto_pub")
    assert binary is not None
    for _ in range(4):
        subprocess.run(
            [binary, "-p", str(mosquitto.port), "-t", "slow/a", "-q", "1", "-m", "1"], check=True, timeout=120
        )
    wait_until(calls.exists, 20, gateway.describe)
    wait_until(lambda: gateway.books().messages["slow"]["received"] == 4, 20, gateway.describe)

    status = gateway.stop()

    lines = gateway.books().messages["slow"]
    n_calls = len(calls.read_text().splitlines())
    assert status == 0
    assert (lines["handled"], lines["dead"]) == (2 * n_calls, 0)

    gateway.start()  # each window had one attempt to lose: what was not begun lost none
    wait_until(lambda: gateway.books().messages["slow"]["journaled"] == 0, 30, gateway.describe)
    assert gateway.books().messages["slow"]["handled"] == 4
