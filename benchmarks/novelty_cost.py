"""What the novelty guard adds to a message, in microseconds: medians, in batches of 1 and of 64.

    python -m benchmarks.novelty_cost

Once with numpy's own threads and once with one, as in `gatewayd run`: on a box whose cores are busy a product of small
matrices on several threads waits for a core far longer than it computes. Run by `benchmarks.cascade_quality`, too.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

THREADS = "OPENBLAS_NUM_THREADS"
N_PROTOTYPES, N_DIMENSIONS, WINDOW, N_FIELDS = 256, 384, 60, 2
ROUNDS = 200


def measured() -> dict[str, Any]:
    """Both settings, each in a process of its own: numpy reads the setting when it is imported."""
    plain = {name: value for name, value in os.environ.items() if name != THREADS}
    return {"one thread": _child({**plain, THREADS: "1"}), "threads of numpy's choice": _child(plain)}


def _child(environment: Mapping[str, str]) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.novelty_cost", "--child"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _costs() -> dict[str, float]:
    import numpy as np

    from gatewayd_handlers.novelty import NoveltyGuard
    from gatewayd_handlers.novelty import statistics as points_of

    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(N_PROTOTYPES + 64, N_DIMENSIONS)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    windows = draw.normal(size=(64 + N_PROTOTYPES, WINDOW, N_FIELDS)).astype(np.float32)

    def guard(points: Any) -> NoveltyGuard:
        flat = np.zeros((1, points.shape[1])), np.ones((1, points.shape[1]))
        return NoveltyGuard("m", np.concatenate([*flat, points[64:]]).astype(np.float32), 1.0)

    of_texts, of_windows = guard(vectors), guard(points_of(windows))
    found = {}
    for size in (1, 64):
        found[f"text, batch of {size}"] = _median_us(lambda n=size: of_texts.of(vectors[:n]), size)  # type: ignore[misc]
        found[f"window, batch of {size}"] = _median_us(
            lambda n=size: of_windows.of(points_of(windows[:n])),  # type: ignore[misc]
            size,
        )
    return found


def _median_us(call: Callable[[], Any], size: int) -> float:
    call()
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return round(statistics.median(took) / size * 1e6, 2)


def main() -> None:
    """Print JSON."""
    print(json.dumps(_costs() if sys.argv[1:] == ["--child"] else measured(), indent=1))


if __name__ == "__main__":
    main()
