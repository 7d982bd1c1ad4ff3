"""`gatewayd top` and `tail` beside a real daemon: in a pseudo-terminal, in a pipe, over a restart, with a token."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.sim.gateway import Gateway, wait_until
from tests.sim.mosquitto import Mosquitto

pytestmark = pytest.mark.broker

CONFIG = """
token = {{ file = "token" }}
[source]
port = {port}
[routes.ovens]
topics = ["terminal/ovens/#"]
handler = "threshold"
payload = {{ format = "number" }}
[[routes.ovens.options.rules]]
above = 80.0
label = "hot"
[routes.doors]
topics = ["terminal/doors/#"]
handler = "threshold"
[[routes.doors.options.rules]]
equals = "open"
label = "open"
"""


@pytest.fixture
def running(mosquitto: Mosquitto, tmp_path: Path) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path / "gateway", CONFIG.format(port=mosquitto.port), name="hall-3")
    (gateway.folder / "token").write_text("0123456789abcdef\n")
    (gateway.folder / "token").chmod(0o600)
    gateway.start(ready=False)
    wait_until(lambda: '"subscribed": true' in command(gateway, "status", "--json")[1], 120, gateway.describe)
    yield gateway
    gateway.end()


def command(gateway: Gateway, *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "gatewayd", *arguments, "--config", str(gateway.config)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def publish(broker: Mosquitto, *payloads: str) -> None:
    for payload in payloads:
        subprocess.run(
            ["mosquitto_pub", "-p", str(broker.port), "-q", "1", "-t", "terminal/ovens/1", "-m", payload],
            check=True,
            timeout=120,
        )


class Terminal:
    """A command in a pseudo-terminal of 80 x 24."""

    def __init__(self, *command: str) -> None:
        self._ours, self._theirs = pty.openpty()
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(self._theirs)
        self.process = subprocess.Popen(
            command, stdin=self._theirs, stdout=self._theirs, stderr=self._theirs, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - Ctrl-C must reach it
        )  # fmt: skip
        os.set_blocking(self._ours, False)
        self.shown = ""

    def read(self) -> str:
        """All that was written so far."""
        try:
            while said := os.read(self._ours, 65536):
                self.shown += said.decode(errors="replace")
        except (BlockingIOError, OSError):
            pass
        return self.shown

    def screen(self) -> list[str]:
        """The last whole picture, without its colors."""
        pictures = self.read().split("\x1b[H")
        whole = [one for one in pictures if one.endswith("\x1b[J")]
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", whole[-1]).replace("\r", "").split("\n") if whole else []

    def see(self, words: str) -> None:
        wait_until(lambda: any(words in line for line in self.screen()), 60, self.read)

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def attributes(self) -> list[object]:
        return termios.tcgetattr(self._theirs)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(120)
        os.close(self._ours)
        os.close(self._theirs)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    made: list[Terminal] = []

    def make(gateway: Gateway, *arguments: str) -> Terminal:
        made.append(Terminal(sys.executable, "-m", "gatewayd", *arguments, "--config", str(gateway.config)))
        return made[-1]

    yield make
    for one in made:
        one.end()


def test_top_shows_the_flow_takes_keys_and_leaves_the_terminal_as_it_was(
    running: Gateway, mosquitto: Mosquitto, terminal: Callable[..., Terminal]
) -> None:
    top = terminal(running, "top")
    top.see("on hall-3")
    publish(mosquitto, "91.5", "70")

    assert len(top.screen()) == 24
    assert all(len(line) <= 80 for line in top.screen())
    top.see("connected to the broker")
    top.press("\t")
    top.see("LATEST RESULTS OF ovens")
    top.see("alert hot raised 91.5  terminal/ovens/1")
    top.press("\x1b[B")
    top.see("LATEST RESULTS OF doors")
    top.press("q")

    assert top.process.wait(120) == 0
    assert top.read().endswith("\x1b[?25h\x1b[?1049l")
    assert top.attributes() == top.before


def test_ctrl_c_ends_top_cleanly(running: Gateway, terminal: Callable[..., Terminal]) -> None:
    top = terminal(running, "top")
    top.see("on hall-3")
    top.press("\x03")

    assert top.process.wait(120) == 0
    assert "Traceback" not in top.read()
    assert top.attributes() == top.before


def test_top_says_that_the_daemon_went_and_goes_on_when_it_is_back(
    running: Gateway, terminal: Callable[..., Terminal]
) -> None:
    top = terminal(running, "top")
    top.see("nothing is wrong")
    running.stop()
    top.see("trying again")
    running.start(ready=False)
    top.see("nothing is wrong")


def test_without_a_terminal_top_prints_lines(running: Gateway) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "gatewayd", "top", "-c", str(running.config)], stdout=subprocess.PIPE, text=True
    ) as top:
        assert top.stdout is not None
        lines = [top.stdout.readline() for _ in range(2)]
        top.send_signal(signal.SIGINT)
        status = top.wait(120)

    assert status == 0
    assert all("broker=up" in line and "\x1b" not in line for line in lines)
    assert "ROUTE" in command(running, "top", "--once")[1]


def test_tail_follows_results_over_a_restart(running: Gateway, mosquitto: Mosquitto) -> None:
    tail = subprocess.Popen(
        [sys.executable, "-m", "gatewayd", "tail", "ovens", "--json", "-c", str(running.config)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert tail.stdout is not None
    assert tail.stderr is not None
    publish(mosquitto, "91.5")
    first = json.loads(tail.stdout.readline())
    running.stop()
    assert "trying again" in tail.stderr.readline()
    running.start(ready=False)
    wait_until(lambda: '"subscribed": true' in command(running, "status", "--json")[1], 120, running.describe)
    publish(mosquitto, "99", "70")  # at once: it asks again every two seconds, and catches up
    after = [json.loads(tail.stdout.readline()) for _ in range(2)]
    tail.send_signal(signal.SIGINT)

    assert tail.wait(120) == 0
    assert (first["route"], first["label"], first["data"]["state"]) == ("ovens", "hot", "raised")
    assert [one["data"]["value"] for one in after] == [99.0, 70.0]
    tail.stdout.close()
    tail.stderr.close()


def test_the_latest_results_are_shown_first_and_unknown_routes_named(running: Gateway, mosquitto: Mosquitto) -> None:
    publish(mosquitto, "91.5", "70")
    wait_until(lambda: running.books().totals()["messages"]["received"] == 2, 60, running.describe)  # type: ignore[index]

    words = command(running, "tail", "--no-follow")[1]
    unknown = command(running, "tail", "nope", "--no-follow")

    assert "ovens  alert hot raised 91.5  terminal/ovens/1" in words
    assert unknown[0] == 2
    assert "it has: ovens, doors" in " ".join(unknown[2].replace("│", " ").split())


def test_a_wrong_token_and_a_daemon_that_is_away_are_exit_status_69(running: Gateway) -> None:
    (running.folder / "token").write_text("fedcba9876543210\n")
    turned_away = [command(running, *each) for each in (("top", "--once"), ("tail",), ("status",))]
    running.stop()
    away = command(running, "top", "--once")

    assert {each[0] for each in (*turned_away, away)} == {69}
    assert all("turns us away (401)" in each[2] for each in turned_away)
    assert "Connection refused" in away[2]
