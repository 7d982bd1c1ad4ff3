"""A broker, a gateway with one route, and messages as fast as the broker takes them: what the figures are taken on.

Messages come from Debian's `mosquitto_pub -l`, live results go to its `mosquitto_sub`: both in C, so that what is
measured is neither of them. Ten devices; a message is 72 bytes of JSON.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.sim.gateway import Gateway, wait_until
from tests.sim.mosquitto import Mosquitto

N_DEVICES = 10
WINDOW = 16  # of the demo's model: a device's first 15 messages have no result
_LINE = b'{"device":"x","vibration":2.0,"current":7.5,"pressure":4.2,"n":123456}\n'
_PATIENCE_S = 180.0
_TICKS = os.sysconf("SC_CLK_TCK")

SERIES = """
[models]
dir = "{models}"
[routes.r]
topics = ["bench/#"]
handler = "classify_series"
qos = {qos}
mode = "{mode}"
live = {live}
sinks = {sinks}
max_queue = 1000000
[routes.r.options]
model = "pumps"
device = "topic"
max_gap_s = 0.0
"""
_FILE = '[sinks.out]\ntype = "file"\npath = "out.ndjson"\nmax_files = 2\n'


def series_route(folder: Path, *, qos: int, live: bool, stored: bool, mode: str = "direct") -> str:
    """Config of the route that most figures use: an ONNX model over the last samples of each device."""
    models = folder / "models"
    if not (models / "pumps").exists():
        prepare_model(models)
    sinks = '["out"]' if stored else "[]"
    text = SERIES.format(models=models, qos=qos, mode=mode, live=str(live).lower(), sinks=sinks)
    return text + (_FILE if stored else "")


def prepare_model(models: Path) -> None:
    """Fit the demo's model on its own recordings: seconds, and no model hub is needed."""
    from gatewayd.cli.demo import bundles

    models.mkdir(parents=True, exist_ok=True)
    if not bundles._fitted(models, lambda _text: None):
        raise RuntimeError("the series model could not be fitted, see `gatewayd demo`")


@contextmanager
def broker(folder: Path, *, settings: Sequence[str] = ()) -> Iterator[Mosquitto]:
    """A Mosquitto for the length of a figure; `settings` are further lines of its config."""
    one = Mosquitto(folder, settings=settings)
    one.start()
    try:
        yield one
    finally:
        one.kill()


@contextmanager
def gateway(folder: Path, port: int, text: str, *, name: str = "bench", source: str = "") -> Iterator[Gateway]:
    """A gatewayd for the length of a figure."""
    one = Gateway(folder, f"[source]\nport = {port}\n{source}{text}", name=name)
    one.start()
    try:
        yield one
    finally:
        one.stop()
        one.end()


class Feed:
    """Messages for every device, sent at once."""

    def __init__(self, folder: Path, port: int, *, qos: int, n_messages: int, line: bytes = _LINE) -> None:
        self.n_messages = n_messages // N_DEVICES * N_DEVICES
        self._file = folder / f"messages-{n_messages}-{len(line)}"
        self._file.write_bytes(line * (self.n_messages // N_DEVICES))
        self._command = ["mosquitto_pub", "-p", str(port), "-q", str(qos), "-l", "-t"]

    def send(self) -> None:
        """Return when the broker has them all."""
        topics = [f"bench/{device}" for device in range(N_DEVICES)]
        senders = [subprocess.Popen([*self._command, topic], stdin=self._file.open("rb")) for topic in topics]
        for sender in senders:
            sender.wait(_PATIENCE_S)


class Listener:
    """`mosquitto_sub`: counts messages, in C."""

    def __init__(self, port: int, topic: str, n_messages: int, *, qos: int = 0) -> None:
        command = ["mosquitto_sub", "-p", str(port), "-t", topic, "-C", str(n_messages), "-q", str(qos)]
        self._process = subprocess.Popen([*command, "-F", "%l"], stdout=subprocess.DEVNULL)
        time.sleep(0.2)  # it says nothing when it has subscribed

    def wait(self) -> None:
        """Return when it has seen them all."""
        self._process.wait(_PATIENCE_S)


def metric(one: Gateway, name: str) -> float:
    """The sum of a metric over its labels, from /metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{one.web_port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


def wait_for(one: Gateway, name: str, value: float) -> None:
    """Return when the metric has come to `value`."""
    wait_until(lambda: metric(one, name) >= value, _PATIENCE_S, one.describe)


def cpu_s(one: Gateway) -> float:
    """CPU seconds of the process so far."""
    assert one.process is not None
    fields = Path(f"/proc/{one.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def pss_mb(pid: int) -> float:
    """Memory of a process, shared pages by their share. Source: proc(5), smaps_rollup."""
    found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def rss_mb(pid: int) -> float:
    """Resident memory of a process, shared pages too. Source: proc(5), statm."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def bare(loop: str, port: int, qos: int, feed: Feed) -> float:
    """Messages a second of a loop of its own, see `bare`."""
    command = [sys.executable, "-m", "benchmarks.speed.bare", loop, "--port", str(port), "--qos", str(qos)]
    process = subprocess.Popen([*command, "--count", str(feed.n_messages)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    feed.send()
    told = json.loads(process.stdout.readline())
    process.wait(_PATIENCE_S)
    return float(told["messages"] / told["seconds"])


def broker_limit(port: int, qos: int, feed: Feed) -> float:
    """Messages a second from mosquitto_pub to mosquitto_sub."""
    listener = Listener(port, "bench/#", feed.n_messages, qos=qos)
    began_s = time.perf_counter()
    feed.send()
    listener.wait()
    return feed.n_messages / (time.perf_counter() - began_s)


def have(command: str) -> bool:
    """Whether a program is installed."""
    return shutil.which(command) is not None
