"""gatewayd.systemd and gatewayd.liveness: what systemd is told, and when the watchdog is not fed."""

import secrets
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gatewayd.config import read_environment
from gatewayd.liveness import Liveness
from gatewayd.systemd import Notifier, watchdog_interval_s


class Manager:
    """A service manager's end of the notify socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(5)

    def heard(self) -> str:
        return self.socket.recv(4096).decode()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest) -> Iterator[Manager]:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "notify")
        found = Manager(path if request.param == "path" else f"@gatewayd-test-{secrets.token_hex(8)}")
        yield found
        found.socket.close()


def test_each_state_is_one_datagram_in_systemds_words(manager: Manager) -> None:
    notifier = Notifier(manager.address, monotonic_usec=lambda: 123)

    notifier.ready()
    notifier.reloading()
    notifier.status("3 routes\nbroker away")
    notifier.watchdog()
    notifier.extend_timeout(1.5)
    notifier.stopping()

    assert [manager.heard() for _ in range(6)] == [
        "READY=1",
        "RELOADING=1\nMONOTONIC_USEC=123",
        "STATUS=3 routes broker away",
        "WATCHDOG=1",
        "EXTEND_TIMEOUT_USEC=1500000",
        "STOPPING=1",
    ]


def test_without_a_service_manager_nothing_happens() -> None:
    with capture_logs() as logs:
        Notifier(None).ready()

    assert logs == []


def test_a_service_manager_that_went_away_is_logged_and_harms_nobody(tmp_path: Path) -> None:
    with capture_logs() as logs:
        Notifier(str(tmp_path / "none")).ready()

    assert [line["state"] for line in logs] == ["READY=1"]


@pytest.mark.parametrize(
    ("variables", "interval_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "60000000"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "8"}, None),
    ],
)
def test_the_watchdog_is_fed_at_half_its_time_by_the_process_it_is_for(
    variables: dict[str, str], interval_s: float | None
) -> None:
    assert watchdog_interval_s(read_environment(variables), pid=7) == interval_s


def test_a_part_that_does_not_beat_in_time_is_stuck() -> None:
    liveness = Liveness()
    liveness.beat("loop", 0.0, limit_s=5.0)
    liveness.beat("commit", 0.0, limit_s=30.0)

    assert liveness.stuck(5.0) is None
    assert liveness.stuck(5.1) == "loop has not moved for 5.1 s"


def test_a_part_that_beats_again_or_rests_is_not_stuck() -> None:
    liveness = Liveness()
    liveness.beat("loop", 0.0, limit_s=5.0)
    liveness.beat("commit", 0.0, limit_s=5.0)

    liveness.beat("loop", 9.0, limit_s=5.0)
    liveness.rest("commit")

    assert liveness.stuck(10.0) is None
    assert liveness.ages(10.0) == {"loop": 1.0}


def test_the_part_that_is_longest_over_its_limit_is_named() -> None:
    liveness = Liveness()
    liveness.beat("loop", 0.0, limit_s=1.0)
    liveness.beat("commit", 0.0, limit_s=50.0)
    liveness.beat("worker[gemma]", 90.0, limit_s=1.0)

    assert liveness.stuck(100.0) == "loop has not moved for 100.0 s"
