"""One fault test's bench: broker, device, gateway (or what stands in its place), cloud, oracle, and a watch on figures.

Whatever happens in the body, every process of the bench is gone at its end.
"""

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from tests.sim.gateway import CloudProcess, Gateway, wait_until
from tests.sim.mosquitto import Mosquitto
from tests.sim.oracle import FRESH, Device, Ledger, Line, count

_ROUTE = """
[source]
host = "127.0.0.1"
port = {port}
client_id = "bench-{seed}"
keepalive_s = {keepalive_s}
connect_timeout_s = 3
[source.reconnect]
initial_s = 0.05
max_s = 0.3
[sinks.cloud]
type = "http"
url = "{url}"
retry_max_s = {retry_max_s}
timeout_s = {timeout_s}
{sink}
[routes.readings]
topics = ["plant/#"]
handler = "threshold"
sinks = ["cloud"]
include_input = true
mode = "{mode}"
{route}
[routes.readings.options]
on = "every"
[[routes.readings.options.rules]]
field = "value"
above = -1.0
label = "seen"
{rest}
"""
_LOOK_S = 0.1
_WATCH_S = 0.1
_MIB = 1024 * 1024


def config_text(port: int, url: str, seed: int, *, mode: str = "direct", **more: Any) -> str:
    """A gateway's config: one route that answers every message and hands its input on."""
    blanks = {"keepalive_s": 20, "retry_max_s": 0.3, "timeout_s": 10, "sink": "", "route": "", "rest": ""}
    return _ROUTE.format(**{**blanks, **more}, port=port, url=url, seed=seed, mode=mode)


class Subject(Protocol):
    """What stands between the broker and the cloud: gatewayd, or an alternative measured beside it."""

    process: "subprocess.Popen[bytes] | None"
    folder: Path

    def start(self, *, ready: bool = True) -> None: ...
    def kill(self) -> None: ...
    def stop(self) -> int: ...
    def end(self) -> None: ...


class Watch(threading.Thread):
    """Peak memory and bytes written of a subject over all its lives, and the longest WAL."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(name="watch", daemon=True)
        self._subject = subject
        self._is_over = threading.Event()
        self._written: dict[int, int] = {}
        self.peak_rss_mb = 0.0
        self.max_wal_mb = 0.0

    @property
    def n_bytes_written(self) -> int:
        """What was handed to the block layer; a life's last tenth of a second is missing where it was killed."""
        return sum(self._written.values())

    def look(self) -> None:
        """Look now."""
        process = self._subject.process
        if process is None:
            return
        self.peak_rss_mb = max(self.peak_rss_mb, status_kb(process.pid, "VmHWM") / 1024)
        self._written[process.pid] = max(self._written.get(process.pid, 0), bytes_written(process.pid))
        for wal in self._subject.folder.glob("**/*-wal"):
            self.max_wal_mb = max(self.max_wal_mb, _size(wal) / _MIB)

    def run(self) -> None:
        """The thread."""
        while not self._is_over.wait(_WATCH_S):
            self.look()

    def end(self) -> None:
        """Stop looking."""
        self._is_over.set()
        self.join()


def status_kb(pid: int, name: str) -> int:
    """A line of /proc/<pid>/status in kB; 0 when the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def bytes_written(pid: int) -> int:
    """`write_bytes` of /proc/<pid>/io: what the process caused to be sent to the block layer; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("write_bytes:")), 0)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


