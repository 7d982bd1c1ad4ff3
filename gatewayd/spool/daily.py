"""Counts by name and day: kept in memory, written with whatever is committed anyway.

Invariant: what is in memory is never behind what is on disk. A crash forgets at most what was counted since the last
commit, which is a minute at the longest.

Called from the event loop's thread (`add`, `days`, `date`) and from the writer's (the rest).
"""

import threading
from collections.abc import Mapping, Sequence
from datetime import date, timedelta

import apsw

WRITE_EVERY_S = 60.0
_MOST = 2**50  # a petabyte a day
KEPT_DAYS = 400  # a year to look back on, and the month before it

Cell = tuple[str, str]  # name, day


class Daily:
    """A table whose key is a name and a `day`, and whose other columns are counts. A chore of the writer."""

    def __init__(self, connection: apsw.Connection, table: str, name: str, columns: Sequence[str]) -> None:
        """Read what is on disk."""
        self._connection = connection
        self._lock = threading.Lock()
        self._days: dict[str, dict[str, list[int]]] = {}  # name -> day -> counts
        self._changed: set[Cell] = set()  # since they were last written
        self._flushed: set[Cell] = set()  # by the transaction under way
        self._due_at_s = 0.0
        listed = ", ".join(columns)
        marks = ", ".join("?" for _ in (name, "day", *columns))
        changes = ", ".join(f"{column} = excluded.{column}" for column in columns)
        # The names are ours: nothing of it comes from outside.
        self._upsert = f"INSERT INTO {table} VALUES ({marks}) ON CONFLICT ({name}, day) DO UPDATE SET {changes}"  # noqa: S608
        self._forget = f"DELETE FROM {table} WHERE day < ? AND day <> ''"  # noqa: S608
        for who, day, *counts in connection.execute(f"SELECT {name}, day, {listed} FROM {table}"):  # noqa: S608
            if _is_sound(day, counts):
                self._days.setdefault(who, {})[day] = counts

    def add(self, who: str, day: str, *counts: int) -> None:
        """So much more of each; less, where a count is negative."""
        with self._lock:
            self._cell(who, day, counts)

    def days(self, who: str) -> Mapping[str, tuple[int, ...]]:
        """The counts by day; days without any are left out."""
        with self._lock:
            return {day: tuple(counts) for day, counts in self._days.get(who, {}).items() if any(counts)}

    def newest(self, who: str) -> str:
        """The last day that has any; "" when there is none."""
        with self._lock:
            return max((day for day, counts in self._days.get(who, {}).items() if any(counts)), default="")

    def total(self, who: str, *, since: str) -> tuple[int, ...]:
        """Of that day, of later ones, and of what has no day; empty when there are none."""
        with self._lock:
            known = [counts for day, counts in self._days.get(who, {}).items() if day >= since or not day]
        return tuple(map(sum, zip(*known, strict=True)))

    def date(self, who: str, day: str) -> None:
        """What was counted without a day belongs to this one."""
        with self._lock:
            undated = self._days.get(who, {}).get("")
            if undated and any(undated):
                self._cell(who, day, undated)
                self._cell(who, "", [-count for count in undated])

    def flush(self) -> None:
        """Write what changed, within the transaction under way; `committed` or `rollback` follows."""
        if not self._changed:
            return
        with self._lock:
            self._flushed |= self._changed
            self._changed.clear()
            rows = [(*cell, *self._days[cell[0]][cell[1]]) for cell in self._flushed]
        self._connection.executemany(self._upsert, rows)

    def committed(self) -> None:
        """The transaction is on disk."""
        self._flushed.clear()

    def rollback(self) -> None:
        """The transaction is not on disk; what was counted stays counted, and is written with the next one."""
        with self._lock:
            self._changed |= self._flushed
            self._flushed.clear()

    @property
    def is_written(self) -> bool:
        """Whether everything is on disk, or in the transaction under way."""
        return not self._changed

    @property
    def is_durable(self) -> bool:
        """Whether everything is on disk."""
        return not self._changed and not self._flushed

    def is_due(self, now_s: float) -> bool:
        """See `chores`: for hours in which nothing else is committed."""
        if self.is_written or now_s < self._due_at_s:
            return False
        self._due_at_s = now_s + WRITE_EVERY_S
        return True

    def run(self) -> None:
        """Forget the days that are too old; `flush` writes the rest."""
        with self._lock:
            newest = max((day for days in self._days.values() for day in days), default="")
            if not newest:
                return
            oldest = (date.fromisoformat(newest) - timedelta(days=KEPT_DAYS)).isoformat()
            old = [(who, day) for who, days in self._days.items() for day in days if "" < day < oldest]
            for who, day in old:
                del self._days[who][day]
                self._changed.discard((who, day))
        self._connection.execute(self._forget, (oldest,))

    def _cell(self, who: str, day: str, counts: Sequence[int]) -> None:
        cell = self._days.setdefault(who, {}).setdefault(day, [0] * len(counts))
        for index, count in enumerate(counts):
            cell[index] += count
        self._changed.add((who, day))


def _is_sound(day: str, counts: Sequence[int]) -> bool:
    """Whether we can have written it: the table has no checksums, and may be what was left of a damaged file."""
    try:
        is_day = not day or date.fromisoformat(day).isoformat() == day
    except ValueError:
        return False
    return is_day and all(0 <= count < _MOST for count in counts)
