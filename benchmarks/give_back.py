"""How fast the spool gives disk back after a drain while messages keep coming, and what that costs those who wait.

    python -m benchmarks.give_back [--mb 200] [--rate 200] [--watch 60] [--dir FOLDER] [--json]

Fills the spool with results while no sink takes any, then drains it while `--rate` messages a second keep coming, each
committed alone, as a device's would be. Twice: with giving back, and with it switched off, for comparison. Exit status
1 when the files are not at 10 % of their peak within a minute of the drain's end.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from gatewayd.clock import SystemClock
from gatewayd.config import schema
from gatewayd.ports import NewResult, Work
from gatewayd.spool import SqliteSpool, idle

_ROUTE, _SINK = "pumps", "cloud"
_DATA = b'{"label":"ok","score":0.987654,"model":"pump-health","model_version":"3","tier":"edge","latency_ms":1.25}' * 2
_GOAL, _WITHIN_S = 0.1, 60.0
_GROUP = 256
_LOOK_S = 0.5


def work(first: int, n: int) -> Work:
    """Results as a direct route makes them."""
    now = time.time()
    made = [
        NewResult(key=f"{key:032x}", kind="classification", subject="plant/pump/7", time=now, data=_DATA)
        for key in range(first, first + n)
    ]
    return Work(route=_ROUTE, received=n, handled=n, results=made)


def disk_bytes(folder: Path) -> int:
    """The database and its WAL, without the ballast."""
    return sum(file.stat().st_size for file in folder.glob("spool.db*") if file.suffix != ".lock")


class Run:
    """One fill, drain and wait."""

    def __init__(self, folder: Path, spool: SqliteSpool, rate: float) -> None:
        self._folder = folder
        self._spool = spool
        self._rate = rate
        self._next_key = 0
        self.sizes: list[tuple[float, int]] = []  # seconds since the drain began, bytes
        self.latencies_ms: dict[str, list[float]] = {"before": [], "drain": [], "after": []}
        self._phase = "before"

    async def fill(self, n_bytes: int) -> int:
        """Store results until the file has its size; how many."""
        waiting: list[asyncio.Future[Sequence[int]]] = []
        while disk_bytes(self._folder) < n_bytes:
            waiting.append(self._spool.submit(work(self._next_key, _GROUP)))
            self._next_key += _GROUP
            if len(waiting) >= 16:
                for future in waiting:
                    await future
                waiting.clear()
        for future in waiting:
            await future
        return self._next_key

    async def messages(self) -> None:
        """One at a time, `rate` a second, until cancelled."""
        due_s = time.monotonic()
        while True:
            due_s += 1 / self._rate
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            began_s = time.perf_counter()
            await self._spool.commit(work(self._next_key, 1))
            self._next_key += 1
            self.latencies_ms[self._phase].append(1000 * (time.perf_counter() - began_s))

    async def drain(self) -> float:
        """Take everything that waits; seconds."""
        began_s = time.monotonic()
        self._phase = "drain"
        while (lease := await self._spool.try_lease(_SINK, _ROUTE, limit=256, max_bytes=1 << 19)) is not None:
            await self._spool.ack(lease, refused={})
            if len(lease.results) < 64:  # what has come in since: the backlog is gone
                break
        self._phase = "after"
        return time.monotonic() - began_s

    async def deliver(self) -> None:
        """What keeps coming, until cancelled."""
        while True:
            lease = await self._spool.lease(_SINK, _ROUTE, limit=256, max_bytes=1 << 19)
            await self._spool.ack(lease, refused={})

    async def watch(self, began_s: float, n_s: float) -> None:
        """Look at the size of the files."""
        while (at_s := time.monotonic() - began_s) < n_s:
            self.sizes.append((at_s, disk_bytes(self._folder)))
            await asyncio.sleep(_LOOK_S)


async def measure(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Fill, wait, drain, watch."""
    config = schema.Spool(max_bytes=4 * args.mb * 1_000_000)
    routes = {_ROUTE: [_SINK]}
    spool = SqliteSpool.open(folder / "spool.db", routes=routes, policies={}, config=config, clock=SystemClock())
    async with spool:
        run = Run(folder, spool, args.rate)
        n_rows = await run.fill(args.mb * 1_000_000)
        async with asyncio.TaskGroup() as tasks:
            coming = tasks.create_task(run.messages(), name="messages")
            await asyncio.sleep(5.0)
            peak = disk_bytes(folder)
            drain_s = await run.drain()
            delivering = tasks.create_task(run.deliver(), name="deliver")
            await run.watch(time.monotonic(), args.watch)
            coming.cancel()
            delivering.cancel()
    reached = next((at_s for at_s, size in run.sizes if size <= _GOAL * peak), None)
    every = max(1, len(run.sizes) // 8)
    return {
        "n_rows": n_rows,
        "peak_mb": round(peak / 1e6, 1),
        "drain_s": round(drain_s, 1),
        "end_mb": round(run.sizes[-1][1] / 1e6, 2),
        "to_10_percent_s": None if reached is None else round(reached, 1),
        "sizes_mb": [(round(at_s, 1), round(size / 1e6, 1)) for at_s, size in run.sizes[::every]],
        "commit_ms": {phase: percentiles(values) for phase, values in run.latencies_ms.items()},
    }


def percentiles(values: list[float]) -> dict[str, float]:
    """p50, p95, p99 and the largest, in milliseconds."""
    if len(values) < 2:
        return {}
    cuts = statistics.quantiles(values, n=100)
    names = {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "max": max(values)}
    return {name: round(value, 2) for name, value in names.items()}


def main() -> int:
    """Both runs, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=200, help="fill the spool to this size")
    parser.add_argument("--rate", type=float, default=200.0, help="messages a second that keep coming")
    parser.add_argument("--watch", type=float, default=_WITHIN_S, help="seconds to look on after the drain")
    parser.add_argument("--dir", default=None, help="folder on the disk to measure")
    parser.add_argument("--json", action="store_true", help="one JSON line for each run")
    args = parser.parse_args()
    is_good = True
    for gives_back in (True, False):
        if not gives_back:
            idle._WORTH_PAGES = sys.maxsize  # nothing is ever worth it
        with tempfile.TemporaryDirectory(prefix="gatewayd-give-back-", dir=args.dir) as folder:
            found = {"gives_back": gives_back, "cpus": os.cpu_count(), **asyncio.run(measure(args, Path(folder)))}
        print(json.dumps(found) if args.json else "\n".join(f"{name:16} {value}" for name, value in found.items()))
        sys.stdout.flush()
        is_good &= not gives_back or found["to_10_percent_s"] is not None
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