class Bench:
    """Broker, cloud and oracle; `subject` is set by whoever builds it and started by the test."""

    def __init__(self, folder: Path, seed: int, *, n_pad: int = 0) -> None:
        self.folder = folder
        self.seed = seed
        self.n_pad = n_pad
        self.broker = Mosquitto(folder / "broker")
        self.cloud = CloudProcess(folder)
        self.ledger = Ledger(self.cloud.file, seed, n_pad)
        self.subject: Subject | None = None
        self.watch: Watch | None = None
        self.device: Device | None = None

    def __enter__(self) -> Self:
        self.broker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.device is not None:
            self.device.halt()
        if self.watch is not None:
            self.watch.end()
        if self.subject is not None:
            self.subject.end()
        self.cloud.stop()
        self.broker.kill()

    def gateway(self, *, port: int | None = None, url: str | None = None, **config: Any) -> Gateway:
        """A gatewayd as the subject, not started."""
        text = config_text(port or self.broker.port, url or self.cloud.url, self.seed, **config)
        gateway = Gateway(self.folder / "gateway", text, name="bench")
        self.put(gateway)
        return gateway

    def put(self, subject: Subject) -> None:
        """Make it the subject, watched from now on."""
        self.subject = subject
        self.watch = Watch(subject)
        self.watch.start()

    def send(self, **wishes: Any) -> Device:
        """A device, sending once the gateway has subscribed for the first time. Takes the arguments of `Device`."""
        if self.device is None and isinstance(self.subject, Gateway):
            self.await_birth()
        self.device = Device(self.broker.port, self.seed, n_pad=self.n_pad, **wishes)
        self.device.start()
        return self.device

    def await_birth(self, seconds: int = 20) -> None:
        """Until the gateway says that it is online, which it does when it has subscribed, and not when it connects."""
        binary = shutil.which("mosquitto_sub")
        assert binary is not None
        command = [binary, "-p", str(self.broker.port), "-t", "gatewayd/bench/status", "-C", "1", "-W", str(seconds)]
        subprocess.run(command, capture_output=True, timeout=seconds + 10, check=False)

    def settle(self, *, patience_s: float = 20.0, limit_s: float = 300.0) -> None:
        """Until all that is owed has arrived, or nothing has arrived for `patience_s`."""
        assert self.device is not None
        began_s = since_s = time.monotonic()
        n_before = -1
        while not self.device.acked <= self.ledger.by_number.keys():
            n_now = self.ledger.read()
            now_s = time.monotonic()
            if n_now != n_before:
                n_before, since_s = n_now, now_s
            if now_s - since_s > patience_s or now_s - began_s > limit_s:
                return
            time.sleep(_LOOK_S)

    def is_fresh_through(self, *, within_s: float = 20.0) -> bool:
        """Whether one more message gets through now."""
        fresh = Device(self.broker.port, self.seed, first=FRESH, n_messages=1, n_pad=self.n_pad)
        fresh.start()
        fresh.finish(within_s)

        def is_there() -> bool:
            self.ledger.read()
            return FRESH in self.ledger.by_number

        try:
            wait_until(is_there, within_s)
        except AssertionError:
            return False
        return True

    def close_books(self, line: Line) -> None:
        """Stop the gateway and fill the line with what oracle, books and watch know."""
        assert self.subject is not None
        assert self.device is not None
        assert self.watch is not None
        self.watch.look()
        status = self.subject.stop()
        if isinstance(self.subject, Gateway):
            books = self.subject.books()
            totals: Any = books.totals()
            line.dead_letter = totals["messages"]["dead"] + totals["results"]["refused"]
            line.evicted = totals["messages"]["evicted"] + totals["results"]["evicted"]
            line.expired = totals["messages"]["expired"] + totals["results"]["expired"]
            line.more["balanced"] = books.balanced
            line.more["loss_reports"] = totals["results"]["produced"] - totals["messages"]["handled"]
            if status != 0:
                line.problems.append(f"the daemon stopped with exit status {status}")
            if not books.balanced:
                line.problems.append(f"the books do not balance: {totals}")
            if totals["results"]["pending"]:
                line.problems.append(f"{totals['results']['pending']} results are still pending")
        count(line, self.device, self.ledger)
        line.peak_rss_mb = round(self.watch.peak_rss_mb, 1)
        line.max_wal_mb = round(self.watch.max_wal_mb, 2)
        line.bytes_written_per_msg = round(self.watch.n_bytes_written / max(1, line.sent), 1)


class ScriptSubject:
    """A Python script in the place of gatewayd: started with a config on its command line, killed, started again."""

    def __init__(self, folder: Path, script: Path, *arguments: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._command = [sys.executable, str(script), *arguments]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, ready: bool = True) -> None:
        """Start it; these scripts cannot say when they are ready."""
        with (self.folder / "script.log").open("ab") as log:
            self.process = subprocess.Popen(self._command, cwd=self.folder, stdout=log, stderr=log)
        if ready:
            time.sleep(1.0)

    def kill(self) -> None:
        """As a power cut does to a process."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(timeout=120)

    def stop(self) -> int:
        """They know no clean stop either."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout=120)

    def end(self) -> None:
        """It is gone after this."""
        if self.process is not None and self.process.poll() is None:
            self.kill()


@contextmanager
def bench(folder: Path, seed: int, *, n_pad: int = 0) -> Iterator[Bench]:
    """A bench in an empty folder."""
    folder.mkdir(parents=True)
    with Bench(folder, seed, n_pad=n_pad) as made:
        yield made


Say = Callable[[str], None]
