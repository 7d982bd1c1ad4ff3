"""The age clock, marks, TTLs and pauses: over jumps of the wall clock, restarts, reboots and suspend."""

from pathlib import Path

import pytest

from gatewayd.ports import Work
from gatewayd.spool.ages import MAX_MARKS, Marks
from gatewayd.spool.migrations import SEQ_MASK
from tests.sim.clock import BentClock
from tests.sim.timed_store import Lives

DAY_S = 86_400.0
LATE_S = 600.0 / 128 + 2  # of a TTL of 600 s: a mark's distance, and the second between two looks


@pytest.fixture
def bent() -> BentClock:
    return BentClock()


@pytest.fixture
def lives(tmp_path: Path, bent: BentClock) -> Lives:
    return Lives(tmp_path, bent)


def test_a_result_expires_when_it_is_older_than_its_routes_ttl_and_is_counted(lives: Lives) -> None:
    lives.add(3)
    lives.add(2, route="kept")

    lives.run_s(599)
    before = lives.keys()
    lives.run_s(int(LATE_S) + 1)

    assert len(before) == 3
    assert lives.keys() == lives.keys(sink="archive") == []
    assert len(lives.keys("kept")) == 2
    books = lives.books()
    assert books.balanced
    assert [books.results["brief"][sink]["expired"] for sink in ("cloud", "archive")] == [3, 3]
    assert books.reasons["results/brief/cloud/expired"] == {"ttl": 3}


def test_what_expired_is_told(tmp_path: Path, bent: BentClock) -> None:
    lives = Lives(tmp_path, bent)
    told: list[tuple[str, object]] = []
    lives.store.emit = lambda name, fields: told.append((name, dict(fields)))
    lives.add(3)
    lives.run_s(610)

    assert told == [
        ("expired", {"route": "brief", "sink": sink, "reason": "ttl", "n": 3}) for sink in ("archive", "cloud")
    ]


def test_a_sink_that_had_it_has_nothing_expired(lives: Lives) -> None:
    lives.add(3)
    first, *_, last = [result.row for result in lives.results()]
    lives.store.begin()
    lives.store.outgoing.ack("brief", "cloud", first, last, [])
    lives.store.flush()
    lives.store.commit()
    lives.store.committed()

    lives.run_s(610)

    books = lives.books()
    assert books.balanced
    assert books.results["brief"]["cloud"]["expired"] == 0
    assert books.results["brief"]["archive"]["expired"] == 3


@pytest.mark.parametrize("synced", [True, False, None])
@pytest.mark.parametrize("jump_s", [-400 * DAY_S, 3650 * DAY_S, DAY_S, -1.0])
def test_a_wall_clock_that_jumps_expires_nothing_and_keeps_nothing(
    lives: Lives, bent: BentClock, jump_s: float, synced: bool | None
) -> None:
    lives.add(3)
    lives.run_s(300)

    bent.wall += jump_s
    bent.synced = synced
    lives.restart()
    lives.run_s(299)
    early = lives.keys()
    lives.run_s(int(LATE_S) + 2)

    assert len(early) == 3
    assert lives.keys() == []


def test_time_while_the_daemon_is_down_counts(lives: Lives) -> None:
    lives.add(3)
    lives.restart(is_clean=False, down_s=700.0)

    lives.upkeep()

    assert lives.keys() == []


def test_time_in_suspend_counts(lives: Lives, bent: BentClock) -> None:
    lives.add(3)

    bent.pass_s(700.0)  # both clocks go on in suspend, and nothing of ours ran
    lives.upkeep(n_rounds=3)

    assert lives.keys() == []


def test_time_while_the_gateway_is_off_counts_when_the_clock_was_right_before_and_is_after(lives: Lives) -> None:
    lives.add(3)
    lives.reboot(is_clean=False, off_s=700.0)

    lives.upkeep()

    assert lives.keys() == []


