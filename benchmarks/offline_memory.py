"""How much memory a long outage takes: results stored while no sink takes any, the spool alone.

    python -m benchmarks.offline_memory [--rows 1000000] [--group 64] [--rate 20000] [--dir FOLDER] [--json]

Prints the resident memory before, along the way and at the end, what the allocators hold of it, and what was written
for each result. Exit status 1 when it grew by more than 10 MB.
"""

import argparse
import asyncio
import ctypes
import gc
import json
import sys
import tempfile
import time
from pathlib import Path

import apsw

from benchmarks.give_back import disk_bytes, work
from gatewayd.clock import SystemClock
from gatewayd.config import schema
from gatewayd.spool import SqliteSpool

_GOAL_MB = 10.0
_WARM_ROWS = 2_000  # the first group makes what every other one uses again
_PAGE_BYTES = 4096


def resident_mb() -> float:
    """VmRSS of this process. Source: proc(5)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES / 1e6


def trimmed_mb() -> float:
    """The same, after the C library has given back what it holds free: what is left is in use."""
    ctypes.CDLL(None).malloc_trim(0)
    return resident_mb()


async def measure(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Fill, and look."""
    config = schema.Spool(max_bytes=4_000_000_000)
    spool = SqliteSpool.open(
        folder / "spool.db", routes={"pumps": ["cloud"]}, policies={}, config=config, clock=SystemClock()
    )
    async with spool:
        await store(spool, 0, _WARM_ROWS, args)
        gc.collect()
        began_mb, began_s = resident_mb(), time.monotonic()
        along: list[tuple[int, float]] = []
        step = max(args.group, args.rows // 10)
        for first in range(0, args.rows, step):
            await store(spool, _WARM_ROWS + first, min(step, args.rows - first), args)
            along.append((first + step, round(resident_mb() - began_mb, 1)))
        seconds = time.monotonic() - began_s
        ended_mb = resident_mb()
        sqlite_mb = apsw.memory_used() / 1e6
        gc.collect()
        return {
            "rows": args.rows,
            "per_s": round(args.rows / seconds),
            "began_mb": round(began_mb, 1),
            "delta_mb": round(ended_mb - began_mb, 1),
            "delta_trimmed_mb": round(trimmed_mb() - began_mb, 1),
            "sqlite_mb": round(sqlite_mb, 1),
            "along_mb": along,
            "disk_bytes_per_row": round(disk_bytes(folder) / args.rows),
            "written_bytes_per_row": round(spool.written_bytes / args.rows),
        }


async def store(spool: SqliteSpool, first: int, n: int, args: argparse.Namespace) -> None:
    """Store `n` results in works of `group`, `rate` a second; a few works are under way at once."""
    began_s = time.monotonic()
    waiting = []
    for done in range(0, n, args.group):
        waiting.append(spool.submit(work(first + done, min(args.group, n - done))))
        if len(waiting) >= 8:
            for future in waiting:
                await future
            waiting.clear()
            await asyncio.sleep(max(0.0, began_s + done / args.rate - time.monotonic()))
    for future in waiting:
        await future


def main() -> int:
    """One run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--group", type=int, default=64, help="results in one work")
    parser.add_argument("--rate", type=float, default=20_000.0, help="results a second, at most")
    parser.add_argument("--dir", default=None, help="folder on the disk to measure")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gatewayd-memory-", dir=args.dir) as folder:
        found = asyncio.run(measure(args, Path(folder)))
    print(json.dumps(found) if args.json else "\n".join(f"{name:22} {value}" for name, value in found.items()))
    return 0 if float(str(found["delta_mb"])) <= _GOAL_MB else 1


if __name__ == "__main__":
    sys.exit(main())
