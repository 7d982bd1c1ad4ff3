"""What systemd hears of the daemon, over a real notification socket: ready, alive, reloading, stopping."""

import itertools
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sim.gateway import Gateway, wait_until
from tests.sim.mosquitto import Mosquitto

pytestmark = [pytest.mark.broker]

WATCHDOG_USEC = 1_000_000

CONFIG = """
[source]
port = {port}
client_id = "{client}"
[handlers]
paths = ["poison.py"]
[routes.blocks]
topics = ["{client}/#"]
handler = "inline_poison"
options = {{ hang_s = 5.0 }}
"""


class ServiceManager:
    """The other end of $NOTIFY_SOCKET. `heard` has every notification with the time it came."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heard: list[tuple[float, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while (message := self._socket.recv(4096)) != b"":
            self.heard.append((time.monotonic(), message.decode()))

    def states(self) -> list[str]:
        """All notifications but those of the watchdog, in order."""
        return [message for _, message in self.heard if message != "WATCHDOG=1"]

    def pings(self) -> list[float]:
        return [at for at, message in self.heard if message == "WATCHDOG=1"]

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"", str(self.path))
        self._thread.join()
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    manager = ServiceManager(tmp_path / "notify")
    yield manager
    manager.close()


@pytest.fixture
def gateway(tmp_path: Path, mosquitto: Mosquitto, manager: ServiceManager) -> Iterator[Gateway]:
    client = tmp_path.name.replace("_", "-")[:60]
    gateway = Gateway(tmp_path / "gateway", CONFIG.format(port=mosquitto.port, client=client), name=client)
    file = gateway.folder / "poison.py"
    shutil.copyfile(Path(__file__).parent.parent / "sim" / "poison.py", file)
    file.chmod(0o600)
    gateway.folder.chmod(0o700)
    watchdog = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": str(WATCHDOG_USEC)}
    gateway.start(environment={**os.environ, **watchdog})
    yield gateway
    gateway.end()


def test_it_is_ready_says_what_it_does_and_is_alive_twice_in_the_time_allowed(
    gateway: Gateway, manager: ServiceManager
) -> None:
    wait_until(lambda: len(manager.pings()) >= 8, 20, gateway.describe)

    states = manager.states()
    assert states[0] == "READY=1"
    assert states[1].startswith("STATUS=1 routes, broker 127.0.0.1:")
    gaps = [after - before for before, after in itertools.pairwise(manager.pings()[2:])]
    assert sorted(gaps)[len(gaps) // 2] == pytest.approx(WATCHDOG_USEC / 2e6, rel=0.2)


def test_ready_is_said_when_spool_and_endpoints_are_there(gateway: Gateway, manager: ServiceManager) -> None:
    assert manager.states()[0] == "READY=1"
    assert (gateway.folder / "state" / "spool.db").exists()
    assert gateway.get("/status") is not None


def test_an_event_loop_that_is_blocked_is_not_alive(gateway: Gateway, manager: ServiceManager) -> None:
    wait_until(lambda: len(manager.pings()) >= 2, 20, gateway.describe)
    topic = gateway.get("/status")["gateway"]

    subprocess.run(
        ["mosquitto_pub", "-p", _port(gateway), "-t", f"{topic}/x", "-q", "1", "-m", '"hang"'], check=True, timeout=120
    )
    wait_until(lambda: _longest_gap(manager) > 4.0, 20, gateway.describe)

    assert gateway.process is not None
    assert gateway.process.poll() is None


def _port(gateway: Gateway) -> str:
    return str(gateway.get("/status")["broker"]["port"])


def _longest_gap(manager: ServiceManager) -> float:
    """Seconds between two pings, the longest so far."""
    pings = manager.pings()
    return max((after - before for before, after in itertools.pairwise(pings)), default=0.0)


def test_a_reload_begins_and_ends(gateway: Gateway, manager: ServiceManager) -> None:
    assert gateway.process is not None
    before_usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000

    gateway.process.send_signal(signal.SIGHUP)
    wait_until(lambda: len(manager.states()) >= 4, 20, gateway.describe)

    reloading, ready = manager.states()[2:4]
    state, usec = reloading.split("\n")
    assert state == "RELOADING=1"
    assert before_usec <= int(usec.removeprefix("MONOTONIC_USEC=")) <= before_usec + 20_000_000
    assert ready == "READY=1"


def test_a_reload_that_is_refused_ends_too(gateway: Gateway, manager: ServiceManager) -> None:
    assert gateway.process is not None
    gateway.config.write_text(gateway.config.read_text() + "\nnonsense = 1\n")

    gateway.process.send_signal(signal.SIGHUP)
    wait_until(lambda: len(manager.states()) >= 4, 20, gateway.describe)

    assert manager.states()[3] == "READY=1"
    assert "reload refused" in (gateway.folder / "gatewayd.log").read_text()


def test_a_stop_is_announced_and_ends_with_status_0(gateway: Gateway, manager: ServiceManager) -> None:
    status = gateway.stop()

    assert status == 0
    assert manager.states()[-1] == "STOPPING=1"
