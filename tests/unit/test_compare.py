"""`benchmarks.compare` tells whether one result of `make bench` is worse than another."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.compare import compared
from benchmarks.speed.rows import Row

LIVE = Row(id="1b", what="live", value=24_000, unit="msg/s", baseline="bare loop, 68,943 msg/s", ratio=0.36)
GROWTH = Row(id="8", what="growth of RSS", value=0.4, unit="MB", reach="<= 10", ok=True)
DISK = Row(id="8a", what="disk", value=229, unit="bytes/msg", baseline="the result's bytes, 193", ratio=1.19, ok=True)
DRAIN = Row(id="7a", what="live p95", value=5.2, unit="ms", baseline="without a drain, 4.5 ms", ratio=1.15, ok=True)


def written(file: Path, *rows: Row, **changed: Any) -> Path:
    """A result file with these rows, the first of them changed."""
    first, *others = (row.as_dict() for row in rows)
    file.write_text(json.dumps([first | changed, *others]))
    return file


def lines(folder: Path, rows: Sequence[Row], **changed: Any) -> list[str]:
    """Of these rows against the same ones with the first changed."""
    old = written(folder / "old.json", *rows)
    return list(compared(old, written(folder / "new.json", *rows, **changed), 0.1))


def test_the_same_rows_are_as_good(tmp_path: Path) -> None:
    assert not [line for line in lines(tmp_path, [LIVE, GROWTH, DISK, DRAIN]) if line.startswith("!")]


def test_a_slower_machine_is_no_slower_program(tmp_path: Path) -> None:
    (line,) = lines(tmp_path, [LIVE], value=12_000, baseline="bare loop, 34,000 msg/s")

    assert line.startswith("  x  1.00")


def test_a_lower_ratio_is_worse(tmp_path: Path) -> None:
    (line,) = lines(tmp_path, [LIVE], ratio=0.3)

    assert line.startswith("! x  0.83")


def test_of_latency_and_disk_less_is_better(tmp_path: Path) -> None:
    assert lines(tmp_path, [DRAIN], ratio=1.6)[0].startswith("! x  0.72")
    assert lines(tmp_path, [DISK], ratio=1.0, value=193)[0].startswith("  x  1.19")


def test_a_growth_of_less_than_an_arena_is_no_news(tmp_path: Path) -> None:
    assert lines(tmp_path, [GROWTH], value=4.3)[0].startswith("  x  1.00")
    assert lines(tmp_path, [GROWTH], value=9.0)[0].startswith("! x  0.56")


def test_what_is_not_reached_any_more_is_worse_however_little_it_changed(tmp_path: Path) -> None:
    (line,) = lines(tmp_path, [DRAIN], ratio=1.21, ok=False, reach="<= 1.2")

    assert line.startswith("! x  0.95")
    assert line.endswith("not <= 1.2 any more")


def test_rows_that_are_new_or_gone_are_named(tmp_path: Path) -> None:
    old, new = written(tmp_path / "old.json", LIVE), written(tmp_path / "new.json", DISK)

    assert list(compared(old, new, 0.1)) == [
        "  new      8a disk beside the result's bytes",
        "  gone     1b live beside bare loop",
    ]


def test_the_exit_status_says_whether_anything_is_worse(tmp_path: Path) -> None:
    old = written(tmp_path / "old.json", DRAIN)
    new = written(tmp_path / "new.json", DRAIN, ratio=1.6)
    none = tmp_path / "none.json"
    none.write_text("{}")

    def status(*files: Path) -> int:
        return subprocess.run([sys.executable, "-m", "benchmarks.compare", *files], check=False, timeout=120).returncode

    assert [status(old, old), status(old, new), status(old, none)] == [0, 1, 2]