def test_a_clock_that_was_not_right_at_the_end_of_a_life_says_nothing_of_the_time_the_gateway_was_off(
    lives: Lives, bent: BentClock
) -> None:
    lives.add(3)
    right = bent.wall
    bent.synced = False
    lives.run_s(2)
    lives.reboot(off_s=700.0, wall=1000.0)
    lives.run_s(10)
    before = lives.keys()

    bent.wall, bent.synced = right + 717.0, True
    lives.run_s(2)

    # It was not known at the end of the life before that the clock was right: rather late than early.
    assert len(before) == 3
    assert len(lives.keys()) == 3


def test_a_clock_that_is_set_some_time_after_the_reboot_makes_up_for_the_time_it_was_off(
    lives: Lives, bent: BentClock
) -> None:
    lives.add(3)
    right = bent.wall
    lives.end()
    bent.reboot(off_s=700.0, wall=1000.0)
    bent.synced = False
    lives._begin()
    lives.run_s(10)
    before = lives.keys()

    bent.wall, bent.synced = right + 715.0, True
    lives.run_s(2)

    assert len(before) == 3
    assert lives.keys() == []


@pytest.mark.parametrize(("then", "now"), [(False, True), (True, None), (None, True), (None, None), (False, False)])
def test_a_reboot_with_a_clock_that_nobody_vouches_for_makes_rows_seem_younger(
    tmp_path: Path, bent: BentClock, then: bool | None, now: bool | None
) -> None:
    bent.synced = then
    lives = Lives(tmp_path, bent)
    lives.add(3)
    lives.end()
    bent.reboot(off_s=3650 * DAY_S)
    bent.synced = now
    lives._begin()

    lives.run_s(590)
    early = lives.keys()
    lives.run_s(20)

    assert len(early) == 3
    assert lives.keys() == []  # but its uptime counts


def test_where_the_boot_is_not_known_what_is_certain_counts(tmp_path: Path, bent: BentClock) -> None:
    bent.boot_id = ""
    lives = Lives(tmp_path, bent)
    lives.add(3)
    lives.clock.boot_id = ""
    lives.end()
    bent.pass_s(100.0)
    lives._begin()

    # The machine running the test knows its boot; this gateway does not.
    age_s = lives.store.ages.now_s()

    assert age_s == pytest.approx(100.0)


def test_rows_behind_which_no_others_came_expire_too(lives: Lives) -> None:
    lives.add(1)
    lives.run_s(1)
    lives.add(1)  # too soon after the first for a mark of its own

    lives.run_s(int(601 + LATE_S))

    assert lives.keys() == []


def test_a_row_that_is_being_sent_is_left_until_that_is_over(lives: Lives) -> None:
    lives.add(5)
    rows = lives.results()
    lives.store.leased.set("brief", "cloud", "all", rows[1].row, rows[2].row)

    lives.run_s(620)
    during = [key for key in (row.key for row in rows) if key in _there(lives)]
    lives.store.leased.clear("brief", "cloud", "all")
    lives.upkeep(n_rounds=2)

    assert during == [rows[1].key, rows[2].key]
    assert lives.keys() == []
    assert lives.books().results["brief"]["cloud"]["expired"] == 5


def _there(lives: Lives) -> set[str]:
    return {key for (key,) in lives.store.connection.execute("SELECT key FROM results")}


def test_messages_of_the_journal_expire_and_one_that_is_answered_after_all_counts_as_answered(lives: Lives) -> None:
    ids = lives.journal(4)
    lives.run_s(620)
    expired = lives.books()

    lives.transact(Work(route="brief", handled=1, done=ids[:1]))

    assert expired.balanced
    assert expired.messages["brief"]["expired"] == 4
    books = lives.books()
    assert books.balanced
    assert (books.messages["brief"]["expired"], books.messages["brief"]["handled"]) == (3, 1)


