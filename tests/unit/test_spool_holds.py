"""A pause that a far side asked for: kept over restarts and reboots, on the spool's age clock."""

from pathlib import Path

import pytest

from tests.sim.clock import BentClock
from tests.sim.timed_store import Lives


@pytest.fixture
def bent() -> BentClock:
    return BentClock()


@pytest.fixture
def lives(tmp_path: Path, bent: BentClock) -> Lives:
    return Lives(tmp_path, bent)


def test_a_pause_that_was_asked_for_is_kept_over_a_restart(lives: Lives, bent: BentClock) -> None:
    _hold(lives, "cloud", 100.0)
    lives.restart(is_clean=False, down_s=30.0)
    bent.wall += 3650 * 86_400.0

    assert lives.store.holds.rest_s("cloud") == pytest.approx(70.0)
    assert lives.store.holds.rest_s("archive") == 0.0
    bent.pass_s(70.0)
    assert lives.store.holds.rest_s("cloud") == 0.0


def test_pauses_that_are_over_are_forgotten(lives: Lives) -> None:
    for n in range(50):
        _hold(lives, f"sink-{n}", 10.0)
        lives.run_s(11)

    assert lives.store.connection.execute("SELECT count(*) FROM holds").get == 1


def test_a_shorter_pause_does_not_end_a_longer_one(lives: Lives) -> None:
    _hold(lives, "cloud", 100.0)
    _hold(lives, "cloud", 5.0)

    assert lives.store.holds.rest_s("cloud") == pytest.approx(100.0)


def _hold(lives: Lives, sink: str, delay_s: float) -> None:
    lives.store.begin()
    lives.store.hold(sink, delay_s)
    lives.store.flush()
    lives.store.commit()
    lives.store.committed()
