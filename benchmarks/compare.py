"""Whether a change made anything slower: two results of `make bench`, row by row.

    python -m benchmarks.compare OLD.json NEW.json [--tolerance 0.1]

Rows are compared by their ratio to the baseline of their own run where they have one, for the machine may have changed
its speed in between, else by their value. Exit status 1 when a row is worse by more than the tolerance.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_LESS_IS_BETTER = ("ms", "s", "MB", "µs", "µs/msg")


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> float:
    """How many times as good the new row is: 1 is as good, below it is worse."""
    is_ratio = old.get("ratio") is not None and new.get("ratio") is not None
    before, after = (float(row["ratio"] if is_ratio else row["value"]) for row in (old, new))
    if not before or not after:
        return 1.0
    return before / after if new["unit"] in _LESS_IS_BETTER else after / before


def worse(old: Path, new: Path, tolerance: float) -> Iterator[str]:
    """A line for each row; those that are worse begin with `!`."""
    earlier = {_name(row): row for row in json.loads(old.read_text())}
    for row in json.loads(new.read_text()):
        before = earlier.get(_name(row))
        if before is None:
            yield f"  new      {_name(row)}"
            continue
        factor = compare(before, row)
        mark = "!" if factor < 1 - tolerance else " "
        yield f"{mark} x {factor:5.2f}  {_name(row)}: {before['value']:g} -> {row['value']:g} {row['unit']}"


def _name(row: Mapping[str, Any]) -> str:
    beside = str(row["baseline"]).rsplit(",", 1)[0]  # without the figure of that run
    return f"{row['id']} {row['what']}" + (f" beside {beside}" if beside else "")


def main() -> int:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--tolerance", type=float, default=0.1)
    args = parser.parse_args()
    lines = list(worse(args.old, args.new, args.tolerance))
    print(*lines, sep="\n")
    return 1 if any(line.startswith("!") for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
