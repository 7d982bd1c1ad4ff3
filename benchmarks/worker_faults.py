"""What becomes of a gateway whose language model dies under load. Figure 6 of the engine.

    python -m benchmarks.worker_faults [--seconds 8] [--repeats 3] [--case killed ...] [--out FILE]

One gateway on a real Mosquitto: `logs` summarizes windows of log lines with Gemma 3 270M in its worker, always with
work waiting; `probe` classifies a series at 100 messages a second (QoS 1). In each case the worker is taken away while
it writes:

- killed: SIGKILL.
- memory: SIGKILL, and the worker after it runs out of memory while it loads the model: its address space is capped at
  what it has by then (setrlimit(2), as models.worker_memory_bytes does). The one after that is left alone.
- damaged: the model's file is replaced by 37 bytes and the worker killed; the digest is wrong, no parser sees it.
- corrupt: the same as a new version, whose manifest says these 37 bytes are right: the parser gets them, in a worker.

The file is put back after the fast route was measured. A line says how long until a summary was written by the model
again, what the windows meanwhile got, the fast route's 99th percentile before and during, and whether the books balance
with nothing lost: every window has its one summary, every sample its result. Percentiles and recovery are medians over
the repeats, one after the other on one gateway (`damaged` and `corrupt` once: their file is put back by hand).
"""

import argparse
import json
import os
import re
import resource
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.llm_beside_fast import LLM, is_running, log_lines, models_dir, percentiles, probe, publish, worker_pid
from benchmarks.speed.rig import broker, metric
from tests.sim.gateway import Gateway, wait_until
from tests.sim.models import gguf_bundle
from tests.sim.mosquitto import Mosquitto

RESULTS = Path(__file__).parent / "results" / "worker_faults.json"
_WINDOW = 6
_PATIENCE_S = 900.0
_CRASH_S = 120.0
_WARM = 20
_CORRUPT = b"GGUF\x03\x00\x00\x00" + bytes(29)  # 37 bytes that begin as a model does

_CONFIG = """
[source]
port = {port}
[models]
dir = "{models}"
worker_restart_max_s = 2.0
watch_s = 1.0
[sinks.out]
type = "file"
path = "out.ndjson"
max_files = 2
[routes.probe]
topics = ["probe/#"]
handler = "classify_series"
priority = 7
live_qos = 1
include_input = true
sinks = ["out"]
options = {{ model = "pumps", device = "topic", max_gap_s = 3600.0 }}
[routes.logs]
topics = ["logs/#"]
handler = "summarize_text"
sinks = ["out"]
payload = {{ format = "text" }}
window = {{ max_messages = 6 }}
options = {{ model = "gemma3-270m", retry_model_s = 1.0 }}
"""


class Feed:
    """Keeps some windows waiting, in a thread of its own."""

    def __init__(self, port: int, gateway: Gateway) -> None:
        self.n_windows = 0
        self._port = port
        self._gateway = gateway
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.wait(0.2):
            book = self._gateway.books().messages.get("logs")
            if book is None or book["journaled"] < 2 * _WINDOW:
                publish(self._port, "logs/plant", log_lines(4 * _WINDOW))
                self.n_windows += 4

    def stop(self) -> None:
        """Return when it publishes no more."""
        self._end.set()
        self._thread.join()


