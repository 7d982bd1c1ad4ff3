"""What clock the rows' times come from, and what they are once that clock has been set right.

A *segment* says that from a sequence number on the wall clock was `offset_s` ahead of the clock that counts from boot,
and whether it was synchronized. A time of a segment that was not is corrected when it is read, by the next segment of
the same boot that was: the difference of the offsets is how wrong the clock had been. What is on disk stays as it is.
"""

import secrets
from bisect import bisect_right
from dataclasses import replace
from typing import NamedTuple

import apsw
from msgspec import structs

from gatewayd.ports import Clock, JournalEntry
from gatewayd.spool.migrations import SEQ_MASK
from gatewayd.spool.sql import rows
from gatewayd.spool.sums import fields_sum

MAX_SEGMENTS = 1024
UNSYNCED, CORRECTED = "unsynced", "corrected"
_STEP_S = 0.5  # what a wall clock is slewed by meanwhile is no step
_ATOMIC_S = 0.05
_PUT = "INSERT OR REPLACE INTO clocks VALUES (?, ?, ?, ?, ?)"


class Segment(NamedTuple):
    """From `seq` on."""

    seq: int
    boot: str
    offset_s: float
    is_synced: bool


def clock_quality(clock: Clock) -> str:
    """What `StoredResult.clock` is for a time taken now."""
    return UNSYNCED if clock.is_synced() is False else ""


def offset_s(clock: Clock) -> float:
    """How far the wall clock is ahead of the clock that counts from boot."""
    for _ in range(3):
        before_s = clock.boottime()
        now = clock.now()
        if clock.boottime() - before_s < _ATOMIC_S:  # else the process was stopped between the two
            break
    return now - before_s


class Corrections:
    """What to do with the time of a row. A value: made anew when there is a new segment, and read by any thread."""

    __slots__ = ("_qualities", "_seqs", "_shifts", "is_needed")

    def __init__(self, segments: list[Segment]) -> None:
        self._seqs = [segment.seq for segment in segments]
        self._shifts = [0.0] * len(segments)
        self._qualities = [""] * len(segments)
        self.is_needed = not all(segment.is_synced for segment in segments)
        right: dict[str, float] = {}  # boot -> offset of the next segment that was synchronized
        for index in range(len(segments) - 1, -1, -1):
            _, boot, own_s, is_synced = segments[index]
            if is_synced:
                right[boot] = own_s
            elif boot in right:
                self._qualities[index], self._shifts[index] = CORRECTED, right[boot] - own_s
            else:
                self._qualities[index] = UNSYNCED

    def of(self, row: int, time: float) -> tuple[float, str]:
        """The time of the row with this id, and `StoredResult.clock`. Rows older than the segments are believed."""
        index = bisect_right(self._seqs, row & SEQ_MASK) - 1
        if index < 0:
            return time, ""
        return time + self._shifts[index], self._qualities[index]

    def of_entry(self, entry: JournalEntry) -> JournalEntry:
        """A message of the journal with the time it came at."""
        if not self.is_needed:
            return entry
        message = structs.replace(entry.message, time=self.of(entry.id, entry.message.time)[0])
        return replace(entry, message=message)


def read_segments(connection: apsw.Connection) -> list[Segment]:
    """All that are on disk."""
    query = "SELECT seq, boot, offset_s, is_synced, sum FROM clocks ORDER BY seq"
    return [
        Segment(seq, boot, own_s, bool(is_synced))
        for seq, boot, own_s, is_synced, checksum in rows(connection, query)
        if fields_sum(seq, boot, own_s, bool(is_synced)) == checksum  # a wrong correction is worse than none
    ]


class Segments:
    """The segments on disk and in memory; `corrections` follows them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # Where the boot is not known each life has one of its own: nothing is corrected over a restart then.
        self._boot = clock.boot_id or f"?{secrets.token_hex(8)}"
        self._all: list[Segment] = []
        self._staged: list[Segment] | None = None
        self.corrections = Corrections([])

    def load(self, connection: apsw.Connection) -> None:
        """Remember what is on disk."""
        self._all = read_segments(connection)
        self.corrections = Corrections(self._all)

    def can_correct(self) -> bool:
        """Whether the clock has become synchronized since the last segment of this boot began."""
        last = self._all[-1] if self._all else None
        return (
            last is not None and not last.is_synced and last.boot == self._boot and self._clock.is_synced() is not False
        )

    def flush(self, connection: apsw.Connection, seq: int) -> bool:
        """Rows from `seq` on are in the transaction under way. Whether that began a segment."""
        now = Segment(seq, self._boot, offset_s(self._clock), self._clock.is_synced() is not False)
        last = self._all[-1] if self._all else None
        if last is not None and _goes_on(last, now):
            return False
        kept = self._all if len(self._all) < MAX_SEGMENTS else _joined(self._all)
        if kept is not self._all:
            connection.execute("DELETE FROM clocks WHERE seq < ?", (kept[1].seq,))
            connection.execute(_PUT, (*kept[0], fields_sum(*kept[0])))
        connection.execute(_PUT, (*now, fields_sum(*now)))
        self._staged = [*(segment for segment in kept if segment.seq != seq), now]
        return True

    def commit(self) -> None:
        """The transaction is on disk."""
        if self._staged is not None:
            self._all, self._staged = self._staged, None
            self.corrections = Corrections(self._all)

    def rollback(self) -> None:
        """The transaction is not on disk."""
        self._staged = None


def _goes_on(last: Segment, now: Segment) -> bool:
    is_same = (last.boot, last.is_synced) == (now.boot, now.is_synced)
    return is_same and abs(last.offset_s - now.offset_s) <= _STEP_S


def _joined(segments: list[Segment]) -> list[Segment]:
    """The older half as one segment, of a boot that is forgotten: what was not synchronized in it stays so."""
    half = len(segments) // 2
    oldest = Segment(segments[0].seq, "", 0.0, all(segment.is_synced for segment in segments[:half]))
    return [oldest, *segments[half:]]
