"""The n-th call to the disk fails, once and for ever: see benchmarks.faults.spool_io, where each n is tried."""

from pathlib import Path

import pytest

from benchmarks.faults.spool_io import cases, run_faults

STEPS = {"open": 1, "read": 7, "write": 61, "sync": 17, "truncate": 1, "delete": 1, "shm": 1}


@pytest.mark.parametrize(("kind", "for_ever", "is_full"), cases())
def test_a_disk_that_fails_loses_nothing_and_ends_nothing(
    tmp_path: Path, kind: str, for_ever: bool, is_full: bool
) -> None:
    found = run_faults(tmp_path, kind, for_ever=for_ever, is_full=is_full, step=STEPS[kind])

    assert found.is_good, found
