"""Figure 7: a backlog of 200,000 results goes to an HTTP cloud on this machine, and what is live meanwhile.

Three rounds of `benchmarks.drain_latency` in the order that is the default: calm, outage, drain, each with a gateway of
its own. The ratio is drain to calm of one round, for both saw the same machine.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.drain_latency import measure
from benchmarks.speed.rows import Row, Taken

_N_ROUNDS = 3  # of 40 s
_MAX_BATCH = 64  # results a request: of 256 each piece of work is so long that what is live waits for it (1.4 to 2.0 x)
_N_RESULTS = 200_000
_PROBED_S, _PROBES_PER_S = 6.0, 100.0  # shorter than the drain, at 20,000 a second too
_LEAST_PER_S, _MOST_RATIO = 10_000, 1.2


def backlog(folder: Path) -> Iterator[Row]:
    """7: results a second, and the live result's p95 beside the same without a drain."""
    lines = [_round(folder / str(number)) for number in range(_N_ROUNDS)]
    holds = all(_holds(line) for line in lines)
    rate = Taken(tuple(line["drained_per_s"] for line in lines))
    yield Row(
        id="7",
        what=f"backlog of {_N_RESULTS:,} results to an HTTP cloud here, {_MAX_BATCH} a request",
        value=rate.median,
        unit="results/s",
        reach=f">= {_LEAST_PER_S:,}",
        ok=holds and rate.median >= _LEAST_PER_S,
        spread=rate.spread,
    )
    drain = Taken(tuple(line["live_drain"]["p95_ms"] for line in lines))
    calm = Taken(tuple(line["live_calm"]["p95_ms"] for line in lines))
    ratio = drain.over(calm)
    yield Row(
        id="7a",
        what="publish -> live result during that drain, QoS 1, 100 msg/s, p95",
        value=drain.median,
        unit="ms",
        baseline=f"the same without a drain, {calm.median:.3g} ms",
        ratio=ratio,
        reach=f"<= {_MOST_RATIO}",
        ok=holds and ratio <= _MOST_RATIO,
        spread=drain.spread,
    )


def _round(folder: Path) -> dict[str, Any]:
    return measure(
        folder, "oldest_first", n_messages=_N_RESULTS, seconds=_PROBED_S, per_s=_PROBES_PER_S, max_batch=_MAX_BATCH
    )


def _holds(line: dict[str, Any]) -> bool:
    """Whether nothing was lost, and the drain outlasted the measuring beside it."""
    n_missing = sum(line[part]["n_missing"] for part in ("live_calm", "live_drain", "cloud_drain"))
    return bool(line["balanced"]) and line["n_left"] > 0 and n_missing == 0