class Rig:
    """A gateway under load, and its bundle, which may be damaged."""

    def __init__(self, one: Mosquitto, gateway: Gateway, models: Path) -> None:
        self.broker = one
        self.gateway = gateway
        self.bundle = models / LLM
        self._whole = models.parent / "whole"
        shutil.copytree(self.bundle, self._whole, copy_function=os.link)

    def kill(self) -> None:
        """SIGKILL, as the kernel's own out-of-memory killer does."""
        os.kill(worker_pid(self.gateway), signal.SIGKILL)

    def starve(self) -> None:
        """The next worker gets no byte more than it has when it appears."""
        before = worker_pid(self.gateway)
        os.kill(before, signal.SIGKILL)
        pid = self._next_worker(before)
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])  # proc(5): the address space
        size_bytes = pages * os.sysconf("SC_PAGE_SIZE")
        resource.prlimit(pid, resource.RLIMIT_AS, (size_bytes, size_bytes))

    def _next_worker(self, before: int) -> int:
        deadline_s = time.monotonic() + _CRASH_S
        while time.monotonic() < deadline_s:
            with suppress(ValueError, OSError):  # none yet
                if (pid := worker_pid(self.gateway)) != before:
                    return pid
            time.sleep(0.005)
        raise AssertionError(f"no other worker came\n{self.gateway.describe()}")

    def damage(self) -> None:
        """37 bytes in place of the model."""
        self._replace(self.bundle / "model.gguf", _CORRUPT)
        self.kill()

    def corrupt(self) -> None:
        """The same as a new version, whose manifest says so."""
        gguf_bundle(self.bundle.parent, _CORRUPT, LLM, version="2")
        self.kill()

    def mend(self) -> None:
        """The bundle as it was."""
        for file in sorted(self._whole.iterdir(), reverse=True):  # model.toml last: the files must be there before
            self._replace(self.bundle / file.name, file.read_bytes())

    def _replace(self, path: Path, content: bytes) -> None:
        beside = path.with_name(".new")
        beside.write_bytes(content)
        beside.replace(path)

    def written(self) -> float:
        """Completions so far."""
        return metric(self.gateway, "gen_ai_server_request_duration_seconds_count")

    def loads_failed(self) -> float:
        """How often a worker ended with what it was given for a model."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.gateway.web_port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found = re.search(r'^gatewayd_model_events_total\{(?=.*event="load_failed").*\} (\S+)$', text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def summaries(self) -> list[dict[str, Any]]:
        """What the windows got, in order."""
        events = [json.loads(line) for line in self._lines()]
        return [event["data"] for event in events if event["type"].endswith(".summary")]

    def said(self) -> list[str]:
        """What the log had to say of the model, each once."""
        log = (self.gateway.folder / "gatewayd.log").read_text(errors="replace")
        lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
        told = [line for line in lines if line["level"] in ("warning", "error")]
        return sorted(
            {f"{line['event']} {line.get('cause', '')}".replace(f"{self.bundle}/", "").strip() for line in told}
        )

    def _lines(self) -> list[str]:
        path = self.gateway.folder / "out.ndjson"
        if not path.exists():
            path = self.gateway.folder / "state" / "out.ndjson"
        return path.read_text().splitlines()


@contextmanager
def running(folder: Path) -> Iterator[Rig]:
    """Broker and gateway with a bundle of their own, both routes ready, the series warm, the model writing."""
    models = folder / "models"
    shared = models_dir(folder.parent)
    shutil.copytree(shared / "pumps", models / "pumps")
    shutil.copytree(shared / LLM, models / LLM)
    with broker(folder / "broker", settings=["set_tcp_nodelay true"]) as one:
        gateway = Gateway(folder / "gateway", _CONFIG.format(port=one.port, models=models), name="faults")
        gateway.start()
        try:
            wait_until(lambda: is_running(gateway), _PATIENCE_S, gateway.describe)
            publish(one.port, "probe/1", b'{"vibration":2.0,"current":7.5,"pressure":4.2}\n' * _WARM)
            yield Rig(one, gateway, models)
        finally:
            gateway.end()


CASES: dict[str, Callable[[Rig], None]] = {
    "killed": Rig.kill,
    "memory": Rig.starve,
    "damaged": Rig.damage,
    "corrupt": Rig.corrupt,
}
_MENDED = ("damaged", "corrupt")


def measure(folder: Path, case: str, seconds: float, repeats: int) -> dict[str, Any]:
    """One case on a gateway of its own."""
    before: list[list[float]] = []
    during: list[list[float]] = []
    recovered_s: list[float] = []
    with running(folder) as rig:
        feed = Feed(rig.broker.port, rig.gateway)
        try:
            wait_until(lambda: rig.written() >= 1, _PATIENCE_S, rig.gateway.describe)
            for _ in range(1 if case in _MENDED else repeats):
                before.append(probe(rig.broker.port, int(seconds * 100)))
                fault = threading.Timer(seconds / 4, CASES[case], [rig])
                began_s, n_crashes = time.monotonic() + seconds / 4, _crashes(rig)
                fault.start()
                during.append(probe(rig.broker.port, int(seconds * 100)))
                fault.join()
                wait_until(lambda n=n_crashes: _crashes(rig) > n, _CRASH_S, rig.gateway.describe)  # type: ignore[misc]
                if case == "corrupt":
                    wait_until(lambda: rig.loads_failed() >= 1, _PATIENCE_S, rig.gateway.describe)
                if case in _MENDED:
                    wait_until(lambda: any(one["reason"] == "model_error" for one in rig.summaries()), _PATIENCE_S)
                    began_s = time.monotonic()
                    rig.mend()
                recovered_s.append(_until_written(rig) - began_s)
        finally:
            feed.stop()
        return _line(rig, case, feed, before, during, statistics.median(recovered_s))


def _crashes(rig: Rig) -> float:
    return float(rig.gateway.get("/status")["models"][LLM].get("crashes", 0.0))


def _until_written(rig: Rig) -> float:
    """When (monotonic) the next completion was counted."""
    n_written = rig.written()
    wait_until(lambda: rig.written() > n_written, _PATIENCE_S, rig.gateway.describe)
    return time.monotonic()


def _line(
    rig: Rig, case: str, feed: Feed, before: list[list[float]], during: list[list[float]], recovered_s: float
) -> dict[str, Any]:
    def is_drained() -> bool:
        return rig.gateway.books().messages["logs"]["journaled"] == 0 and rig.gateway.n_pending() == 0

    wait_until(is_drained, _PATIENCE_S, rig.gateway.describe)
    assert rig.gateway.process is not None
    is_alive = rig.gateway.process.poll() is None
    books = rig.gateway.books()
    n_lines = feed.n_windows * _WINDOW
    n_samples = sum(map(len, before)) + sum(map(len, during)) + _WARM
    summaries = rig.summaries()
    was, is_now = percentiles(before), percentiles(during)
    return {
        "case": case,
        "seconds_to_recovery": round(recovered_s, 2),
        "fast_p99_before_ms": was["p99_ms"],
        "fast_p99_during_ms": is_now["p99_ms"],
        "fast_p99_of_each_ms": [was["p99_of_each_ms"], is_now["p99_of_each_ms"]],
        "fast_ratio": round(is_now["p99_ms"] / was["p99_ms"], 2),
        "windows": feed.n_windows,
        "summaries": len(summaries),
        "by_reason": dict(Counter(one["reason"] or "written by the model" for one in summaries)),
        "crashes": _crashes(rig),
        "loads_failed": rig.loads_failed(),
        "said": rig.said(),
        "daemon_lives": is_alive,
        "balanced": books.balanced,
        "lost": n_lines - books.messages["logs"]["handled"] + n_samples - books.messages["probe"]["handled"],
        "windows_without_summary": feed.n_windows - sum(one["messages"] for one in summaries) // _WINDOW,
    }


def holds(line: dict[str, Any]) -> bool:
    """Whether nothing was lost and the daemon went on."""
    is_whole = line["lost"] == 0 and line["windows_without_summary"] == 0
    return bool(is_whole and line["balanced"] and line["daemon_lives"] and line["crashes"] >= 1)


def table(lines: list[dict[str, Any]]) -> str:
    """The figures for a person."""
    head = "case     recovery s  fast p99 before  during  ratio  windows  lost  balanced  what the windows got"
    return "\n".join([head, *map(_row, lines)])


def _row(line: dict[str, Any]) -> str:
    return (
        f"{line['case']:<8} {line['seconds_to_recovery']:>10.2f} {line['fast_p99_before_ms']:>16.2f}"
        f" {line['fast_p99_during_ms']:>7.2f} {line['fast_ratio']:>6.2f} {line['windows']:>8} {line['lost']:>5}"
        f" {line['balanced']!s:>9}  {', '.join(f'{n} {reason}' for reason, n in line['by_reason'].items())}"
    )


def main() -> int:
    """Print a table, write the JSON; exit status 0 when nothing was lost in any case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="of probing, before and during each fault")
    parser.add_argument("--repeats", type=int, default=3, help="how often the worker is taken away in a case")
    parser.add_argument("--case", action="append", choices=list(CASES))
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory(prefix="gatewayd-worker-faults-") as name:
        for case in args.case or list(CASES):
            lines.append(measure(Path(name) / case, case, args.seconds, args.repeats))
            print(json.dumps(lines[-1]), flush=True)
    print(table(lines))
    args.out.write_text(json.dumps({"load_1m": os.getloadavg()[0], "lines": lines}, indent=1) + "\n")
    return 0 if all(holds(line) for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
