"""The cap: how many bytes the spool takes, and making room by evicting or thinning.

Invariant: a row is deleted here together with its count, for each sink that had not had it. The database may use what
is left of the cap beside the WAL; a file grows only when no free page is left, so bounding the pages in use bounds the
file. A transaction larger than the WAL's
reserve (3/16 of a small cap, at most 3 MiB) would not fit beside a file of full size: then the file is made smaller
before it, see `Writer`.

Who loses is in `victims`; how, is the loser's own `when_full`. What is being sent now goes when nothing else can, for
it may arrive all the same. Dead letters have their own bounds.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import apsw

from gatewayd.crash import NO_CRASH, CrashPoint
from gatewayd.spool.database import PAGE_BYTES
from gatewayd.spool.in_flight import Span
from gatewayd.spool.ledger import Ledger
from gatewayd.spool.migrations import SEQ_MASK, route_range
from gatewayd.spool.policy import RoutePolicy
from gatewayd.spool.positions import Positions
from gatewayd.spool.sql import by_ids, number
from gatewayd.spool.thin import OnEvicted, Thinner, first_free
from gatewayd.spool.victims import Candidate, Needing, Victim, choose

REASON = "cap"
_CHUNK_ROWS = 256
_FRAMES = 1.1  # bytes in the WAL for a byte inserted: headers, and pages written beside those of the rows
_SLACK_BYTES = 16 * PAGE_BYTES  # freed beyond the need, so that not every commit at the cap has to evict
_OLDEST = {
    "results": "SELECT id, length(data) FROM results WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
    "journal": "SELECT id, length(payload) FROM journal WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
}
_DELETE = {table: f"DELETE FROM {table} WHERE id >= ? AND id <= ?" for table in _OLDEST}  # noqa: S608


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
        spans: Callable[[str], Sequence[Span]],
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
        self._spans = spans  # rows of a route that are being sent now, the lowest first
        self._on_evicted = on_evicted
        self._crash = crash
        self.used_bytes = 0  # pages in use, without the WAL
        self._added_bytes = 0  # by the transaction under way
        self._thinner = Thinner(
            connection,
            positions,
            ledger,
            max_bytes=max_bytes,
            chunk_bytes=self.group_bytes,
            on_evicted=on_evicted,
        )
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

    @property
    def is_oversize(self) -> bool:
        """Whether the file is larger than this cap would have let it become."""
        return int(self._connection.pragma("page_count")) * PAGE_BYTES > self._max_bytes - self._wal_reserve

    def is_tight(self, n_bytes: int) -> bool:
        """Whether a transaction of this size is too large for the WAL's reserve while the file is as large as it is."""
        if n_bytes <= self.group_bytes:
            return False
        file_bytes = int(self._connection.pragma("page_count")) * PAGE_BYTES
        return file_bytes + self.wal_bytes + self.group_bytes + int((1 + _FRAMES) * n_bytes) > self._max_bytes

    def blocks(self, route: str) -> bool:
        """Whether the route would rather wait than lose what is oldest."""
        return self._policy(route).when_full == "block"

    def may_answer(self, need_bytes: int, done: Sequence[int]) -> bool:
        """Whether results of a route that blocks may take the place of the journal rows they answer.

        If not they wait until a sink has had something; where nothing waits for a sink they must go through.
        """
        room = self.room_bytes()
        if room >= need_bytes:
            return True
        found = by_ids(self._connection, "SELECT length(payload) FROM journal WHERE id IN", done)
        freed = sum(size for cursor in found for (size,) in cursor)
        return room + freed >= need_bytes or not number(self._connection, "SELECT EXISTS (SELECT 1 FROM results)")

    def begin(self) -> None:
        """A transaction begins."""
        self._added_bytes = 0
        self._thinner.begin()
        self.measure()

    def load(self) -> None:
        """What is on disk may not be what was there before: forget what was concluded from it."""
        self._thinner.forget()
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

    def make_room(self, need_bytes: int, route: str | None = None) -> int:
        """Evict and thin until `need_bytes` fit, or nothing is left that may be taken; the room there is then.

        `route` needs the room; None: the spool itself does. Every new row must be in its table, for it counts, and may
        be what is taken.
        """
        room = self.room_bytes()
        if room >= need_bytes:
            return room
        self.measure()
        return self._free(need_bytes + _SLACK_BYTES, None if route is None else Needing(route, self._policy(route)))

    def _free(self, goal_bytes: int, needing: Needing | None) -> int:
        room = self.room_bytes()
        for spans in (self._spans, _nothing):
            candidates = {(one.route, one.table): one for one in self._candidates(spans)}
            while room < goal_bytes and (victim := choose(list(candidates.values()), needing)) is not None:
                route, table = victim.candidate.route, victim.candidate.table
                self._lose(victim, goal_bytes - room, spans(route))
                # Nothing has changed for the others: each is looked at once, however many rows have to go.
                del candidates[route, table]
                if (left := self._candidate(route, table, spans)) is not None:
                    candidates[route, table] = left
                self.measure()
                room = self.room_bytes()
        return room

    def _candidates(self, spans: Callable[[str], Sequence[Span]]) -> list[Candidate]:
        found = [self._candidate(route, table, spans) for table in _OLDEST for route in self._positions.route_ids]
        return [candidate for candidate in found if candidate is not None]

    def _candidate(self, route: str, table: str, spans: Callable[[str], Sequence[Span]]) -> Candidate | None:
        policy = self._policy(route)
        if policy.when_full == "block":
            return None
        begin, end = route_range(self._positions.route_ids[route])
        is_results = table == "results"
        row = first_free(self._connection, table, begin, end, spans(route) if is_results else ())
        if not row:
            return None
        thins = is_results and policy.when_full == "thin"
        next_row = self._thinner.next_row(route, self._spans(route)) if thins else 0
        return Candidate(route, table, policy, (next_row or row) & SEQ_MASK, bool(next_row))

    def _lose(self, victim: Victim, n_bytes: int, spans: Sequence[Span]) -> None:
        candidate = victim.candidate
        if candidate.is_thinnable:
            # The next look at the candidate shows whether there was anything left to thin.
            self._added_bytes += self._thinner.thin(candidate.route, self._spans(candidate.route))
            return
        self._evict(candidate.table, candidate.route, victim.until_seq, n_bytes, spans)

    def _evict(self, table: str, route: str, until_seq: int, n_bytes: int, spans: Sequence[Span]) -> None:
        begin, end = route_range(self._positions.route_ids[route])
        spared = spans if table == "results" else ()
        first = first_free(self._connection, table, begin, end, spared)
        end = min((start for start, _ in spared if start > first), default=end)
        last, n_rows, n_freed = first, 0, 0
        for row, size in self._connection.execute(_OLDEST[table], (first, end, _CHUNK_ROWS)):
            if n_rows and (n_freed >= n_bytes or row & SEQ_MASK > until_seq):
                break
            last, n_rows, n_freed = row, n_rows + 1, n_freed + size
        if table == "results":
            self._count_results(route, first, last)
        else:
            self._ledger.message(route, "evicted", n_rows, REASON)
            self._on_evicted(route, "", n_rows, REASON)
        self._crash.reach("spool.evicting")
        self._connection.execute(_DELETE[table], (first, last))

    def _count_results(self, route: str, first: int, last: int) -> None:
        for sink in self._positions.sinks(route):
            n_lost = self._positions.pending(route, sink, after=first - 1, upto=last)
            if n_lost:
                self._ledger.result(route, sink, "evicted", n_lost, REASON)
                self._on_evicted(route, sink, n_lost, REASON)


def _nothing(_route: str) -> Sequence[Span]:
    return ()
