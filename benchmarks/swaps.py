"""Memory after 20 swaps of a model against memory after one. Figure 7a of the engine.

    python -m benchmarks.swaps [--swaps 20] [--kinds bare still series encoder llm] [--out FILE]

A real daemon on a real Mosquitto, messages flowing; a newer version of the model's bundle is put in place and SIGHUP
sent, again and again. Memory is the PSS of the daemon and its workers (smaps_rollup), read after each swap when the old
version is gone and `--messages` more messages were answered. `bare` is the baseline: a process that opens a new
InferenceSession in place of the old one, with ONNX Runtime as it comes; `still` is the daemon with the series model and
as many messages, and no swap. Counted beside it: messages sent and handled,
and whether the books balance. Exit status 1 when the memory grew by more than a tenth, or a message is missing.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.charts import line_chart
from benchmarks.speed.rig import broker, gateway, prepare_model, pss_mb
from tests.sim.gateway import Gateway, wait_until

RESULTS = Path(__file__).parent / "results" / "swaps.json"
PICTURE = Path(__file__).parents[1] / "docs" / "guides" / "pictures" / "model-swaps.svg"
_PATIENCE_S = 900.0  # a language model loads for minutes where nine others compute
_FIRST = 101  # the version of the first swap

_ROUTES = {
    "series": ("pumps", 'handler = "classify_series"\noptions = { model = "pumps", device = "topic" }'),
    "encoder": (
        "minilm-int8",
        'handler = "classify_text"\npayload = { format = "text" }\n[routes.r.options]\nmodel = "minilm-int8"\n'
        'max_cached_texts = 0\nlabels.heat.description = "too hot"\nlabels.motion.description = "vibration"\n'
        'labels.other.description = "normal operation"',
    ),
    "llm": (
        "gemma3-270m",
        'handler = "summarize_text"\npayload = { format = "text" }\nwindow = { max_messages = 4 }\n'
        'options = { model = "gemma3-270m", require_model = true, max_tokens_out = 32 }',
    ),
}
_CONFIG = """
[models]
dir = "{models}"
llm_threads = 1
[sinks.out]
type = "file"
path = "out.ndjson"
max_files = 2
[routes.r]
topics = ["bench/#"]
sinks = ["out"]
live = false
{route}
"""


def line_of(kind: str, number: int) -> str:
    """A payload; texts differ, so that each runs through the model."""
    if kind == "series":
        return json.dumps({"vibration": 2.0 + number % 5, "current": 7.0 + number % 7 / 10, "pressure": 4.2})
    return f"pump-{number % 9} bearing temperature {60 + number % 30}.{number % 10} after {number} s, part {number:x}"


class Flow:
    """Messages at QoS 1 for as long as it is open."""

    def __init__(self, kind: str, port: int, per_s: float) -> None:
        self._kind = kind
        self._pause_s = 1 / per_s
        command = ["mosquitto_pub", "-p", str(port), "-t", "bench/0", "-q", "1", "-l"]
        self._pub = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
        self.n_sent = 0

    def send(self, n: int) -> None:
        """That many, one after the other."""
        assert self._pub.stdin is not None
        for _ in range(n):
            self._pub.stdin.write(line_of(self._kind, self.n_sent) + "\n")
            self._pub.stdin.flush()
            self.n_sent += 1
            time.sleep(self._pause_s)

    def close(self) -> None:
        assert self._pub.stdin is not None
        self._pub.stdin.close()
        self._pub.wait(30)


def new_version(folder: Path, version: int) -> None:
    """The same files under another version, put in place at once as `write_bundle` does."""
    fresh, old = folder.with_name(".fresh"), folder.with_name(f".{folder.name}.old")
    shutil.copytree(folder, fresh, copy_function=os.link)
    lines = (fresh / "model.toml").read_text().splitlines()
    (fresh / "model.toml").unlink()
    named = [f'version = "{version}"' if line.startswith("version = ") else line for line in lines]
    (fresh / "model.toml").write_text("\n".join(named) + "\n")
    folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old)


def pids(one: Gateway) -> list[int]:
    """The daemon, and its workers."""
    assert one.process is not None
    found = [one.process.pid]
    for task in Path(f"/proc/{one.process.pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has just ended has no children left
            found += [int(pid) for pid in (task / "children").read_text().split()]
    return found


def memory_mb(one: Gateway) -> float:
    """PSS of all of them: the median of five looks."""
    looks = []
    for _ in range(5):
        looks.append(sum(pss_mb(pid) for pid in pids(one)))
        time.sleep(0.1)
    return statistics.median(looks)


def prepare(kind: str, models: Path) -> None:
    """The bundle, in a folder of our own."""
    from tests.sim.models import demo_models

    name = _ROUTES[kind][0]
    if kind == "series":
        prepare_model(models)
    else:
        shutil.copytree(demo_models(name) / name, models / name)


def run_daemon(kind: str, n_swaps: int, n_messages: int, folder: Path, *, still: bool = False) -> dict[str, Any]:
    """Swap and look; `still`: look as often, and swap nothing."""
    models = folder / "models"
    prepare(kind, models)
    name, route = _ROUTES[kind]
    n_processes = 2 if kind == "llm" else 1
    with broker(folder / "broker") as mosquitto:
        text = _CONFIG.format(models=models, route=route)
        with gateway(folder / "gateway", mosquitto.port, text) as one:
            wait_until(lambda: one.get("/status")["routes"]["r"]["state"] == "running", _PATIENCE_S, one.describe)
            flow = Flow(kind, mosquitto.port, 20.0 if kind == "llm" else 200.0)
            flow.send(n_messages)
            seconds, sizes = [], [memory_mb(one)]
            for version in range(_FIRST, _FIRST + n_swaps):
                if not still:
                    new_version(models / name, version)
                    seconds.append(_swapped(one, name, str(version), flow))
                wait_until(lambda: len(pids(one)) == n_processes, _PATIENCE_S, one.describe)
                flow.send(n_messages)
                sizes.append(memory_mb(one))
                print(f"  {kind} {version}: {sizes[-1]:.1f} MB", file=sys.stderr)
            flow.close()
            wait_until(lambda: _n_done(one) >= flow.n_sent - 3, _PATIENCE_S, one.describe)
            one.stop()
            books = one.books()
            line = books.messages["r"]
            return {
                "subject": f"gatewayd, {kind}" + (", no swap" if still else ""),
                "sizes_mb": [round(size, 2) for size in sizes],
                "swap_s": 0.0 if still else round(statistics.median(seconds), 2),
                "sent": flow.n_sent,
                "lost": flow.n_sent - line["received"],
                "buried": line["dead"],
                "books_balance": books.balanced,
            }


def _n_done(one: Gateway) -> int:
    """A window that is not full stays in the journal."""
    line = one.books().messages.get("r", {})
    return int(line.get("handled", 0)) + int(line.get("dead", 0)) + int(line.get("journaled", 0))


def _swapped(one: Gateway, name: str, version: str, flow: Flow) -> float:
    """Seconds until the new version answers, messages flowing all the time."""
    assert one.process is not None
    began_s = time.monotonic()
    one.process.send_signal(signal.SIGHUP)
    while one.get("/status")["models"][name]["version"] != version:
        flow.send(5)
        assert time.monotonic() - began_s < _PATIENCE_S, one.describe()
    took_s = time.monotonic() - began_s
    wait_until(lambda: one.get("/status")["models"][name]["swaps"] > int(version) - _FIRST, _PATIENCE_S, one.describe)
    return took_s


def bare(path: Path, n_swaps: int, n_runs: int, results: Any) -> None:
    """In a process of its own: what a program does that knows of nothing better."""
    import onnxruntime

    from benchmarks.onnx_soak import encoder_calls, series_calls

    make = series_calls if path.name == "series.onnx" else encoder_calls
    sizes = []
    for _ in range(n_swaps + 1):
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        call = make(session)
        for _ in range(n_runs):
            call()
        sizes.append(pss_mb(os.getpid()))
    results.put(sizes)


def run_bare(kind: str, n_swaps: int, n_runs: int, folder: Path) -> dict[str, Any]:
    """The baseline's row."""
    from benchmarks.onnx_soak import series_file
    from tests.sim.models import demo_models

    folder.mkdir()
    path = series_file(folder)
    if kind == "encoder":
        path = next((demo_models("minilm-int8") / "minilm-int8").glob("*.onnx"))
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    process = context.Process(target=bare, args=(path, n_swaps, n_runs, results))
    process.start()
    sizes = results.get(timeout=3600)
    process.join()
    return {"subject": f"bare onnxruntime, {kind}", "sizes_mb": [round(size, 2) for size in sizes]}


