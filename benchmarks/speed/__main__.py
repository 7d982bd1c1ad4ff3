"""All figures of the table, each beside its baseline, in under 15 minutes on two cores.

    python -m benchmarks.speed [--only 1,2] [--no-write]

Needs Debian's mosquitto and mosquitto-clients; Node-RED comes from npm where node is. Nothing else should run.
Exit status 1 when a figure is not reached.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.speed import backlog, footprint, growth, latency, models, offline, report, shared, store, throughput
from benchmarks.speed.rig import have
from benchmarks.speed.rows import Row, number

_HALF_OF_NOTHING = 5000.0  # msg/s of figure 4 when figure 1 was not asked for


def main() -> int:
    """Run what was asked for, print rows as they come."""
    args = _arguments()
    if not (have("mosquitto_pub") and have("mosquitto_sub")):
        print("mosquitto-clients is not installed: apt install mosquitto mosquitto-clients", file=sys.stderr)
        return 2
    rows: list[Row] = []
    pictures: list[Path] = []
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gatewayd-bench-") as folder:
        for name, figure in _figures(rows).items():
            if args.only and not set(name.split()) & set(args.only.split(",")):
                continue
            print(f"[{time.monotonic() - began_s:5.0f} s] figure {figure.__doc__}", file=sys.stderr, flush=True)
            inner = Path(folder) / name.replace(" ", "-")
            inner.mkdir()
            for row in _taken(name, figure, inner):
                rows.append(row)
                print(_said(row), flush=True)
            pictures += inner.glob("*.svg")
        if not args.no_write:
            print(*report.write(rows, pictures), sep="\n", file=sys.stderr)
    return 1 if any(row.ok is False for row in rows) else 0


def _taken(name: str, figure: Callable[[Path], Iterator[Row]], folder: Path) -> Iterator[Row]:
    """The figure's rows; where it cannot be taken to its end, a row that says so, and the others are taken."""
    try:
        yield from figure(folder)
    except (subprocess.SubprocessError, AssertionError, OSError, RuntimeError) as error:
        print(error, file=sys.stderr, flush=True)
        what = f"not measured: {type(error).__name__}"
        yield Row(id=name.split(maxsplit=1)[0], what=what, value=0, unit="", reach="measured", ok=False)


def _figures(rows: list[Row]) -> dict[str, Callable[[Path], Iterator[Row]]]:
    def beside_load(folder: Path) -> Iterator[Row]:
        """4: the same beside half of figure 1's rate."""
        most = next((row.value for row in rows if row.id == "1"), 2 * _HALF_OF_NOTHING)
        return latency.under_load(folder, most / 2)

    return {
        "1": throughput.live,
        "2 5": throughput.durable,
        "3": latency.at_rest,
        "4": beside_load,
        "6": store.spool,
        "7": backlog.backlog,
        "8": offline.offline,
        "9 10": footprint.footprint,
        "11": growth.growth,
        "12": shared.shared,
        "13": models.series,
        "14": models.text,
    }


def _said(row: Row) -> str:
    beside = f"; {number(row.ratio)} x {row.baseline}" if row.ratio is not None else ""
    verdict = {None: "", True: f" ({row.reach})", False: f" (NOT REACHED: {row.reach})"}[row.ok]
    return f"{row.id:4} {row.what}: {number(row.value)} {row.unit}{beside}{verdict}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="figures, e.g. 1,2")
    parser.add_argument("--no-write", action="store_true", help="leave benchmarks/results alone")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
