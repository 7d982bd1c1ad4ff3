"""The age clock leaps when it is known for how long the gateway was off; and lives that end before their upkeep."""

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


@pytest.mark.parametrize("is_clean", [True, False])
def test_what_came_between_a_reboot_and_the_clock_being_set_is_not_made_older_by_it(
    lives: Lives, bent: BentClock, is_clean: bool
) -> None:
    bent.synced = True
    lives.add()
    bent.synced = False
    lives.reboot(off_s=10 * 86_400, wall=1000.0)
    (young,) = lives.add()
    lives.run_s(10)
    bent.wall, bent.synced = 1_763_724_000.0 + 10 * 86_400, True
    lives.run_s(10)
    assert lives.keys() == [young]

    lives.restart(is_clean=is_clean, down_s=300)
    lives.run_s(10)
    assert lives.keys() == [young]

    lives.run_s(300)
    assert lives.keys() == []


def test_a_leap_that_the_disk_did_not_take_is_written_later(lives: Lives, bent: BentClock) -> None:
    bent.synced = True
    lives.add()
    bent.synced = False
    lives.reboot(off_s=86_400, wall=1000.0)
    (young,) = lives.add()
    bent.wall, bent.synced = 1_763_724_000.0 + 86_400, True
    bent.pass_s(5)
    store = lives.store
    store.begin()
    store.skip_seq()
    store.flush()
    store.rollback()

    lives.upkeep()
    lives.restart(is_clean=False, down_s=300)
    lives.run_s(10)
    assert lives.keys() == [young]

    lives.run_s(300)
    assert lives.keys() == []


def test_a_gateway_that_crashes_before_each_upkeep_keeps_nothing_for_ever(lives: Lives) -> None:
    lives.add()
    lives.bent.pass_s(60)
    lives.add()
    for _ in range(2):
        lives.restart(is_clean=False, down_s=400)

    lives.upkeep()

    assert lives.keys() == []