def growth(row: dict[str, Any]) -> float:
    """Of the last swap over the first, in per cent."""
    sizes = row["sizes_mb"]
    return 100 * (sizes[-1] / sizes[1] - 1)


def show(rows: Sequence[dict[str, Any]]) -> None:
    print(f"{'subject':26} {'start':>9} {'1 swap':>9} {'last':>9} {'growth':>8}", end="")
    print(f" {'swap':>7} {'sent':>7} {'lost':>5} {'dead':>5}  books balance")
    for row in rows:
        sizes = "".join(f" {row['sizes_mb'][index]:6.1f} MB" for index in (0, 1, -1))
        rest = ""
        if "sent" in row:
            counts = f"{row['sent']:7} {row['lost']:5} {row['buried']:5}"
            rest = f"{row['swap_s']:5.2f} s {counts}  {row['books_balance']}"
        print(f"{row['subject']:26}{sizes} {growth(row):+6.1f} % {rest}")


def is_good(row: dict[str, Any]) -> bool:
    """Within a tenth of the memory after the first swap, and every message answered."""
    return growth(row) <= 10 and row["lost"] == row["buried"] == 0 and row["books_balance"]


@contextlib.contextmanager
def _folder(kind: str) -> Any:
    with tempfile.TemporaryDirectory(prefix=f"gatewayd-swaps-{kind}-") as folder:
        yield Path(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--messages", type=int, default=60, help="between two swaps")
    parser.add_argument("--kinds", nargs="+", default=["bare", "still", "series", "encoder", "llm"])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    args = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    for kind in args.kinds:
        with _folder(kind) as folder:
            if kind == "bare":
                rows += [run_bare(one, args.swaps, args.messages, folder / one) for one in ("series", "encoder")]
            elif kind == "still":
                rows.append(run_daemon("series", args.swaps, args.messages, folder, still=True))
            else:
                n_messages = 8 if kind == "llm" else args.messages
                rows.append(run_daemon(kind, args.swaps, n_messages, folder))
        show(rows[-1:])
    show(rows)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(rows) + "\n")
    title = "Memory (PSS) of the daemon and its workers after each swap of its model"
    lines = {
        f"{row['subject']}: {growth(row):+.1f} % from the first swap to the last": list(enumerate(row["sizes_mb"]))
        for row in rows
    }
    args.picture.parent.mkdir(parents=True, exist_ok=True)
    args.picture.write_text(line_chart(title, "swaps", "MB", lines))
    ours = [row for row in rows if "sent" in row]
    return (
        0
        if all(growth(row) <= 10 and row["lost"] == row["buried"] == 0 and row["books_balance"] for row in ours)
        else 1
    )


if __name__ == "__main__":
    sys.exit(main())
