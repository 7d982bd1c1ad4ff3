"""How old rows are, and when they were stored, whatever the wall clock says.

The *age clock* counts seconds and never goes back. It follows the clock that counts from boot, over restarts and
suspend too. Over a reboot it goes on by the difference of the wall clock if that was synchronized then and is now, and
else by what is certain: the new boot's uptime. So a row may seem younger than it is, and never older. When the clock is
synchronized some time after the reboot the age leaps ahead, and the marks made since the reboot with it.

*Marks* say which sequence numbers had been given out at which age. Invariant: a row counts as stored at the age of the
first mark at or behind it, so what expires by them may expire late, and never early; that holds for marks that were
thinned out too. Flash is spared: a mark is set in a transaction that brings rows anyway, and seldom.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from contextlib import suppress

import apsw
import msgspec
from msgspec import structs

from gatewayd.ports import Clock, JournalEntry
from gatewayd.spool.policy import RoutePolicy
from gatewayd.spool.rows import read_entry
from gatewayd.spool.segments import Segments, clock_quality
from gatewayd.spool.sql import rows
from gatewayd.spool.sums import fields_sum

MAX_MARKS = 4096
_MARK_EVERY_S = 3600.0  # where no route has a TTL: for one that gets it later
_MARKS_A_TTL = 128  # a row expires late by less than a hundredth of its route's TTL, and at most by:
_LATEST_S = 60.0
_LEAST_S = 1.0
_LOOK_S = 0.05  # between two looks at the clocks, for thousands of transactions a second
_SAVE_EVERY_S = 600.0  # how much of its age a spool may lose with a reboot while the clock is not synchronized

_PUT = "INSERT INTO state VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """The age clock as it is in `state`."""

    age_s: float
    boot: str  # "": not known
    boottime_s: float
    time: float  # wall clock
    is_synced: bool
    floor: float  # of the wall clock: see ports.Clock
    sum: int = 0  # of all the others

    @property
    def fields_sum(self) -> int:
        """What `sum` has to be."""
        return fields_sum(self.age_s, self.boot, self.boottime_s, self.time, self.is_synced, self.floor)


class AgeClock:
    """Seconds since the spool was made, as far as they are known to have passed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._base_s = 0.0
        self._at_s = clock.boottime()
        self._then: Saved | None = None  # before the reboot, while it is not known for how long the gateway was off

    def resume(self, saved: Saved) -> None:
        """Go on from what was saved."""
        clock = self._clock
        self._at_s = uptime_s = clock.boottime()
        if saved.boot and saved.boot == clock.boot_id:
            passed_s = uptime_s - saved.boottime_s
        elif saved.boot and clock.boot_id:
            passed_s = uptime_s
            self._then = saved if saved.is_synced else None
        else:
            # One boot or two: this has passed in either case.
            passed_s = uptime_s - saved.boottime_s if uptime_s >= saved.boottime_s else uptime_s
        self._base_s = saved.age_s + max(0.0, passed_s)

    def now_s(self) -> float:
        """The age now; for any thread."""
        return self._base_s + max(0.0, self._clock.boottime() - self._at_s)

    def can_leap(self) -> bool:
        """Whether it has become known for how long the gateway was off."""
        return self._then is not None and self._clock.is_synced() is True

    def leap(self) -> float:
        """Go ahead by the time the gateway was off: by how much, in seconds."""
        if self._then is None:
            return 0.0
        by_s = max(0.0, self._then.age_s + self._clock.now() - self._then.time - self.now_s())
        self._base_s += by_s
        self._then = None
        return by_s

    def saved(self) -> Saved:
        """To be kept."""
        clock = self._clock
        saved = Saved(
            age_s=self.now_s(),
            boot=clock.boot_id,
            boottime_s=clock.boottime(),
            time=clock.now(),
            is_synced=clock.is_synced() is True,
            floor=clock.floor(),
        )
        return structs.replace(saved, sum=saved.fields_sum)


