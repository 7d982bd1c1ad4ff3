"""How many bytes each sink has sent on which day: counted in memory, written with whatever is committed anyway.

Invariant: what is in memory is never behind what is on disk. A crash forgets at most what was counted since the last
commit, which is a minute at the longest; the ack of a request that was stored is such a commit, so its bytes are on
disk before its results are forgotten.

Called from the event loop's thread (`add`, `days`, `date`) and from the writer's (the rest).
"""

import threading
from collections.abc import Mapping
from datetime import date, timedelta

import apsw

WRITE_EVERY_S = 60.0
_MOST = 2**50  # a petabyte a day
KEPT_DAYS = 400  # a year to look back on, and the month before it
_UPSERT = (
    "INSERT INTO usage VALUES (?,?,?,?) "
    "ON CONFLICT (sink, day) DO UPDATE SET n_bytes = excluded.n_bytes, n_requests = excluded.n_requests"
)

Cell = tuple[str, str]  # sink, day


class Usage:
    """The table `usage`. Implements gatewayd.quota.Book, and is a chore of the writer."""

    def __init__(self, connection: apsw.Connection) -> None:
        """Read what is on disk."""
        self._connection = connection
        self._lock = threading.Lock()
        self._days: dict[str, dict[str, list[int]]] = {}  # sink -> day -> bytes, requests
        self._changed: set[Cell] = set()  # since they were last written
        self._flushed: set[Cell] = set()  # by the transaction under way
        self._due_at_s = 0.0
        for sink, day, n_bytes, n_requests in connection.execute("SELECT sink, day, n_bytes, n_requests FROM usage"):
            if _is_sound(day, n_bytes, n_requests):
                self._days.setdefault(sink, {})[day] = [n_bytes, n_requests]

    def add(self, sink: str, day: str, n_bytes: int) -> None:
        """See gatewayd.quota.Book."""
        with self._lock:
            self._cell(sink, day, n_bytes, 1)

    def days(self, sink: str) -> Mapping[str, int]:
        """See gatewayd.quota.Book."""
        with self._lock:
            return {day: n[0] for day, n in self._days.get(sink, {}).items() if n[0]}

    def date(self, sink: str, day: str) -> None:
        """See gatewayd.quota.Book."""
        with self._lock:
            undated = self._days.get(sink, {}).get("")
            if undated and undated[1]:
                self._cell(sink, day, *undated)
                self._cell(sink, "", -undated[0], -undated[1])

    def flush(self) -> None:
        """Write what changed, within the transaction under way; `committed` or `rollback` follows."""
        if not self._changed:
            return
        with self._lock:
            self._flushed |= self._changed
            self._changed.clear()
            rows = [(*cell, *self._days[cell[0]][cell[1]]) for cell in self._flushed]
        self._connection.executemany(_UPSERT, rows)

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
        """Whether everything is on disk."""
        return not self._changed

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
            old = [(sink, day) for sink, days in self._days.items() for day in days if "" < day < oldest]
            for sink, day in old:
                del self._days[sink][day]
                self._changed.discard((sink, day))
        self._connection.execute("DELETE FROM usage WHERE day < ? AND day <> ''", (oldest,))

    def _cell(self, sink: str, day: str, n_bytes: int, n_requests: int) -> None:
        cell = self._days.setdefault(sink, {}).setdefault(day, [0, 0])
        cell[0] += n_bytes
        cell[1] += n_requests
        self._changed.add((sink, day))


def _is_sound(day: str, n_bytes: int, n_requests: int) -> bool:
    """Whether we can have written it: the table has no checksums, and may be what was left of a damaged file."""
    try:
        is_day = not day or date.fromisoformat(day).isoformat() == day
    except ValueError:
        return False
    return is_day and 0 <= n_bytes < _MOST and 0 <= n_requests < _MOST
