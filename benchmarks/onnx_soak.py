"""Does the installed ONNX Runtime leak? Figure 7b of the engine.

    python -m benchmarks.onnx_soak [--series 200000] [--encoder 4000] [--out FILE]

Each line is a process of its own: one session, loaded as gatewayd loads it (or with other settings, for comparison),
one thread, one arena of the C library as the daemon has it. The series model takes batches of 1 to 8 windows, the text
encoder texts of 4 to 128 tokens, both drawn anew each time, for it is new shapes that leaks were reported for. Resident
memory (statm) is read a hundred times; the slope is a line of least squares through the last nine tenths, with twice
its standard error. Flat: what the line adds over the whole soak is less than 1 % of the resident memory.
"""

import argparse
import json
import multiprocessing
import platform
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.charts import line_chart

RESULTS = Path(__file__).parent / "results" / "onnx_soak.json"
PICTURE = Path(__file__).parents[1] / "docs" / "guides" / "pictures" / "onnx-soak.svg"
_N_LOOKS = 100
_WARM = 0.1
_MIB = 1 << 20
_WINDOW, _N_FIELDS = 64, 3

# What gatewayd sets comes first; the others are what people set when they look for a leak.
SETTINGS: dict[str, dict[str, bool]] = {
    "as gatewayd loads it": {},
    "arena on": {"enable_cpu_mem_arena": True},
    "arena off": {"enable_cpu_mem_arena": False},
    "arena off, pattern off": {"enable_cpu_mem_arena": False, "enable_mem_pattern": False},
}


def series_file(folder: Path) -> Path:
    """A series model as `gatewayd models fit` makes them: features, a small net, probabilities."""
    import numpy as np

    from gatewayd.models.fit_graph import FEATURES, Dense, Head, series_model

    draw = np.random.default_rng(0)
    n = _N_FIELDS * len(FEATURES)
    sizes = [(n, 64), (64, 4)]
    layers = tuple(Dense(draw.normal(size=s).astype(np.float32), np.zeros(s[1], np.float32)) for s in sizes)
    head = Head(np.zeros(n, np.float32), np.ones(n, np.float32), layers, "softmax")
    path = folder / "series.onnx"
    path.write_bytes(series_model(_WINDOW, _N_FIELDS, head).SerializeToString())
    return path


def open_session(path: Path, settings: dict[str, bool]) -> Any:
    """A session as gatewayd.runtimes.onnx makes it, but for `settings`."""
    import onnxruntime

    from gatewayd.runtimes.onnx import _settings

    options = _settings(onnxruntime, 1)
    for name, value in settings.items():
        setattr(options, name, value)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def series_calls(session: Any) -> Callable[[], None]:
    """One call: a batch of windows of any size."""
    import numpy as np

    name = session.get_inputs()[0].name
    windows = np.random.default_rng(1).normal(size=(8, _WINDOW, _N_FIELDS)).astype(np.float32)
    draw = random.Random(2)

    def call() -> None:
        session.run(None, {name: windows[: draw.randint(1, 8)]})

    return call


def encoder_calls(session: Any) -> Callable[[], None]:
    """One call: a text of any length."""
    import numpy as np

    draw = random.Random(3)
    names = [node.name for node in session.get_inputs()]

    def call() -> None:
        n = draw.randint(4, 128)
        ids = np.array([[draw.randint(1000, 20000) for _ in range(n)]], np.int64)
        rows = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        session.run(None, {name: rows[name] for name in names})

    return call


def soak(kind: str, path: Path, settings: dict[str, bool], n_runs: int, results: Any) -> None:
    """In a process of its own: run, and look at the memory."""
    from gatewayd.memory import resident_bytes, share_one_arena

    share_one_arena()
    session = open_session(path, settings)
    call = series_calls(session) if kind == "series" else encoder_calls(session)
    call()
    looks = [(0, resident_bytes())]
    every = max(1, n_runs // _N_LOOKS)
    for number in range(1, n_runs + 1):
        call()
        if number % every == 0:
            looks.append((number, resident_bytes()))
    results.put(looks)


def slope(looks: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Bytes a thousand runs, and twice its standard error (ordinary least squares)."""
    kept = looks[int(len(looks) * _WARM) :]
    xs, ys = [x / 1000 for x, _ in kept], [float(y) for _, y in kept]
    mean_x = statistics.fmean(xs)
    line = statistics.linear_regression(xs, ys)
    rest = sum((y - line.intercept - line.slope * x) ** 2 for x, y in zip(xs, ys, strict=True))
    error = (rest / max(1, len(xs) - 2) / sum((x - mean_x) ** 2 for x in xs)) ** 0.5
    return line.slope, 2 * error


def run_one(kind: str, name: str, path: Path, n_runs: int) -> dict[str, Any]:
    """One soak as a row."""
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    process = context.Process(target=soak, args=(kind, path, SETTINGS[name], n_runs, results))
    process.start()
    looks = results.get(timeout=3600)
    process.join()
    per_1000, error = slope(looks)
    last = looks[-1][1]
    added = per_1000 * n_runs / 1000
    return {
        "model": kind,
        "settings": name,
        "runs": n_runs,
        "first_bytes": looks[0][1],
        "warm_bytes": looks[int(len(looks) * _WARM)][1],
        "last_bytes": last,
        "bytes_per_1000_runs": round(per_1000, 1),
        "error": round(error, 1),
        "is_flat": abs(added) < 0.01 * last,
        "looks": looks,
    }


def show(rows: Sequence[dict[str, Any]]) -> None:
    print(f"{'model':8} {'settings':24} {'runs':>7} {'warm':>9} {'last':>9} {'bytes a 1000 runs':>24}  flat")
    for row in rows:
        sizes = f"{row['warm_bytes'] / _MIB:6.1f} MB {row['last_bytes'] / _MIB:6.1f} MB"
        line = f"{row['bytes_per_1000_runs']:12.1f} ± {row['error']:8.1f}"
        print(f"{row['model']:8} {row['settings']:24} {row['runs']:7} {sizes} {line:>24}  {row['is_flat']}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=200_000)
    parser.add_argument("--encoder", type=int, default=4_000)
    parser.add_argument("--others", type=float, default=0.25, help="share of the runs that the other settings get")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    args = parser.parse_args(arguments)
    import onnxruntime

    from tests.sim.models import demo_models

    encoder = next((demo_models("minilm-int8") / "minilm-int8").glob("*.onnx"))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="gatewayd-soak-") as folder:
        series = series_file(Path(folder))
        for kind, path, n_runs in (("series", series, args.series), ("encoder", encoder, args.encoder)):
            for index, name in enumerate(SETTINGS):
                rows.append(run_one(kind, name, path, int(n_runs * (args.others if index else 1))))
    show(rows)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    versions = {"onnxruntime": onnxruntime.__version__, "python": platform.python_version()}
    args.out.write_text(json.dumps({"versions": versions, "rows": rows}) + "\n")
    ours = [row for row in rows if row["settings"] == next(iter(SETTINGS))]
    lines = {
        f"{row['model']}: {row['bytes_per_1000_runs']:+.0f} ± {row['error']:.0f} bytes a 1,000 runs": [
            (100 * n / row["runs"], size / _MIB) for n, size in row["looks"]
        ]
        for row in ours
    }
    title = f"Resident memory over {args.series:,} runs (series) and {args.encoder:,} (encoder)"
    args.picture.parent.mkdir(parents=True, exist_ok=True)
    args.picture.write_text(line_chart(title, "per cent of the runs", "MB", lines))
    return 0 if all(row["is_flat"] for row in ours) else 1


if __name__ == "__main__":
    sys.exit(main())
