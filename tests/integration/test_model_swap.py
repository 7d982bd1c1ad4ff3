"""A model is replaced while messages flow through a real daemon: none is lost, and each answer is of one version."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sim.gateway import CloudProcess, Gateway, wait_until
from tests.sim.models import affine_onnx, demo_models, onnx_bundle
from tests.sim.mosquitto import Mosquitto

pytestmark = [pytest.mark.broker, pytest.mark.timeout(600)]

HANDLER = '''
"""Multiplies a number by the model's weight: who knows the weight knows which version answered."""

import msgspec
import numpy as np

from gatewayd.api import Result


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    model: str


class Multiply:
    Config = Options
    journaled = False
    inline = False

    def __init__(self, config):
        self._config = config

    def start(self, models):
        model = models.get(self._config.model)
        self._version = model.version
        self._session = model.tensors()

    def handle(self, batch):
        rows = np.array([[message.value["n"]] for message in batch.messages], np.float32)
        answers = self._session.run({"x": rows})["y"]
        return [
            Result(kind="product", message=message, data={
                "n": message.value["n"], "product": float(row[0]), "model_version": self._version,
            })
            for message, row in zip(batch.messages, answers)
        ]

    def stop(self):
        pass
'''

CONFIG = """
[source]
port = {port}
client_id = "{name}"
[models]
watch_s = {watch_s}
[handlers]
paths = ["multiply.py"]
[sinks.cloud]
type = "http"
url = "{url}"
retry_max_s = 0.3
[routes.numbers]
topics = ["{name}/#"]
handler = "multiply"
sinks = ["cloud"]
options = {{ model = "tiny" }}
[routes.numbers.batch]
max_messages = 8
"""


class Flow:
    """A publisher that sends 0, 1, 2 … at QoS 1 until it is told to stop."""

    def __init__(self, port: int, topic: str) -> None:
        binary = shutil.which("mosquitto_pub")
        assert binary is not None
        command = [binary, "-p", str(port), "-t", topic, "-q", "1", "-l"]
        self.n_sent = 0
        self._pub = subprocess.Popen(command, stdin=subprocess.PIPE)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def _send(self) -> None:
        assert self._pub.stdin is not None
        while not self._stop.is_set():
            self._pub.stdin.write(json.dumps({"n": self.n_sent}).encode() + b"\n")
            self._pub.stdin.flush()
            self.n_sent += 1
            time.sleep(0.002)
        self._pub.stdin.close()

    def stop(self) -> int:
        """How many were sent, all of them acknowledged by the broker."""
        self._stop.set()
        self._thread.join(10)
        assert self._pub.wait(120) == 0
        return self.n_sent


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[CloudProcess]:
    cloud = CloudProcess(tmp_path)
    cloud.start()
    yield cloud
    cloud.stop()


def make_gateway(tmp_path: Path, mosquitto: Mosquitto, cloud: CloudProcess, watch_s: float) -> Gateway:
    name = tmp_path.name.replace("_", "-")[:60]
    text = CONFIG.format(port=mosquitto.port, name=name, url=cloud.url, watch_s=watch_s)
    gateway = Gateway(tmp_path / "gateway", text, name=name)
    handler = gateway.folder / "multiply.py"
    handler.write_text(HANDLER)
    handler.chmod(0o644)
    gateway.folder.chmod(0o755)
    put(gateway, 1)
    return gateway


def put(gateway: Gateway, version: int) -> Path:
    """Version v multiplies by v."""
    return onnx_bundle(gateway.folder / "models", affine_onnx([[float(version)]], [0.0]), version=str(version))


def version(gateway: Gateway) -> str:
    status = gateway.get("/status")
    return "" if status is None else str(status["models"].get("tiny", {}).get("version", ""))


def reload(gateway: Gateway) -> None:
    assert gateway.process is not None
    gateway.process.send_signal(signal.SIGHUP)


def check(answers: list[dict[str, Any]], n_sent: int) -> list[str]:
    """Each number was answered once, by one version, with that version's weight; the versions, in order of numbers."""
    by_number = {answer["n"]: answer for answer in answers}
    assert sorted(by_number) == list(range(n_sent))
    assert len(answers) == n_sent
    for answer in answers:
        assert answer["product"] == answer["n"] * int(answer["model_version"])
    return [by_number[number]["model_version"] for number in range(n_sent)]


def answers(cloud: CloudProcess) -> list[dict[str, Any]]:
    return [event["data"] for event in cloud.stored().values()]


@pytest.mark.parametrize("watch_s", [0.0, 0.2])
def test_new_versions_take_over_while_messages_flow_and_none_is_lost(
    tmp_path: Path, mosquitto: Mosquitto, cloud: CloudProcess, watch_s: float
) -> None:
    gateway = make_gateway(tmp_path, mosquitto, cloud, watch_s)
    try:
        gateway.start()
        flow = Flow(mosquitto.port, f"{gateway.get('/status')['gateway']}/n")
        for number in (2, 3):
            begun = flow.n_sent
            wait_until(lambda begun=begun: len(cloud.stored()) > begun, 120, gateway.describe)
            put(gateway, number)
            if not watch_s:
                reload(gateway)
            wait_until(lambda number=number: version(gateway) == str(number), 120, gateway.describe)
        begun = flow.n_sent
        wait_until(lambda: len(cloud.stored()) > begun, 120, gateway.describe)
        n_sent = flow.stop()

        wait_until(lambda: len(cloud.stored()) >= n_sent, 120, gateway.describe)

        versions = check(answers(cloud), n_sent)
        assert versions == sorted(versions), "from the swap on every answer is the new version's"
        assert set(versions) == {"1", "2", "3"}
        wait_until(lambda: gateway.n_pending() == 0, 120, gateway.describe)
        books = gateway.books()
        assert books.balanced
        assert books.messages["numbers"]["handled"] == n_sent
        assert gateway.get("/status")["models"]["tiny"]["loads"] == 3.0
    finally:
        gateway.end()


def test_a_version_that_does_not_load_changes_nothing_and_the_log_says_what_to_do(
    tmp_path: Path, mosquitto: Mosquitto, cloud: CloudProcess
) -> None:
    gateway = make_gateway(tmp_path, mosquitto, cloud, 0.0)
    try:
        gateway.start()
        flow = Flow(mosquitto.port, f"{gateway.get('/status')['gateway']}/n")
        wait_until(lambda: len(cloud.stored()) > 10, 120, gateway.describe)
        onnx_bundle(gateway.folder / "models", b"no model at all", version="2")

        reload(gateway)

        log = gateway.folder / "gatewayd.log"
        wait_until(lambda: "model keeps its old version" in log.read_text(), 120, gateway.describe)
        [line] = [line for line in log.read_text().splitlines() if "model keeps its old version" in line]
        assert "systemctl reload gatewayd" in json.loads(line)["hint"]
        begun = flow.n_sent
        wait_until(lambda: len(cloud.stored()) > begun, 120, gateway.describe)
        n_sent = flow.stop()
        wait_until(lambda: len(cloud.stored()) >= n_sent, 120, gateway.describe)
        assert set(check(answers(cloud), n_sent)) == {"1"}
        assert version(gateway) == "1"
        put(gateway, 3)
        reload(gateway)
        wait_until(lambda: version(gateway) == "3", 120, gateway.describe)
    finally:
        gateway.end()


SUMMARIES = """
[source]
port = {port}
client_id = "{name}"
[models]
dir = "{models}"
llm_threads = 1
[sinks.cloud]
type = "http"
url = "{url}"
retry_max_s = 0.3
[routes.logs]
topics = ["{name}/#"]
handler = "summarize_text"
sinks = ["cloud"]
options = {{ model = "gemma3-270m", require_model = true, max_tokens_out = 32 }}
window = {{ max_messages = 2 }}
payload = {{ format = "text" }}
"""


@pytest.mark.model
@pytest.mark.slow
def test_a_language_models_old_worker_ends_after_its_last_call(
    tmp_path: Path, mosquitto: Mosquitto, cloud: CloudProcess
) -> None:
    pytest.importorskip("xllamacpp", reason="the runtime xllamacpp is not installed")
    models = tmp_path / "models"
    shutil.copytree(demo_models("gemma3-270m") / "gemma3-270m", models / "gemma3-270m", copy_function=os.link)
    name = tmp_path.name.replace("_", "-")[:60]
    text = SUMMARIES.format(port=mosquitto.port, name=name, models=models, url=cloud.url)
    gateway = Gateway(tmp_path / "gateway", text, name=name)
    try:
        gateway.start()
        wait_until(lambda: gateway.get("/status")["routes"]["logs"]["state"] == "running", 120, gateway.describe)
        [before] = workers(gateway)
        publish(mosquitto, name, "pump-3 bearing 81.2", "pump-3 stopped")
        new_version(models / "gemma3-270m", "next")

        reload(gateway)

        wait_until(lambda: gateway.get("/status")["models"]["gemma3-270m"]["version"] == "next", 120, gateway.describe)
        wait_until(lambda: before not in workers(gateway), 120, gateway.describe)
        publish(mosquitto, name, "pump-4 pressure 4.1 bar", "pump-4 started")
        wait_until(lambda: len(cloud.stored()) == 2, 120, gateway.describe)
        events = sorted(cloud.stored().values(), key=lambda event: event["time"])
        assert events[-1]["data"]["model_version"] == "next"
        assert len(workers(gateway)) == 1
        assert gateway.books().balanced
    finally:
        gateway.end()


def new_version(folder: Path, name: str) -> None:
    """The same files under another version, put in place at once as `write_bundle` does."""
    fresh = folder.with_name(".fresh")
    shutil.copytree(folder, fresh, copy_function=os.link)
    manifest = (fresh / "model.toml").read_text()
    (fresh / "model.toml").unlink()
    lines = [f'version = "{name}"' if line.startswith("version = ") else line for line in manifest.splitlines()]
    (fresh / "model.toml").write_text("\n".join(lines) + "\n")
    folder.rename(folder.with_name(".before"))
    fresh.rename(folder)


def workers(gateway: Gateway) -> list[int]:
    assert gateway.process is not None
    found: list[int] = []
    for task in Path(f"/proc/{gateway.process.pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has just ended has no children left
            found += [int(pid) for pid in (task / "children").read_text().split()]
    return found


def publish(broker: Mosquitto, name: str, *lines: str) -> None:
    command = ["mosquitto_pub", "-p", str(broker.port), "-t", f"{name}/log", "-q", "1", "-l"]
    subprocess.run(command, input="\n".join(lines).encode() + b"\n", check=True, timeout=120)


def test_the_list_of_models_says_what_the_daemon_has_in_memory(
    tmp_path: Path, mosquitto: Mosquitto, cloud: CloudProcess
) -> None:
    gateway = make_gateway(tmp_path, mosquitto, cloud, 0.0)
    command = [sys.executable, "-m", "gatewayd", "models", "ls", "--json", "--config", str(gateway.config)]

    def listed() -> Any:
        return json.loads(subprocess.run(command, check=True, capture_output=True, timeout=120).stdout)

    try:
        assert [(one["name"], one["running"]) for one in listed()] == [("tiny", None)]
        gateway.start()
        wait_until(lambda: version(gateway) == "1", 120, gateway.describe)

        [line] = listed()

        assert (line["running"]["version"], line["running"]["loads"], line["running"]["loaded"]) == ("1", 1.0, 1.0)
        assert line["running"]["memory_bytes"] > 0
    finally:
        gateway.end()