class Marks:
    """Sequence numbers and the ages at which they were the last, both ascending."""

    def __init__(self) -> None:
        self._seqs: list[int] = []
        self._ages: list[float] = []

    @property
    def last(self) -> tuple[int, float]:
        """The newest mark; (0, minus infinity) when there is none."""
        return (self._seqs[-1], self._ages[-1]) if self._seqs else (0, float("-inf"))

    def __len__(self) -> int:
        return len(self._seqs)

    def add(self, seq: int, age_s: float) -> None:
        """A mark behind all others."""
        self._seqs.append(seq)
        self._ages.append(age_s)

    def upto(self, age_s: float) -> int:
        """The last sequence number that was given out by that age for certain; 0 when there is none."""
        n = bisect_right(self._ages, age_s)
        return self._seqs[n - 1] if n else 0

    def surplus(self) -> list[int]:
        """Every second mark of the older half, when there are too many: of two the later one stays."""
        return self._seqs[: len(self._seqs) // 2 : 2] if len(self._seqs) >= MAX_MARKS else []

    def leap(self, after: int, by_s: float) -> None:
        """Those behind this sequence number were set at ages that were too low by `by_s`."""
        n = bisect_right(self._seqs, after)
        self._ages[n:] = [age_s + by_s for age_s in self._ages[n:]]

    def after(self, seq: int) -> list[tuple[int, float]]:
        """Those behind a sequence number."""
        n = bisect_right(self._seqs, seq)
        return list(zip(self._seqs[n:], self._ages[n:], strict=True))

    def remove(self, seqs: list[int]) -> None:
        """These are gone."""
        if not seqs:
            return
        gone = set(seqs)
        kept = [(seq, age) for seq, age in zip(self._seqs, self._ages, strict=True) if seq not in gone]
        self._seqs, self._ages = [seq for seq, _ in kept], [age for _, age in kept]


class Ages:
    """Age clock, marks and clock segments on disk and in memory. Used on the writer thread."""

    def __init__(self, clock: Clock, policies: Mapping[str, RoutePolicy]) -> None:
        self._clock = clock
        self._age = AgeClock(clock)
        ttls_s = [policy.ttl_s for policy in policies.values() if policy.ttl_s is not None]
        self._has_ttl = bool(ttls_s)
        self._mark_every_s = _mark_every_s(min(ttls_s, default=None))
        self._saved_age_s = float("-inf")
        self._is_due_to_save = False
        self._looked_s = float("-inf")
        self._last_seen = 0  # the last mark of the life before
        self._must_rewrite = False  # the marks of this life have leapt, and those on disk have not
        self._has_rewritten = False  # in the transaction under way
        self._staged_mark: tuple[int, float] | None = None
        self._staged_surplus: list[int] = []
        self.marks = Marks()
        self.segments = Segments(clock)

    def load(self, connection: apsw.Connection) -> None:
        """Remember what is on disk, and tell the clock the floor that was kept."""
        self._age = AgeClock(self._clock)
        saved = _read(connection.execute("SELECT value FROM state WHERE name = 'age'").get)
        if saved is not None:
            self._clock.keep_above(saved.floor)
            self._age.resume(saved)
            self._saved_age_s = saved.age_s
        self.marks = Marks()
        for seq, age_s, time, checksum in rows(connection, "SELECT seq, age_s, time, sum FROM marks ORDER BY seq"):
            if fields_sum(seq, age_s, time) == checksum:  # without it the rows seem younger than they are
                self.marks.add(seq, max(age_s, self.marks.last[1]))
        self._last_seen = self.marks.last[0]
        self._must_rewrite = False
        self.segments.load(connection)

    def now_s(self) -> float:
        """The age clock."""
        return self._age.now_s()

    def quality(self) -> str:
        """`StoredResult.clock` of a time taken now; for any thread."""
        return clock_quality(self._clock)

    def upto(self, age_s: float) -> int:
        """Rows up to this sequence number were stored at that age or before; 0 when that is certain of none."""
        return self.marks.upto(age_s)

    def entry(self, row: Sequence[object]) -> JournalEntry:
        """A row of the journal, its time corrected where that can be done."""
        return self.segments.corrections.of_entry(read_entry(row))

    def wants_number(self, last: int) -> bool:
        """Whether a transaction without rows should be made, with a sequence number of its own: so that the rows up
        to `last` get a mark, or what a clock says that has become synchronized since: corrected times, the age."""
        seq, age_s = self.marks.last
        is_late = self._has_ttl and last > seq and self.now_s() - age_s >= self._mark_every_s
        return is_late or self.segments.can_correct() or self._age.can_leap() or self._must_rewrite

    def wants_saving(self) -> bool:
        """Whether it is time to save the age, though no rows come."""
        return self._has_ttl and self.now_s() - self._saved_age_s >= _SAVE_EVERY_S

    def save(self) -> None:
        """Have the age saved with the transaction under way."""
        self._is_due_to_save = True

    def flush(self, connection: apsw.Connection, before: int, last: int) -> None:
        """Write what belongs to the transaction under way, whose rows are numbered (before, last]."""
        must_save = self._is_due_to_save
        if last > before and (must_save or self._is_time_to_look()):
            must_save |= self._flush_leap(connection)
            must_save |= self.segments.flush(connection, before + 1)
            must_save |= self._flush_mark(connection, last)
        if must_save:
            self._write(connection)

    def commit(self) -> None:
        """The transaction is on disk."""
        self._is_due_to_save = False
        self._must_rewrite = self._must_rewrite and not self._has_rewritten
        self._has_rewritten = False
        self.segments.commit()
        if self._staged_mark is not None:
            self.marks.remove(self._staged_surplus)
            self.marks.add(*self._staged_mark)
            self._staged_mark, self._staged_surplus = None, []

    def rollback(self) -> None:
        """The transaction is not on disk."""
        self._is_due_to_save = self._has_rewritten = False
        self._looked_s = float("-inf")
        self._staged_mark, self._staged_surplus = None, []
        self.segments.rollback()

    def close(self, connection: apsw.Connection) -> None:
        """Save the age and the floor; outside of a transaction. A disk that does not take them is no harm."""
        if self._must_rewrite:
            return  # the age on disk belongs to the marks on disk
        with suppress(apsw.Error):
            self._write(connection)

    def _is_time_to_look(self) -> bool:
        now_s = self._clock.boottime()
        if now_s - self._looked_s < _LOOK_S:
            return False
        self._looked_s = now_s
        return True

    def _flush_leap(self, connection: apsw.Connection) -> bool:
        """Leap when it is time. In memory at once; on disk marks and age change in one transaction."""
        if self._age.can_leap():
            self.marks.leap(self._last_seen, self._age.leap())
            self._must_rewrite = True
        if not self._must_rewrite:
            return False
        for seq, age_s in self.marks.after(self._last_seen):
            for (time,) in rows(connection, "SELECT time FROM marks WHERE seq = ?", (seq,)):
                change = age_s, fields_sum(seq, age_s, time), seq
                connection.execute("UPDATE marks SET age_s = ?, sum = ? WHERE seq = ?", change)
        self._has_rewritten = True
        return True

    def _flush_mark(self, connection: apsw.Connection, last: int) -> bool:
        age_s = self.now_s()
        if age_s - self.marks.last[1] < self._mark_every_s or last <= self.marks.last[0]:
            return False
        self._staged_mark = last, age_s
        self._staged_surplus = self.marks.surplus()
        connection.executemany("DELETE FROM marks WHERE seq = ?", [(seq,) for seq in self._staged_surplus])
        mark = last, age_s, self._clock.now()
        connection.execute("INSERT INTO marks VALUES (?, ?, ?, ?)", (*mark, fields_sum(*mark)))
        return True

    def _write(self, connection: apsw.Connection) -> None:
        saved = self._age.saved()
        connection.execute(_PUT, ("age", msgspec.json.encode(saved).decode()))
        self._saved_age_s = saved.age_s


def _mark_every_s(least_ttl_s: float | None) -> float:
    if least_ttl_s is None:
        return _MARK_EVERY_S
    return min(max(least_ttl_s / _MARKS_A_TTL, _LEAST_S), _LATEST_S)


def _read(text: object) -> Saved | None:
    """What was saved; damage counts as nothing, and then rows seem younger than they are."""
    try:
        saved = msgspec.json.decode(text, type=Saved) if isinstance(text, str) else None
    except msgspec.MsgspecError:
        return None
    return saved if saved is not None and saved.sum == saved.fields_sum else None
