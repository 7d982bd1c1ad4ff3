"""The cap: how many bytes the spool takes, and making room by evicting what is oldest.

Invariant: a row is deleted here together with its count, for each sink that had not had it. The database may use what
is left of the cap beside the WAL; a file grows only when no free page is left, so bounding the pages in use bounds the
file. A transaction larger than the WAL's
reserve (3/16 of a small cap, at most 3 MiB) would not fit beside a file of full size: then the file is made smaller
before it, see `Writer`.

Order of eviction: results, globally oldest first, then raw messages of the journal; only of routes that say
`when_full = "evict_oldest"`. Dead letters have their own bounds.
"""

from collections.abc import Callable
from pathlib import Path

import apsw

from gatewayd.crash import NO_CRASH, CrashPoint
from gatewayd.spool.database import PAGE_BYTES
from gatewayd.spool.ledger import Ledger
from gatewayd.spool.migrations import SEQ_MASK, route_range
from gatewayd.spool.policy import RoutePolicy
from gatewayd.spool.positions import Positions
from gatewayd.spool.sql import number

REASON = "cap"
_CHUNK_ROWS = 256
_FRAMES = 1.1  # bytes in the WAL for a byte inserted: headers, and pages written beside those of the rows
_SLACK_BYTES = 16 * PAGE_BYTES  # freed beyond the need, so that not every commit at the cap has to evict
_OLDEST = {
    "results": "SELECT id, length(data) FROM results WHERE id > ? AND id < ? ORDER BY id LIMIT ?",
    "journal": "SELECT id, length(payload) FROM journal WHERE id > ? AND id < ? ORDER BY id LIMIT ?",
}
_FIRST = {table: f"SELECT min(id) FROM {table} WHERE id > ? AND id < ?" for table in _OLDEST}  # noqa: S608
_DELETE = {table: f"DELETE FROM {table} WHERE id > ? AND id <= ?" for table in _OLDEST}  # noqa: S608

OnEvicted = Callable[[str, str, int], None]  # route, sink ("" for a message of the journal), n


def wal_pages_for(max_bytes: int) -> int:
    """How long the WAL may get before it is folded into the file: small, for a full disk must leave room to drain."""
    return max(32, min(256, max_bytes // PAGE_BYTES // 16))


class Cap:
    """Measures and makes room. `used` is measured once a transaction and then kept by estimate."""

    def __init__(
        self,
        connection: apsw.Connection,
        path: Path,
        positions: Positions,
        ledger: Ledger,
        *,
        max_bytes: int,
        policy: Callable[[str], RoutePolicy],
        on_evicted: OnEvicted,
        crash: CrashPoint = NO_CRASH,
    ) -> None:
        self._connection = connection
        self._wal = path.with_name(path.name + "-wal")
        self._positions = positions
        self._ledger = ledger
        self._max_bytes = max_bytes
        self._wal_reserve = 3 * wal_pages_for(max_bytes) * PAGE_BYTES
        self._policy = policy
        self._on_evicted = on_evicted
        self._crash = crash
        self.used_bytes = 0  # pages in use, without the WAL
        self._added_bytes = 0  # by the transaction under way
        # The last line of defense, should an estimate be wrong.
        connection.pragma("max_page_count", max_bytes // PAGE_BYTES)

    @property
    def group_bytes(self) -> int:
        """The most one transaction should bring, so that the WAL stays within its reserve."""
        return self._wal_reserve // 3

    @property
    def wal_bytes(self) -> int:
        """Size of the WAL file."""
        try:
            return self._wal.stat().st_size
        except FileNotFoundError:
            return 0

    def is_tight(self, n_bytes: int) -> bool:
        """Whether a transaction of this size is too large for the WAL's reserve while the file is as large as it is."""
        if n_bytes <= self.group_bytes:
            return False
        file_bytes = int(self._connection.pragma("page_count")) * PAGE_BYTES
        return file_bytes + self.wal_bytes + self.group_bytes + int((1 + _FRAMES) * n_bytes) > self._max_bytes

    def blocks(self, route: str) -> bool:
        """Whether the route would rather wait than lose what is oldest."""
        return self._policy(route).when_full == "block"

    def begin(self) -> None:
        """A transaction begins."""
        self._added_bytes = 0
        self.measure()

    def add(self, n_bytes: int) -> None:
        """The transaction is going to insert about so much."""
        self.used_bytes += n_bytes
        self._added_bytes += n_bytes

    def measure(self) -> None:
        """Look at the file; within a transaction, what it changed so far is seen."""
        pages: int = self._connection.pragma("page_count") - self._connection.pragma("freelist_count")
        self.used_bytes = pages * PAGE_BYTES

    def room_bytes(self) -> int:
        """How much may still be stored; negative beyond the cap.

        A transaction is in the WAL and in the database at once, so one that is larger than the reserve counts twice.
        """
        left = self._max_bytes - self.used_bytes
        twice = (left - self.group_bytes - int(_FRAMES * self._added_bytes)) / (1 + _FRAMES)
        return min(left - max(self._wal_reserve, self.wal_bytes), int(twice))

    def make_room(self, need_bytes: int) -> int:
        """Evict until `need_bytes` fit, or nothing is left to evict; the room there is then."""
        room = self.room_bytes()
        if room >= need_bytes:
            return room
        goal = need_bytes + _SLACK_BYTES
        added = self.used_bytes
        self.measure()
        added -= self.used_bytes  # what this transaction is still going to insert, by estimate
        while (room := self.room_bytes() - added) < goal and self._evict(goal - room):
            self.measure()
        self.used_bytes += added
        return room

    def _evict(self, n_bytes: int) -> bool:
        for table in _OLDEST:
            firsts = sorted(self._firsts(table))
            if firsts:
                # Up to the next route's oldest row, so that the order is global.
                until = firsts[1][0] if len(firsts) > 1 else SEQ_MASK
                self._evict_rows(table, firsts[0][1], until, n_bytes)
                return True
        return False

    def _firsts(self, table: str) -> list[tuple[int, str]]:
        routes = [(route, route_id) for route, route_id in self._positions.route_ids.items() if not self.blocks(route)]
        firsts = [(number(self._connection, _FIRST[table], route_range(route_id)), route) for route, route_id in routes]
        return [(row & SEQ_MASK, route) for row, route in firsts if row]

    def _evict_rows(self, table: str, route: str, until_seq: int, n_bytes: int) -> None:
        begin, end = route_range(self._positions.route_ids[route])
        last, n_rows, n_freed = begin, 0, 0
        for row, size in self._connection.execute(_OLDEST[table], (begin, end, _CHUNK_ROWS)):
            if n_rows and (n_freed >= n_bytes or row & SEQ_MASK > until_seq):
                break
            last, n_rows, n_freed = row, n_rows + 1, n_freed + size
        if table == "results":
            self._count_results(route, last)
        else:
            self._ledger.message(route, "evicted", n_rows, REASON)
            self._on_evicted(route, "", n_rows)
        self._crash.reach("spool.evicting")
        self._connection.execute(_DELETE[table], (begin, last))

    def _count_results(self, route: str, last: int) -> None:
        for sink in self._positions.sinks(route):
            n_lost = self._positions.pending(route, sink, upto=last)
            if n_lost:
                self._ledger.result(route, sink, "evicted", n_lost, REASON)
                self._on_evicted(route, sink, n_lost)
