"""A language model's worker that is killed in the middle of a summary, in the real daemon with a real model."""

import os
import re
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sim.gateway import CloudProcess, Gateway, wait_until
from tests.sim.models import demo_models
from tests.sim.mosquitto import Mosquitto

pytestmark = [pytest.mark.broker, pytest.mark.model, pytest.mark.slow, pytest.mark.timeout(240)]

pytest.importorskip("xllamacpp", reason="the runtime xllamacpp is not installed")

CONFIG = """
[source]
port = {port}
client_id = "{name}"
[models]
dir = "{models}"
llm_threads = 1
worker_nice = 0
worker_restart_max_s = 0.5
[sinks.cloud]
type = "http"
url = "{url}"
retry_max_s = 0.3
[routes.logs]
topics = ["{name}/#"]
handler = "summarize_text"
sinks = ["cloud"]
options = {{ model = "gemma3-270m" }}
window = {{ max_messages = 6 }}
payload = {{ format = "text" }}
"""

LINES = [
    "pump-3 bearing temperature 81.2 above limit 75.0",
    "pump-3 vibration 7.9 mm/s",
    "pump-4 started by operator",
    "pump-3 bearing temperature 83.0 above limit 75.0",
    "pump-3 stopped: bearing protection",
    "pump-4 pressure 4.1 bar",
]


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[CloudProcess]:
    cloud = CloudProcess(tmp_path)
    cloud.start()
    yield cloud
    cloud.stop()


@pytest.fixture
def gateway(tmp_path: Path, mosquitto: Mosquitto, cloud: CloudProcess) -> Iterator[Gateway]:
    name = tmp_path.name.replace("_", "-")[:60]
    models = demo_models("gemma3-270m")
    gateway = Gateway(
        tmp_path / "gateway",
        CONFIG.format(port=mosquitto.port, name=name, models=models, url=cloud.url),
        name=name,
    )
    gateway.start()
    wait_until(lambda: state(gateway) == "running", 120, gateway.describe)
    yield gateway
    gateway.end()


def state(gateway: Gateway) -> str:
    status = gateway.get("/status")
    return "" if status is None else str(status["routes"]["logs"]["state"])


def publish(broker: Mosquitto, gateway: Gateway) -> None:
    binary = shutil.which("mosquitto_pub")
    assert binary is not None
    topic = gateway.get("/status")["gateway"] + "/log"
    command = [binary, "-p", str(broker.port), "-t", topic, "-q", "1", "-l"]
    subprocess.run(command, input="\n".join(LINES).encode() + b"\n", check=True, timeout=120)


def worker_pids(gateway: Gateway) -> list[int]:
    """The daemon's child processes."""
    assert gateway.process is not None
    tasks = Path(f"/proc/{gateway.process.pid}/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


def ticks(pid: int) -> int:
    """Processor time of a process in user mode, in clock ticks. Source: proc(5), field 14 of stat."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])


def completions(gateway: Gateway) -> float:
    """How many completions the histogram of the GenAI conventions has counted."""
    with urllib.request.urlopen(f"http://127.0.0.1:{gateway.web_port}/metrics", timeout=20) as response:
        found = re.search(r"^gen_ai_server_request_duration_seconds_count\{.*\} (\S+)$", response.read().decode(), re.M)
    return float(found.group(1)) if found else 0.0


def test_a_summary_arrives_though_its_worker_is_killed_while_it_writes(
    gateway: Gateway, mosquitto: Mosquitto, cloud: CloudProcess
) -> None:
    [pid] = worker_pids(gateway)
    before = ticks(pid)
    publish(mosquitto, gateway)
    wait_until(lambda: ticks(pid) > before + 10, 60, gateway.describe)
    assert cloud.received() == []

    os.kill(pid, signal.SIGKILL)

    wait_until(lambda: len(cloud.stored()) == 1, 120, gateway.describe)
    assert gateway.process is not None
    assert gateway.process.poll() is None
    [event] = cloud.stored().values()
    assert event["data"]["messages"] == len(LINES)
    assert event["data"]["summary"]["headline"]
    books = gateway.books()
    assert books.balanced
    assert books.messages["logs"]["handled"] == len(LINES)


def test_after_a_worker_was_killed_the_next_summary_is_the_models_own_work(
    gateway: Gateway, mosquitto: Mosquitto, cloud: CloudProcess
) -> None:
    [pid] = worker_pids(gateway)
    os.kill(pid, signal.SIGKILL)

    for n_summaries in (1, 2):
        publish(mosquitto, gateway)
        wait_until(lambda n=n_summaries: len(cloud.stored()) == n, 120, gateway.describe)

    assert worker_pids(gateway) != [pid]
    assert completions(gateway) >= 1
    calls = gateway.get("/status")["models"]["gemma3-270m"]
    assert calls["calls"] == completions(gateway)
    assert calls["crashes"] == 1
    assert gateway.books().balanced
