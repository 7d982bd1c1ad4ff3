"""Does a language model hold up the routes that take milliseconds? Figure 1 of the engine.

    python -m benchmarks.llm_beside_fast [--repeats 5] [--count 500] [--variant default ...] [--out FILE]

One gateway on a real Mosquitto with two routes: `probe` classifies a series (QoS 1, live result at QoS 1, a result that
is stored), `logs` summarizes windows of log lines with Gemma 3 270M in its worker, one after the other without a pause.
The time from publishing to the live result is taken at 100 messages a second, turn and turn about: while the worker is
stopped (SIGSTOP: the route alone) and while it generates. Each variant is a gateway of its own; `plain` is a language
model as a llama.cpp server runs beside anything: niceness 0, a thread for each core. Who measures and the broker share
the machine. A ratio is that of the medians of the 99th percentiles.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.speed.rig import broker, metric, prepare_model
from tests.sim.gateway import Gateway, wait_until
from tests.sim.models import demo_models
from tests.sim.mosquitto import Mosquitto

LLM = "gemma3-270m"
RESULTS = Path(__file__).parent / "results" / "llm_beside_fast.json"
_PER_S = 100.0
_WARM = 20  # the series model answers from its 16th sample on
_START_S = 180.0
_WINDOW = 6
_N_CORES = os.cpu_count() or 1
_TICKS = os.sysconf("SC_CLK_TCK")

VARIANTS = {
    "plain": f"llm_threads = {_N_CORES}\nworker_nice = 0",
    "nice 0": "worker_nice = 0",
    "nice 5": "worker_nice = 5",
    "nice 10": "worker_nice = 10",
    "nice 19": "worker_nice = 19",
    "batch, nice 19": 'worker_nice = 19\nworker_policy = "batch"',
    "idle": 'worker_policy = "idle"',
    "last core, nice 5": f'worker_cpus = "{_N_CORES - 1}"\nworker_nice = 5',
    "last core, idle": f'worker_cpus = "{_N_CORES - 1}"\nworker_policy = "idle"',
    "all threads, idle": f'llm_threads = {_N_CORES}\nworker_policy = "idle"',
    "default": "",
}

_CONFIG = """
[models]
dir = "{models}"
{variant}
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
[routes.probe.options]
model = "pumps"
device = "topic"
max_gap_s = 3600.0
[routes.logs]
topics = ["logs/#"]
handler = "summarize_text"
sinks = ["out"]
payload = {{ format = "text" }}
window = {{ max_messages = 6 }}
options = {{ model = "gemma3-270m", timeout_s = 600 }}
"""


def models_dir(folder: Path) -> Path:
    """A folder with both bundles."""
    models = folder / "models"
    if not models.exists():
        prepare_model(models)
        (models / LLM).symlink_to(demo_models(LLM) / LLM)
    return models


def log_lines(n_lines: int) -> bytes:
    """Lines of a plant, no window like another."""
    kinds = (
        "pump-{d} bearing temperature {v}.2 above limit 75.0",
        "pump-{d} vibration {v} mm/s",
        "valve-{d} started by operator after {v} minutes",
        "pump-{d} stopped: bearing protection, code {v}",
    )
    lines = [kinds[n % len(kinds)].format(d=n % 7, v=n % 97) for n in range(n_lines)]
    return "\n".join(lines).encode() + b"\n"


def publish(port: int, topic: str, lines: bytes) -> None:
    """Return when the broker has acknowledged all lines."""
    command = ["mosquitto_pub", "-p", str(port), "-t", topic, "-q", "1", "-l"]
    subprocess.run(command, input=lines, check=True, timeout=120)


@contextmanager
def running(folder: Path, variant: str) -> Iterator[tuple[Mosquitto, Gateway]]:
    """Broker and gateway, both routes ready and the series warm."""
    models = models_dir(folder.parent)
    with broker(folder / "broker", settings=["set_tcp_nodelay true"]) as one:
        text = f"[source]\nport = {one.port}\n" + _CONFIG.format(models=models, variant=variant)
        gateway = Gateway(folder / "gateway", text, name="beside")
        gateway.start()
        try:
            wait_until(lambda: is_running(gateway), _START_S, gateway.describe)
            publish(one.port, "probe/1", b'{"vibration":2.0,"current":7.5,"pressure":4.2}\n' * _WARM)
            yield one, gateway
        finally:
            gateway.end()


def is_running(gateway: Gateway) -> bool:
    """Whether every route has its model."""
    status = gateway.get("/status")
    return status is not None and all(route["state"] == "running" for route in status["routes"].values())


def worker_pid(gateway: Gateway) -> int:
    """The language model's process: the daemon's only child."""
    assert gateway.process is not None
    tasks = Path(f"/proc/{gateway.process.pid}/task").iterdir()
    [pid] = [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
    return pid


def cpu_s(pid: int) -> float:
    """Processor time of a process so far, in seconds. Source: proc(5), fields 14 and 15 of stat."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def probe(port: int, n_messages: int) -> list[float]:
    """Milliseconds from publishing to the live result, of each message."""
    command = [sys.executable, "-m", "benchmarks.speed.prober", "--port", str(port), "--per-s", str(_PER_S)]
    command += ["--count", str(n_messages), "--qos", "1"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=300)
    return [float(value) for value in json.loads(done.stdout)]


