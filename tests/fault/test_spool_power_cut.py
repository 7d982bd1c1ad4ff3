"""Power cuts at any moment, with a disk that drops, reorders and tears what was not synced (see tests.sim.vfs)."""

from pathlib import Path

from benchmarks.faults.spool_images import run_images


def test_two_hundred_power_cuts_lose_nothing_that_was_promised(tmp_path: Path) -> None:
    found = run_images(tmp_path, n_images=200, seed=1)

    assert found.is_good, found
    assert found.n_images == 200


def test_without_full_sync_the_same_power_cuts_lose_something(tmp_path: Path) -> None:
    found = run_images(tmp_path, n_images=40, seed=1, synchronous="NORMAL")

    assert found.n_lost > 0
