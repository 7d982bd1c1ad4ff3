"""A real gatewayd process, started, killed and asked by tests; and a real cloud process beside it."""

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from gatewayd.spool.books import Books
from gatewayd.spool.reader import SpoolReader
from tests.sim.mosquitto import free_port

_START_S = 120.0  # a loaded machine may take a minute to import us
_STOP_S = 30.0


class Gateway:
    """One daemon with its own folder. `text` is its config without [gateway] and [web]."""

    def __init__(self, folder: Path, text: str, *, name: str = "test") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.config = folder / "config.toml"
        self.web_port = free_port()
        head = f'[gateway]\nid = "{name}"\nstate_dir = "state"\n[web]\nport = {self.web_port}\n'
        self.config.write_text(head + text)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, environment: dict[str, str] | None = None, ready: bool = True) -> None:
        """Start it; return when it is subscribed (unless `ready` is False)."""
        with (self.folder / "gatewayd.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gatewayd", "run", "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )
        if ready:
            wait_until(lambda: self.is_subscribed() or self._has_ended(), _START_S, self.describe)
            assert not self._has_ended(), self.describe()

    def _has_ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def describe(self) -> str:
        """The end of its log, for a test that failed."""
        state = "not started" if self.process is None else f"exit status {self.process.poll()}"
        return f"gatewayd: {state}\n" + (self.folder / "gatewayd.log").read_text(errors="replace")[-4000:]

    def is_subscribed(self) -> bool:
        """Whether it is ready, and what is published now reaches it."""
        status = self.get("/status")
        return status is not None and status["broker"]["subscribed"]

    def get(self, path: str) -> Any:
        """The JSON of an endpoint; None while nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.web_port}{path}", timeout=20) as response:
                return json.load(response)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None

    def kill(self) -> None:
        """As a power cut does to a process."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(timeout=_STOP_S)

    def stop(self) -> int:
        """SIGTERM; its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=_STOP_S)

    def end(self) -> None:
        """Whatever state it is in, it is gone after this."""
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def books(self) -> Books:
        """The books as they are on disk."""
        with SpoolReader.open(self.folder / "state" / "spool.db") as reader:
            return reader.books()

    def n_pending(self) -> int:
        """Results not yet delivered."""
        return sum(book["pending"] for sinks in self.books().results.values() for book in sinks.values())


class CloudProcess:
    """A cloud in a process of its own, which remembers on disk what it stored."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "cloud.ndjson"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/events"

    def start(self) -> None:
        """Return when it listens."""
        command = [sys.executable, "-m", "gatewayd.cli.cloud", "--port", str(self.port), "--file", str(self.file)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert b"listening" in self._process.stdout.readline()

    def stop(self) -> None:
        """The cloud goes away."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None

    def freeze(self) -> None:
        """It takes requests and answers none, until `thaw`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It answers again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def received(self) -> list[dict[str, Any]]:
        """Every event that arrived, duplicates included."""
        if not self.file.exists():
            return []
        lines = self.file.read_bytes().split(b"\n")
        return [json.loads(line) for line in lines if line.endswith(b"}")]

    def stored(self) -> dict[tuple[str, str], dict[str, Any]]:
        """What is left after the cloud's own dedup by source and id."""
        return {(event["source"], event["id"]): event for event in self.received()}


def wait_until(condition: Any, seconds: float, describe: Any = lambda: "") -> None:
    """Poll `condition` until it holds; fail with `describe()` otherwise."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"did not happen within {seconds} s\n{describe()}")
        time.sleep(0.05)
