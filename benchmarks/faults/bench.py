"""What every case gets: a folder, the seed, the size asked for, and a place to say what it is doing."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.sim.oracle import Line

_STARTED = time.monotonic()


@dataclass(frozen=True)
class Run:
    """One call of the benchmark."""

    folder: Path
    seed: int
    is_long: bool = False

    def size(self, quick: int, long: int) -> int:
        """The quick form's figure or the long form's."""
        return long if self.is_long else quick

    def say(self, text: str) -> None:
        """Progress, on stderr: the lines go to stdout."""
        print(f"[{time.monotonic() - _STARTED:6.1f} s] {text}", file=sys.stderr, flush=True)


Case = Callable[[Run], Iterator[Line]]

_COLUMNS = (
    "test",
    "subject",
    "faults",
    "sent",
    "acked",
    "lost",
    "duplicates",
    "resent",
    "phantom",
    "corrupt",
    "evicted",
)
_MORE = ("out_of_order", "recovery_s", "peak_rss_mb", "holds")


def table(lines: Iterable[Line]) -> str:
    """All cases below each other, for a person."""
    rows = [[*_COLUMNS, *_MORE]]
    for line in lines:
        holds = "-" if line.is_compared else "yes" if line.holds else "NO"
        values = [getattr(line, name) for name in (*_COLUMNS, *_MORE[:-1])]
        rows.append([*("" if value is None else str(value) for value in values), holds])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    cells = (
        [
            cell.ljust(width) if at < 2 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    )
    return "\n".join("  ".join(row).rstrip() for row in cells)
