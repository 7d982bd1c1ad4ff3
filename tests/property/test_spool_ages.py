"""Ages, expiry and corrected times whatever the clocks do: jumps, restarts, crashes, reboots, suspend.

The truth is kept beside the spool: when each row really was stored. What the spool believes of it must never make a row
expire too early, and a time that it calls right must be right.
"""

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.sim.clock import BentClock
from tests.sim.timed_store import Lives

TTL_S = 600.0
MARK_EVERY_S = TTL_S / 128
LATE_S = 7.0  # the last look was so long ago at most, in what_is_old_enough_is_gone_soon
SHORT_S = st.sampled_from([0.3, 1.0, 7.0, 90.0, 400.0])
JUMP_S = st.sampled_from([-400 * 86_400.0, -3600.0, -0.2, 0.2, 90.0, 3650 * 86_400.0])


class Clocks(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="spool-ages-"))
        self.bent = BentClock()
        self.bent.synced = True
        self.truth = self.bent.wall  # the time it really is
        self.lives = Lives(self.folder, self.bent, ttl_s=TTL_S)
        self.stored: dict[str, float] = {}  # key -> when, really
        self.seen: dict[str, float] = {}  # key -> when upkeep or a start could put a mark behind it
        self.is_lost = False  # some of the age may be missing since a reboot, and rows seem younger
        self.last_age_s = 0.0

    def let_pass(self, seconds: float) -> None:
        self.truth += seconds
        self.bent.pass_s(seconds)

    def look(self) -> None:
        """What the writer does once a second, unless the machine is asleep."""
        self.lives.upkeep()
        self.look_at_start()

    def look_at_start(self) -> None:
        for key, at in self.stored.items():
            if self.truth - at >= MARK_EVERY_S:
                self.seen.setdefault(key, self.truth)

    def forget_age(self) -> None:
        """A crash may take with it what was not saved, but nothing that a row was stored with."""
        self.last_age_s = self.lives.store.ages.marks.last[1]

    @rule(n=st.integers(1, 3))
    def add(self, n: int) -> None:
        for key in self.lives.add(n):
            self.stored[key] = self.truth

    @rule(seconds=SHORT_S)
    def wait(self, seconds: float) -> None:
        self.let_pass(seconds)

    @rule(seconds=st.integers(1, 20))
    def wait_and_look(self, seconds: int) -> None:
        for _ in range(seconds):
            self.let_pass(1.0)
            self.look()

    @rule(jump_s=JUMP_S)
    def jump(self, jump_s: float) -> None:
        self.bent.wall += jump_s
        self.bent.synced = False  # whoever sets the clock by hand loses the kernel's word, do_settimeofday64()
        self.let_pass(1.1)

    @rule()
    def set_right(self) -> None:
        self.bent.wall = self.truth
        self.bent.synced = True
        self.let_pass(1.1)
        self.look()

    @rule(is_clean=st.booleans(), down_s=SHORT_S)
    def restart(self, is_clean: bool, down_s: float) -> None:
        self.truth += down_s
        self.lives.restart(is_clean=is_clean, down_s=down_s)
        self.look_at_start()
        self.forget_age()

    @rule(is_clean=st.booleans(), off_s=SHORT_S, forgets=st.booleans())
    def reboot(self, is_clean: bool, off_s: float, forgets: bool) -> None:
        self.truth += off_s + 5.0
        self.is_lost = True
        wall = 1000.0 if forgets else None
        if forgets:
            self.bent.synced = False
        self.lives.reboot(is_clean=is_clean, off_s=off_s, wall=wall)
        self.forget_age()

    @rule()
    def fail(self) -> None:
        store = self.lives.store
        store.begin()
        store.skip_seq()
        store.ages.save()
        store.flush()
        store.rollback()

    @precondition(lambda self: not self.is_lost)
    @rule()
    def what_is_old_enough_is_gone_soon(self) -> None:
        for _ in range(5):
            self.let_pass(1.0)
            self.look()
        there = self.lives.keys()
        old = [key for key in there if self.truth - self.seen.get(key, self.truth) > TTL_S + LATE_S]
        assert old == []

    @invariant()
    def nothing_expires_early(self) -> None:
        there = set(self.lives.keys())
        gone = {key: self.truth - at for key, at in self.stored.items() if key not in there}
        assert all(age_s >= TTL_S for age_s in gone.values()), gone

    @invariant()
    def the_age_never_goes_back_nor_ahead_of_the_truth(self) -> None:
        age_s = self.lives.store.ages.now_s()
        assert age_s >= self.last_age_s
        assert age_s <= self.truth - 1_763_724_000.0 + 0.01
        self.last_age_s = age_s

    @invariant()
    def what_is_said_to_be_right_is_right(self) -> None:
        for result in self.lives.results():
            if result.clock != "unsynced":
                assert abs(result.time - self.stored[result.key]) < 2.5, result

    @invariant()
    def the_books_balance(self) -> None:
        assert self.lives.books().balanced

    def teardown(self) -> None:
        self.lives.end()
        shutil.rmtree(self.folder)


TestClocks = Clocks.TestCase
TestClocks.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
