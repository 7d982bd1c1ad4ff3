"""Times of a clock that was not synchronized, corrected once it is."""

from pathlib import Path

import pytest

from gatewayd.spool.reader import SpoolReader
from gatewayd.spool.segments import MAX_SEGMENTS, Corrections, Segment
from tests.sim.clock import BentClock
from tests.sim.timed_store import Lives

DAY_S = 86_400.0


@pytest.fixture
def bent() -> BentClock:
    return BentClock()


@pytest.fixture
def lives(tmp_path: Path, bent: BentClock) -> Lives:
    return Lives(tmp_path, bent)


def test_times_of_a_synchronized_clock_stay_as_they_are(lives: Lives, bent: BentClock) -> None:
    stored = bent.wall
    lives.add(1, route="kept")
    bent.pass_s(2 * DAY_S)
    lives.add(1, route="kept")

    assert [(one.time, one.clock) for one in lives.results("kept")] == [(stored, ""), (stored + 2 * DAY_S, "")]


@pytest.mark.parametrize("off_s", [-400 * DAY_S, 3650 * DAY_S, -100.0])
def test_times_are_corrected_once_the_clock_is_right(lives: Lives, bent: BentClock, off_s: float) -> None:
    bent.synced = False
    right = bent.wall
    bent.wall += off_s
    lives.add(1)
    before = lives.results()
    lives.run_s(500)

    bent.wall -= off_s
    bent.wall = right + 500.0
    bent.synced = True
    lives.run_s(2)
    [after] = lives.results()

    assert [one.clock for one in before] == ["unsynced"]
    assert after.clock == "corrected"
    assert after.time == pytest.approx(right, abs=0.01)


def test_the_correction_is_there_after_a_restart_and_for_another_process(lives: Lives, bent: BentClock) -> None:
    bent.synced = False
    right, bent.wall = bent.wall, bent.wall - 100 * DAY_S
    lives.add(1, route="kept")
    bent.pass_s(50)
    bent.wall, bent.synced = right + 50.0, True
    lives.run_s(2)

    lives.restart()
    [after] = lives.results("kept")
    lives.end()
    with SpoolReader.open(lives._path) as reader:
        [seen] = reader.pending("cloud", "kept")

    assert (after.clock, seen.clock) == ("corrected", "corrected")
    assert after.time == seen.time == pytest.approx(right, abs=0.01)


def test_what_an_earlier_boot_stored_unsynchronized_stays_so(lives: Lives, bent: BentClock) -> None:
    bent.synced = False
    bent.wall += 100 * DAY_S
    wrong = lives.clock.now()
    lives.add(1)

    lives.reboot(off_s=10.0, wall=1_763_724_100.0)
    bent.synced = True
    lives.add(1)
    lives.run_s(2)

    assert [one.clock for one in lives.results()] == ["unsynced", ""]
    assert lives.results()[0].time == wrong


def test_a_step_before_the_clock_calls_itself_synchronized_is_followed(lives: Lives, bent: BentClock) -> None:
    bent.synced = False
    right, bent.wall = bent.wall, bent.wall + 1000.0
    lives.add(1)
    bent.pass_s(5)
    bent.wall = right + 5.0  # NTP has set it, and says so later
    lives.add(1)
    lives.run_s(5)

    bent.synced = True
    lives.run_s(2)

    times = [one.time for one in lives.results()]
    assert times == pytest.approx([right, right + 5.0], abs=0.01)


def test_a_clock_that_nobody_can_say_anything_of_counts_as_right(lives: Lives, bent: BentClock) -> None:
    bent.synced = None
    lives.add(1)

    assert [one.clock for one in lives.results()] == [""]


def test_messages_of_the_journal_are_corrected_too(lives: Lives, bent: BentClock) -> None:
    bent.synced = False
    right, bent.wall = bent.wall, bent.wall + 7 * DAY_S
    lives.journal(1)
    bent.pass_s(5)
    bent.wall, bent.synced = right + 5.0, True
    lives.run_s(2)

    [message] = lives.messages()

    assert message.time == pytest.approx(right, abs=0.01)


def test_a_clock_that_is_slewed_begins_no_segment_and_one_that_steps_does(lives: Lives, bent: BentClock) -> None:
    for _ in range(4):
        bent.pass_s(1.0)
        bent.wall += 0.1
        lives.add(1)
    slewed = _n_segments(lives)
    bent.pass_s(1.0)
    bent.wall += 10.0
    lives.add(1)

    assert (slewed, _n_segments(lives)) == (1, 2)


def test_segments_stay_bounded_and_nothing_unsynchronized_seems_right(lives: Lives, bent: BentClock) -> None:
    bent.synced = False
    for _ in range(MAX_SEGMENTS + 10):
        bent.pass_s(0.1)
        bent.wall += 5.0
        lives.add(1, route="kept")
    many = _n_segments(lives)
    bent.synced = True
    lives.run_s(2)

    qualities = [one.clock for one in lives.results("kept")]

    assert many <= MAX_SEGMENTS
    assert set(qualities[: MAX_SEGMENTS // 2]) == {"unsynced"}
    assert set(qualities[MAX_SEGMENTS // 2 :]) == {"corrected"}


def test_rows_of_a_spool_from_before_there_were_segments_are_taken_as_they_are() -> None:
    corrections = Corrections([Segment(10, "boot", 5.0, False)])

    assert corrections.of(9, 77.0) == (77.0, "")
    assert corrections.of(10, 77.0) == (77.0, "unsynced")


def test_a_segment_that_the_disk_has_changed_corrects_nothing(lives: Lives, bent: BentClock) -> None:
    bent.synced = False
    lives.add(1)
    bent.synced = True
    lives.run_s(2)
    lives.store.connection.execute("UPDATE clocks SET offset_s = offset_s + 1e6 WHERE is_synced")

    lives.restart(is_clean=False)

    [one] = lives.results()
    assert one.time == pytest.approx(1_763_724_000.0, abs=2.0)  # by the start's own segment, not by 1e6


def _n_segments(lives: Lives) -> int:
    return lives.store.connection.execute("SELECT count(*) FROM clocks").get
