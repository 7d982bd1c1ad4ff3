"""A message that kills, hangs or confuses a handler is buried in the end, alone, and its neighbors are delivered.

The test restarts the daemon as systemd does: when it ended, and when it says of itself that it is stuck (there the
watchdog would end it). A handler that hangs holds up its own route until then, and no other.
"""

import json
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.sim.gateway import CloudProcess, Gateway, wait_until
from tests.sim.mosquitto import Mosquitto

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(150)]

CONFIG = """
[source]
port = {port}
[source.reconnect]
initial_s = 0.05
max_s = 0.2
[handlers]
paths = ["poison.py"]
[sinks.cloud]
type = "http"
url = "{url}"
retry_max_s = 0.3
[routes.bad]
topics = ["bad/#"]
handler = "poison"
sinks = ["cloud"]
live = false
mode = "{mode}"
max_call_s = 1.0
max_attempts = 3
[routes.good]
topics = ["good/#"]
handler = "poison"
sinks = ["cloud"]
live = false
"""


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[CloudProcess]:
    cloud = CloudProcess(tmp_path)
    cloud.start()
    yield cloud
    cloud.stop()


@pytest.fixture
def broker(new_mosquitto: Callable[..., Mosquitto]) -> Mosquitto:
    return new_mosquitto()


@pytest.fixture
def start(tmp_path: Path, broker: Mosquitto, cloud: CloudProcess) -> Iterator[Callable[[str], Gateway]]:
    made: list[Gateway] = []

    def make(mode: str) -> Gateway:
        gateway = Gateway(tmp_path / "gateway", CONFIG.format(port=broker.port, url=cloud.url, mode=mode))
        file = gateway.folder / "poison.py"
        shutil.copyfile(Path(__file__).parent.parent / "sim" / "poison.py", file)
        file.chmod(0o600)
        gateway.folder.chmod(0o700)
        made.append(gateway)
        gateway.start()
        return gateway

    yield make
    for gateway in made:
        gateway.end()


def publish(broker: Mosquitto, topic: str, *values: object) -> None:
    binary = shutil.which("mosquitto_pub")
    assert binary is not None
    lines = "".join(json.dumps(value) + "\n" for value in values)
    command = [binary, "-p", str(broker.port), "-t", topic, "-q", "1", "-l"]
    subprocess.run(command, input=lines.encode(), check=True, timeout=120)


def stuck(gateway: Gateway) -> str:
    """What the daemon says it is stuck at; "" while it is alive or not there at all."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{gateway.web_port}/healthz", timeout=2):
            return ""
    except urllib.error.HTTPError as error:
        return error.read().decode()
    except OSError:
        return ""


def keep_running(gateway: Gateway, condition: Callable[[], bool], seconds: float = 90.0) -> int:
    """Be systemd until `condition` holds; how often the daemon had to be started again."""
    deadline_s = time.monotonic() + seconds
    n_starts = 0
    while not condition():
        assert time.monotonic() < deadline_s, gateway.describe()
        assert gateway.process is not None
        if stuck(gateway):
            gateway.process.send_signal(signal.SIGABRT)
            gateway.process.wait(timeout=120)
        if gateway.process.poll() is not None:
            n_starts += 1
            gateway.start(ready=False)
        time.sleep(0.05)
    return n_starts


def values(cloud: CloudProcess) -> list[object]:
    return [event["data"]["value"] for event in cloud.stored().values()]


def n_dead(gateway: Gateway) -> int:
    return gateway.books().messages["bad"]["dead"]


@pytest.mark.parametrize("mode", ["direct", "journaled"])
@pytest.mark.parametrize("how", ["exit", "abort"])
def test_a_message_that_kills_the_process_is_buried_and_its_neighbors_are_delivered(
    start: Callable[[str], Gateway], broker: Mosquitto, cloud: CloudProcess, mode: str, how: str
) -> None:
    gateway = start(mode)

    publish(broker, "bad/a", 1, how, 2)
    publish(broker, "good/a", 3)
    n_starts = keep_running(gateway, lambda: n_dead(gateway) == 1 and len(cloud.stored()) == 3)

    assert sorted(values(cloud), key=str) == [1, 2, 3]
    books = gateway.books()
    assert books.balanced
    assert books.reasons["messages/bad/dead"] == {"attempts": 1}
    assert books.messages["bad"]["handled"] == 2
    assert 3 <= n_starts <= 4  # direct: its first delivery looks like any other, so it is counted from the second on
    assert gateway.stop() == 0


@pytest.mark.parametrize("mode", ["direct", "journaled"])
def test_a_message_that_hangs_the_handler_is_buried_and_other_routes_go_on_meanwhile(
    start: Callable[[str], Gateway], broker: Mosquitto, cloud: CloudProcess, mode: str
) -> None:
    gateway = start(mode)

    publish(broker, "bad/a", "hang")
    wait_until(lambda: stuck(gateway) != "", 20, gateway.describe)
    publish(broker, "good/a", *range(100))
    wait_until(lambda: len(cloud.stored()) == 100, 20, gateway.describe)
    assert "handler[bad]" in stuck(gateway)
    publish(broker, "bad/a", 1)
    keep_running(gateway, lambda: n_dead(gateway) == 1 and len(cloud.stored()) == 101)

    books = gateway.books()
    assert books.balanced
    assert books.reasons["messages/bad/dead"] == {"attempts": 1}


def test_a_stop_leaves_a_handler_that_hangs_behind(start: Callable[[str], Gateway], broker: Mosquitto) -> None:
    gateway = start("direct")
    gateway.config.write_text(gateway.config.read_text().replace("[web]", "drain_s = 0.5\n[web]"))
    assert gateway.stop() == 0
    gateway.start()

    publish(broker, "bad/a", "hang")
    wait_until(lambda: stuck(gateway) != "", 20, gateway.describe)
    before_s = time.monotonic()

    assert gateway.stop() == 0
    assert time.monotonic() - before_s < 10
    assert gateway.books().balanced


@pytest.mark.parametrize("how", ["raise", "leave"])
def test_a_handler_that_raises_or_exits_costs_one_message_and_no_restart(
    start: Callable[[str], Gateway], broker: Mosquitto, cloud: CloudProcess, how: str
) -> None:
    gateway = start("direct")

    publish(broker, "bad/a", 1, how, 2)
    wait_until(lambda: len(cloud.stored()) == 2 and n_dead(gateway) == 1, 20, gateway.describe)

    assert gateway.process is not None
    assert gateway.process.poll() is None
    assert gateway.books().reasons["messages/bad/dead"] == {"handler_error": 1}
