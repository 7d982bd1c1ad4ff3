"""Figures of a part that uses the spool in its own process: memory, bytes written, the longest WAL.

Memory is that of the whole part, oracle included; bytes written are those that reached the kernel's block layer.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.sim.oracle import Line
from tests.sim.rig import bytes_written, status_kb

_LOOK_S = 0.1
_MIB = 1024 * 1024


@contextmanager
def figures(folder: Path, line: Line) -> Iterator[None]:
    """Fill the line's figures with those of what happens within; `line.acked` is to be set by then."""
    folder.mkdir(parents=True, exist_ok=True)
    is_over = threading.Event()
    longest = [0]

    def look() -> None:
        while not is_over.wait(_LOOK_S):
            longest[0] = max(longest[0], _longest_wal(folder))

    watch = threading.Thread(target=look, name="watch", daemon=True)
    before = bytes_written(os.getpid())
    watch.start()
    try:
        yield
    finally:
        is_over.set()
        watch.join()
        line.peak_rss_mb = round(status_kb(os.getpid(), "VmHWM") / 1024, 1)
        line.max_wal_mb = round(longest[0] / _MIB, 2)
        line.bytes_written_per_msg = round((bytes_written(os.getpid()) - before) / max(1, line.acked), 1)


def _longest_wal(folder: Path) -> int:
    longest = 0
    for place, _, names in os.walk(folder):
        for name in names:
            if name.endswith("-wal"):
                try:
                    longest = max(longest, os.stat(os.path.join(place, name)).st_size)
                except FileNotFoundError:
                    continue
    return longest