def test_a_great_many_expire_in_steps(lives: Lives) -> None:
    for _ in range(10):
        lives.add(1000)
    lives.run_s(590)
    lives.bent.pass_s(30)

    counts = []
    for _ in range(4):
        lives.upkeep()
        counts.append(lives.books().results["brief"]["cloud"]["expired"])

    assert counts == [4096, 8192, 10_000, 10_000]


def test_a_transaction_that_failed_leaves_the_marks_as_they_were(lives: Lives) -> None:
    lives.add(1)
    lives.bent.pass_s(30.0)
    before = len(lives.store.ages.marks)

    lives.store.begin()
    lives.store.skip_seq()
    lives.store.flush()
    lives.store.rollback()
    lives.add(1)

    assert len(lives.store.ages.marks) == before + 1
    on_disk = lives.store.connection.execute("SELECT count(*) FROM marks").get
    assert on_disk == before + 1


def test_marks_are_thinned_and_what_they_say_stays_true() -> None:
    marks, full = Marks(), []
    for seq in range(1, 20_000):
        marks.remove(marks.surplus())
        marks.add(seq, float(seq))
        full.append(seq)
        assert len(marks) <= MAX_MARKS

    for age_s in range(0, 20_000, 7):
        assert marks.upto(age_s) <= age_s  # never early
    assert marks.upto(19_999.0) == 19_999
    assert marks.upto(18_000.0) == 18_000  # and of late not late at all


def test_a_mark_that_the_disk_has_changed_makes_nothing_expire(lives: Lives) -> None:
    lives.add(3)
    lives.store.connection.execute("UPDATE marks SET age_s = age_s - 1000")

    lives.restart(is_clean=False)
    lives.run_s(300)

    assert len(lives.keys()) == 3


def test_an_age_that_the_disk_has_changed_is_not_believed(lives: Lives) -> None:
    lives.add(3)
    lives.end()
    lives._begin()
    text = lives.store.connection.execute("SELECT value FROM state WHERE name = 'age'").get
    damaged = text.replace('"age_s":', '"age_s":9')
    lives.store.connection.execute("UPDATE state SET value = ? WHERE name = 'age'", (damaged,))
    lives.restart(is_clean=False)

    lives.run_s(300)

    assert len(lives.keys()) == 3


def test_a_spool_without_a_ttl_is_marked_once_an_hour(tmp_path: Path, bent: BentClock) -> None:
    lives = Lives(tmp_path, bent)
    lives.policies["brief"] = lives.policies["kept"]
    lives.restart()
    for _ in range(100):
        lives.add(1)
        lives.run_s(100, step_s=10)

    assert len(lives.store.ages.marks) == 3


def test_what_was_stored_before_its_route_got_a_ttl_expires_too(tmp_path: Path, bent: BentClock) -> None:
    lives = Lives(tmp_path, bent)
    brief, lives.policies["brief"] = lives.policies["brief"], lives.policies["kept"]
    lives.restart()
    lives.add(3)
    lives.run_s(1000, step_s=10)

    lives.policies["brief"] = brief
    lives.restart()
    lives.upkeep()

    assert lives.keys() == []


def test_an_idle_spool_writes_nothing_but_the_age_now_and_then(lives: Lives) -> None:
    lives.add(1, route="kept")
    lives.run_s(10)
    before = lives.store.connection.total_changes()

    lives.run_s(3600)

    assert lives.store.connection.total_changes() - before <= 12


def test_the_floor_is_kept_over_a_restart(lives: Lives, bent: BentClock) -> None:
    lives.add(1)
    lives.run_s(10)
    right = bent.wall
    bent.synced = False

    lives.reboot(wall=right - 100 * DAY_S)

    assert lives.clock.now() == pytest.approx(right, abs=2.0)
    assert lives.clock.is_synced() is False


def test_sequence_numbers_without_rows_are_no_rows(lives: Lives) -> None:
    lives.add(1)
    lives.run_s(1000)
    [key] = lives.add(1)

    assert lives.keys() == [key]
    assert lives.results()[0].row & SEQ_MASK == lives.store.seq
    assert lives.books().balanced
