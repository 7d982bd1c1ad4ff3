"""The machine's clock: what it shows is believed only where it can be."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gatewayd import clock as clocks
from gatewayd.clock import RELEASED, SystemClock, ask_system
from tests.sim.clock import BentClock

DAY_S = 86_400.0


def system(bent: BentClock) -> SystemClock:
    return SystemClock(ask=lambda: bent.synced, wall=bent.now, boottime=bent.boottime, boot_id=bent.boot_id)


def test_a_clock_that_nobody_vouches_for_is_believed_as_long_as_it_can_be_right() -> None:
    bent = BentClock()
    bent.synced = None
    clock = system(bent)

    assert clock.now() == bent.wall
    assert clock.is_synced() is None


@pytest.mark.parametrize("says", [False, None, True])
def test_a_clock_from_before_the_release_is_not_believed_whoever_vouches_for_it(says: bool | None) -> None:
    bent = BentClock(now=1000.0)
    bent.synced = says
    clock = system(bent)
    bent.pass_s(60.0)

    assert clock.now() == RELEASED + 60.0
    assert clock.is_synced() is False


@pytest.mark.parametrize("says", [False, None])
def test_a_clock_below_the_floor_goes_on_from_it(says: bool | None) -> None:
    bent = BentClock()
    clock = system(bent)
    clock.keep_above(bent.wall)
    bent.synced = says
    kept = bent.wall
    bent.pass_s(1.5)

    bent.wall -= 400 * DAY_S

    assert clock.now() == kept + 1.5
    assert clock.is_synced() is False


def test_time_never_goes_back_while_the_clock_is_below_the_floor() -> None:
    bent = BentClock()
    bent.synced = False
    clock = system(bent)
    clock.keep_above(bent.wall)
    seen = []
    for jump in (-DAY_S, -5 * DAY_S, DAY_S, -DAY_S, 3 * DAY_S):
        bent.pass_s(10.0)
        bent.wall += jump
        seen.append(clock.now())

    assert seen == sorted(seen)
    assert seen[-1] - seen[0] == 40.0


def test_a_clock_that_becomes_synchronized_is_followed_at_once_in_either_direction() -> None:
    bent = BentClock()
    bent.synced = False
    clock = system(bent)
    clock.keep_above(bent.wall + 300 * DAY_S)  # too high: a clock that lied while it called itself synchronized
    assert clock.now() > bent.wall + 299 * DAY_S

    bent.synced = True
    bent.pass_s(1.0)

    assert clock.now() == bent.wall
    assert clock.is_synced() is True
    assert clock.floor() == bent.wall


@pytest.mark.parametrize("says", [False, None])
def test_a_clock_ten_years_ahead_that_nobody_vouches_for_does_not_raise_the_floor(says: bool | None) -> None:
    bent = BentClock()
    clock = system(bent)
    clock.is_synced()
    right = bent.wall
    bent.synced = says
    bent.pass_s(5.0)

    bent.wall += 3650 * DAY_S
    ahead = clock.now()
    clock.is_synced()
    bent.pass_s(5.0)
    clock.is_synced()

    assert ahead == right + 5.0 + 3650 * DAY_S
    assert clock.floor() == right + 10.0


def test_a_synchronized_clock_raises_the_floor() -> None:
    bent = BentClock()
    bent.synced = True
    clock = system(bent)
    clock.is_synced()

    bent.wall += 30 * DAY_S
    bent.pass_s(1.0)
    clock.is_synced()

    assert clock.floor() == bent.wall


def test_a_leap_second_is_no_fault() -> None:
    bent = BentClock()
    clock = system(bent)
    clock.is_synced()
    bent.synced = False
    bent.pass_s(2.0)

    bent.wall -= 1.0

    assert clock.now() == bent.wall


@pytest.mark.parametrize("floor", [float("inf"), float("nan"), 1e18, -1.0])
def test_a_floor_that_makes_no_sense_is_no_floor(floor: float) -> None:
    bent = BentClock()
    clock = system(bent)

    clock.keep_above(floor)

    assert clock.now() == bent.wall
    assert clock.floor() == RELEASED


def test_the_system_is_asked_once_a_second_at_most() -> None:
    bent = BentClock()
    n_asked = 0

    def ask() -> bool:
        nonlocal n_asked
        n_asked += 1
        return True

    clock = SystemClock(ask=ask, wall=bent.now, boottime=bent.boottime)
    for _ in range(1000):
        clock.is_synced()
        bent.pass_s(0.005)

    assert 4 <= n_asked <= 6


def test_a_clock_that_is_behind_is_told_once_and_so_is_its_recovery() -> None:
    bent = BentClock(now=1000.0)
    bent.synced = False
    clock = system(bent)

    with capture_logs() as told:
        for _ in range(10):
            clock.now()
            bent.pass_s(1.0)
        bent.wall, bent.synced = 1_763_724_000.0, True
        for _ in range(10):
            clock.is_synced()
            bent.pass_s(1.0)

    assert [line["log_level"] for line in told] == ["error", "info"]
    assert "time synchronization" in told[0]["hint"]


def test_a_named_file_alone_decides_whether_the_clock_is_synchronized(tmp_path: Path) -> None:
    file = tmp_path / "synced"
    before = ask_system(file)
    file.touch()

    assert before is False
    assert ask_system(file) is True


@pytest.mark.parametrize(
    ("kernel", "there", "said"),
    [
        (True, [], True),
        (False, ["synchronized"], False),  # the kernel knows best
        (None, ["synchronized"], True),
        (None, [], False),  # timesyncd runs, and has not heard from a server yet
        (None, None, None),
    ],
)
def test_the_kernel_is_asked_first_and_then_timesyncd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: bool | None, there: list[str] | None, said: bool | None
) -> None:
    folder = tmp_path / "timesync"
    if there is not None:
        folder.mkdir()
        for name in there:
            (folder / name).touch()
    monkeypatch.setattr(clocks, "_TIMESYNCD", folder)
    monkeypatch.setattr(clocks, "_ask_kernel", lambda: kernel)

    assert ask_system() is said


def test_the_kernel_answers_or_says_that_it_does_not() -> None:
    assert clocks._ask_kernel() in (True, False, None)


def test_a_filter_of_system_calls_means_that_the_kernel_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        def adjtimex(self, _buffer: object) -> int:
            return -1

    monkeypatch.setattr(clocks, "_libc", Library)

    assert clocks._ask_kernel() is None


def test_the_boot_has_a_name_and_a_clock_of_its_own() -> None:
    one, other = SystemClock(), SystemClock()

    assert one.boot_id == other.boot_id != ""
    assert 0 < one.boottime() <= other.boottime()


def test_the_environment_names_the_boot_where_proc_does_not() -> None:
    assert SystemClock(boot_id="from systemd").boot_id == "from systemd"
