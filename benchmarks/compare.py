"""Whether a change made anything slower: two results of `make bench`, row by row.

    python -m benchmarks.compare OLD.json NEW.json [--tolerance 0.1]

Rows are compared by their ratio to the baseline of their own run where they have one, for the machine may have changed
its speed in between, else by their value. A line begins with `!` when a row is worse by more than the tolerance, or
does not reach any more what it reached; exit status 1 when there is one. 2: a file is no result of `make bench`.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_LESS_IS_BETTER = ("ms", "s", "MB", "µs", "µs/msg", "bytes/msg")
# Below this a difference is no news: memory comes in pages and arenas, and a growth may be less than nothing.
_LEAST = {"MB": 5.0}

Row = Mapping[str, Any]


def compare(old: Row, new: Row) -> float:
    """How many times as good the new row is: 1 is as good, below it is worse."""
    is_ratio = old.get("ratio") is not None and new.get("ratio") is not None
    least = 0.0 if is_ratio else _LEAST.get(new["unit"], 0.0)
    before, after = (max(least, float(row["ratio"] if is_ratio else row["value"])) for row in (old, new))
    if not before or not after:
        return 1.0
    return before / after if new["unit"] in _LESS_IS_BETTER else after / before


def compared(old: Path, new: Path, tolerance: float) -> Iterator[str]:
    """A line for each row; those that are worse begin with `!`. Raises ValueError for what is no list of rows."""
    earlier, later = ({_name(row): row for row in _rows(file)} for file in (old, new))
    for name, row in later.items():
        before = earlier.get(name)
        if before is None:
            yield f"  new      {name}"
            continue
        factor = compare(before, row)
        is_lost = before["ok"] is True and row["ok"] is False
        mark = "!" if factor < 1 - tolerance or is_lost else " "
        lost = f", not {row['reach']} any more" if is_lost else ""
        yield f"{mark} x {factor:5.2f}  {name}: {before['value']:g} -> {row['value']:g} {row['unit']}{lost}"
    for name in earlier.keys() - later.keys():
        yield f"  gone     {name}"


_FIELDS = {"id", "what", "value", "unit", "baseline", "ratio", "reach", "ok"}


def _rows(file: Path) -> list[Row]:
    rows: list[Row] = json.loads(file.read_text())
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.keys() >= _FIELDS for row in rows):
        raise ValueError(f"{file} is no result of `make bench`")
    return rows


def _name(row: Row) -> str:
    """What stays the same from run to run: without the figures that a baseline's name ends in."""
    beside = str(row["baseline"]).split(",", 1)[0]
    return f"{row['id']} {row['what']}" + (f" beside {beside}" if beside else "")


def main() -> int:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--tolerance", type=float, default=0.1, help="by so much a row may be worse: 0.1 is a tenth")
    args = parser.parse_args()
    try:
        lines = list(compared(args.old, args.new, args.tolerance))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(*lines, sep="\n")
    return 1 if any(line.startswith("!") for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
