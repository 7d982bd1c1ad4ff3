"""Thinning a route's results in the database: the oldest become aggregates, the newest stay as they are.

Invariants: no aggregate mixes rows a sink has had with rows it has not, or rows that are being sent with others; what
replaces rows takes the id of the last of them, so the order is kept; the rows replaced are counted as evicted (reason
"thinned"), the aggregates as produced, in the same transaction and for each sink that was still to get them.

A pass goes from the oldest row to the newest, a chunk at a time. When it has left three quarters of the route's span
behind, and has made as many aggregates as are worth merging, the next pass begins and merges them further. A chunk that
is not full stays as it is: the newest rows are kept raw. So each row is looked at once a pass, and a pass is long.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import apsw

from gatewayd.spool import sql
from gatewayd.spool.aggregates import KIND, Row, Thinning, thin
from gatewayd.spool.in_flight import Span
from gatewayd.spool.ledger import Ledger
from gatewayd.spool.migrations import route_range
from gatewayd.spool.positions import Positions
from gatewayd.spool.sums import result_sum

REASON = "thinned"
CHUNK_ROWS = 256
_MAX_CHUNKS = 64  # looked at in one go: rows that cannot be thinned must not hold up a commit for long
_BYTES_AN_AGGREGATE = 16 * 1024  # of the cap: so many aggregates of one pass are kept before they are merged

_SIZES = "SELECT id, length(data) FROM results WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"
_ROWS = "SELECT id, key, kind, subject, time, data, traceparent, sum FROM results WHERE id >= ? AND id <= ? ORDER BY id"
_FIRST = {
    "results": "SELECT min(id) FROM results WHERE id > ? AND id < ?",
    "journal": "SELECT min(id) FROM journal WHERE id > ? AND id < ?",
}
_LAST = "SELECT max(id) FROM results WHERE id > ? AND id < ?"
_FIRST_RAW = f"SELECT min(id) FROM results WHERE id > ? AND id < ? AND kind != '{KIND}'"  # noqa: S608
_REPLACE = (
    "UPDATE results SET key = ?, kind = ?, subject = ?, time = ?, data = ?, traceparent = '', sum = ? WHERE id = ?"
)

OnEvicted = Callable[[str, str, int, str], None]  # route, sink, n, reason


class _Pass:
    """How far thinning has come in a route."""

    __slots__ = ("front", "n_made")

    def __init__(self, front: int) -> None:
        self.front = front  # id of the last row of the last chunk
        self.n_made = CHUNK_ROWS  # aggregates, since the pass began; of passes of former lives nothing is known

    def restart(self, begin: int) -> None:
        self.front, self.n_made = begin, 0


class _Chunk(NamedTuple):
    first: int
    last: int


class Thinner:
    """Knows how far each route is thinned. In memory alone: it is found again from the rows."""

    def __init__(
        self,
        connection: apsw.Connection,
        positions: Positions,
        ledger: Ledger,
        *,
        max_bytes: int,
        chunk_bytes: int,
        on_evicted: OnEvicted,
    ) -> None:
        self._connection = connection
        self._positions = positions
        self._ledger = ledger
        self._chunk_bytes = chunk_bytes
        self._min_made = max(CHUNK_ROWS, max_bytes // _BYTES_AN_AGGREGATE)
        self._on_evicted = on_evicted
        self._passes: dict[str, _Pass] = {}
        self._spent: set[str] = set()

    def begin(self) -> None:
        """A transaction begins: routes that had nothing more to thin may have grown."""
        self._spent.clear()

    def forget(self) -> None:
        """The transaction was undone."""
        self._passes.clear()
        self._spent.clear()

    def next_row(self, route: str, spans: Sequence[Span]) -> int:
        """Id of the row thinning would begin with, 0 when it has nothing more to do; `spans` are in flight."""
        if route in self._spent:
            return 0
        begin, end = self._bounds(route)
        connection, front = self._connection, self._pass(route).front
        return first_free(connection, "results", front, end, spans) or first_free(
            connection, "results", begin, end, spans
        )

    def thin(self, route: str, spans: Sequence[Span]) -> int:
        """Replace the next chunk by aggregates: the bytes of these, or 0 when there is nothing more to thin."""
        begin, end = self._bounds(route)
        state = self._pass(route)
        for _ in range(_MAX_CHUNKS):
            if self._is_far(state, begin, end):
                state.restart(begin)
            chunk = self._next_chunk(route, state.front, spans)
            if chunk is None and state.n_made >= CHUNK_ROWS:
                state.restart(begin)
                chunk = self._next_chunk(route, begin, spans)
            if chunk is None:
                break
            state.front = chunk.last
            thinning = thin(self._read(chunk))
            if thinning is not None:
                state.n_made += len(thinning.made)
                self._replace(route, chunk, thinning)
                return sum(len(row.data) for row in thinning.made)
        self._spent.add(route)
        return 0

    def _pass(self, route: str) -> _Pass:
        state = self._passes.get(route)
        if state is None:
            begin, end = self._bounds(route)
            raw = self._number(_FIRST_RAW, begin, end)
            state = self._passes[route] = _Pass(raw - 1 if raw else begin)
        return state

    def _is_far(self, state: _Pass, begin: int, end: int) -> bool:
        if state.n_made < self._min_made:
            return False
        first, last = self._number(_FIRST["results"], begin, end), self._number(_LAST, begin, end)
        return 4 * (state.front - first) >= 3 * (last - first)

    def _next_chunk(self, route: str, after: int, spans: Sequence[Span]) -> _Chunk | None:
        last = self._bounds(route)[1] - 1
        while True:
            after = _beyond(after, spans)
            until = min(last, self._barrier(route, after, spans) or last)
            n_rows, n_bytes, first, end = 0, 0, 0, 0
            for row, size in self._connection.execute(_SIZES, (after, until, CHUNK_ROWS)):
                if n_rows >= 2 and n_bytes + size > self._chunk_bytes:
                    return _Chunk(first, end)
                first, end = first or row, row
                n_rows, n_bytes = n_rows + 1, n_bytes + size
            if n_rows == CHUNK_ROWS or (n_rows > 1 and until < last):
                return _Chunk(first, end)
            if until >= last:
                return None  # the newest rows, which do not fill a chunk
            after = until

    def _barrier(self, route: str, after: int, spans: Sequence[Span]) -> int:
        """The next id at which what a sink has had begins or ends, or what is in flight begins; 0: none."""
        edges = [first - 1 for first, _ in spans]
        for sink in self._positions.sinks(route):
            for gap in self._positions.gaps(route, sink, after=after):
                edges += gap
        return min((edge for edge in edges if edge > after), default=0)

    def _read(self, chunk: _Chunk) -> list[Row]:
        rows = []
        for *columns, checksum in self._connection.execute(_ROWS, chunk):
            if checksum in {0, result_sum(*columns)}:  # what is damaged is found when it is to be sent
                rows.append(Row(*columns[:-1]))
        return rows

    def _replace(self, route: str, chunk: _Chunk, thinning: Thinning) -> None:
        sinks = self._positions.sinks(route)
        before = [self._pending(route, sink, chunk) for sink in sinks]
        made = {row.id for row in thinning.made}
        gone = [row for row in thinning.gone if row not in made]
        for _ in sql.by_ids(self._connection, "DELETE FROM results WHERE id IN", gone):
            pass
        for row in thinning.made:
            checksum = result_sum(*row, "")
            self._connection.execute(_REPLACE, (*row[1:], checksum, row.id))
        for sink, n_before in zip(sinks, before, strict=True):
            if n_before:
                n_made = len(thinning.made)
                n_gone = n_before - self._pending(route, sink, chunk) + n_made
                self._ledger.result(route, sink, "produced", n_made)
                self._ledger.result(route, sink, "evicted", n_gone, REASON)
                self._on_evicted(route, sink, n_gone, REASON)

    def _pending(self, route: str, sink: str, chunk: _Chunk) -> int:
        return self._positions.pending(route, sink, after=chunk.first - 1, upto=chunk.last)

    def _bounds(self, route: str) -> tuple[int, int]:
        return route_range(self._positions.route_ids[route])

    def _number(self, statement: str, *bindings: object) -> int:
        return sql.number(self._connection, statement, bindings)


def first_free(connection: apsw.Connection, table: str, after: int, end: int, spans: Sequence[Span]) -> int:
    """The lowest id between `after` and `end` (both exclusive) that is not in flight, 0 when there is none."""
    row = sql.number(connection, _FIRST[table], (after, end))
    for first, last in spans:  # the lowest first
        if first <= row <= last:
            row = sql.number(connection, _FIRST[table], (last, end))
    return row


def _beyond(after: int, spans: Sequence[Span]) -> int:
    """The same id, or the end of what is in flight right behind it."""
    for first, last in spans:
        if first <= after + 1 <= last:
            after = last
    return after