def measure(folder: Path, name: str, *, repeats: int, n_messages: int) -> dict[str, Any]:
    """One variant: `repeats` times alone and beside, in turn."""
    taken: dict[str, list[list[float]]] = {"alone": [], "beside": []}
    cores_used, tokens = [], 0.0
    with running(folder, VARIANTS[name]) as (one, gateway):
        pid = worker_pid(gateway)
        probe(one.port, 100)
        n_windows = int(repeats * (n_messages / _PER_S + 4) * 4)
        publish(one.port, "logs/plant", log_lines(n_windows * _WINDOW))
        wait_until(lambda: metric(gateway, "gatewayd_llm_tokens_total") > 0, _START_S, gateway.describe)
        for _ in range(repeats):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.3)
            taken["alone"].append(probe(one.port, n_messages))
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.3)
            began_s, before_s, before = time.monotonic(), cpu_s(pid), _tokens_out(gateway)
            taken["beside"].append(probe(one.port, n_messages))
            cores_used.append((cpu_s(pid) - before_s) / (time.monotonic() - began_s))
            tokens += _tokens_out(gateway) - before
        books = gateway.books()
    line = {
        "variant": name,
        "keys": VARIANTS[name],
        "alone": percentiles(taken["alone"]),
        "beside": percentiles(taken["beside"]),
        "worker_cores_used": round(statistics.median(cores_used), 2),
        "tokens_per_s": round(tokens / (repeats * n_messages / _PER_S), 1),
        "balanced": books.balanced,
    }
    line["ratio_p99"] = round(line["beside"]["p99_ms"] / line["alone"]["p99_ms"], 2)
    return line


def _tokens_out(gateway: Gateway) -> float:
    status = gateway.get("/status")
    return float(status["models"][LLM].get("tokens_out", 0.0))


def percentiles(runs: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Medians over the runs, in milliseconds."""
    p99 = [statistics.quantiles(run, n=100, method="inclusive")[98] for run in runs]
    return {
        "p50_ms": round(statistics.median(statistics.median(run) for run in runs), 2),
        "p99_ms": round(statistics.median(p99), 2),
        "p99_of_each_ms": [round(value, 2) for value in p99],
        "max_ms": round(max(max(run) for run in runs), 2),
        "n_runs": len(runs),
    }


def table(lines: Sequence[dict[str, Any]]) -> str:
    """The figures for a person."""
    rows = [f"{'variant':<20}  alone p50     p99  beside p50     p99  ratio p99  cores  tok/s"]
    for line in lines:
        alone, beside = line["alone"], line["beside"]
        rows.append(
            f"{line['variant']:<20} {alone['p50_ms']:>10.2f} {alone['p99_ms']:>7.2f} {beside['p50_ms']:>11.2f}"
            f" {beside['p99_ms']:>7.2f} {line['ratio_p99']:>10.2f} {line['worker_cores_used']:>6.2f}"
            f" {line['tokens_per_s']:>6.1f}"
        )
    return "\n".join(rows)


def main() -> int:
    """Print a table, write the JSON; exit status 0 when the default's ratio is at most 1.5."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--variant", action="append", choices=list(VARIANTS), help="default: plain and default")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory(prefix="gatewayd-beside-") as name:
        for number, variant in enumerate(args.variant or ["plain", "default"]):
            lines.append(measure(Path(name) / str(number), variant, repeats=args.repeats, n_messages=args.count))
            print(json.dumps(lines[-1]), flush=True)
    print(table(lines))
    args.out.write_text(json.dumps({"cores": _N_CORES, "load_1m": os.getloadavg()[0], "lines": lines}, indent=1) + "\n")
    return 0 if all(line["ratio_p99"] <= 1.5 for line in lines if line["variant"] == "default") else 1


if __name__ == "__main__":
    sys.exit(main())
