"""A message that kills the worker each time is buried after its attempts, and what is behind it is answered."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gatewayd.spool.reader import SpoolReader
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
worker_restart_max_s = 0.2
[handlers]
paths = ["site.py"]
[routes.ask]
topics = ["{name}/#"]
handler = "ask"
live = false
max_attempts = 2
retry_s = 0.2
batch = {{ max_messages = 1 }}
payload = {{ format = "text" }}
"""

# A handler that asks the model and passes on what comes; at "kill" its worker dies while it writes.
SITE = """
import os, signal, threading, time
import msgspec
from gatewayd.api import Result

class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass

class Ask:
    Config = Options
    journaled = True
    inline = False

    def __init__(self, config):
        self._session = None

    def start(self, models):
        self._session = models.get("gemma3-270m").text()

    def stop(self):
        self._session = None

    def handle(self, batch):
        [message] = batch.messages
        is_deadly = message.value == "kill"
        if is_deadly:
            threading.Thread(target=self._kill).start()
        completion = self._session.complete("One,", max_tokens=400 if is_deadly else 3, grammar='root ::= "a"+')
        return [Result(kind="said", data={"text": completion.text}, message=message)]

    def _kill(self):
        while not self._session.stats()["running"] or self._session.pid is None:
            time.sleep(0.01)
        time.sleep(0.2)
        os.kill(self._session.pid, signal.SIGKILL)

HANDLERS = {"ask": Ask}
"""


@pytest.fixture
def gateway(tmp_path: Path, mosquitto: Mosquitto) -> Iterator[Gateway]:
    name = tmp_path.name.replace("_", "-")[:60]
    models = demo_models("gemma3-270m")
    gateway = Gateway(tmp_path / "gateway", CONFIG.format(port=mosquitto.port, name=name, models=models), name=name)
    (gateway.folder / "site.py").write_text(SITE)
    gateway.start()
    yield gateway
    gateway.end()


def publish(broker: Mosquitto, topic: str, lines: bytes) -> None:
    binary = shutil.which("mosquitto_pub")
    assert binary is not None
    subprocess.run([binary, "-p", str(broker.port), "-t", topic, "-q", "1", "-l"], input=lines, check=True, timeout=120)


def test_a_message_that_kills_the_worker_each_time_is_buried_and_the_next_ones_are_answered(
    gateway: Gateway, mosquitto: Mosquitto
) -> None:
    publish(mosquitto, gateway.get("/status")["gateway"] + "/x", b"kill\ngood\nbetter\n")

    wait_until(lambda: gateway.books().messages["ask"]["handled"] == 2, 200, gateway.describe)

    books = gateway.books()
    assert books.balanced
    assert books.messages["ask"]["dead"] == 1
    with SpoolReader.open(gateway.folder / "state" / "spool.db") as reader:
        [letter] = reader.dead_letters()
    assert (letter.reason, letter.payload) == ("attempts", b"kill")
    assert "SIGKILL" in letter.detail
    assert gateway.get("/status")["models"]["gemma3-270m"]["crashes"] == 2
