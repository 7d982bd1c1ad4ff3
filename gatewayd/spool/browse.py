"""Rows of the spool for people and scripts: by table, route, sink, reason or id, a page at a time.

Ids are stable and never used twice: `r:<n>` a result, `j:<n>` a message of the journal, `d:<n>` a dead letter. Results
and messages share one sequence over all routes, so a number tells them apart without the route.

Every page is a read transaction of its own and ends before the next begins: a long one would keep the daemon's WAL
from being folded, and at the cap that costs rows.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import apsw
import msgspec

from gatewayd.errors import GatewaydError
from gatewayd.ports import DeadLetter, JournalEntry, StoredResult
from gatewayd.spool.damaged import is_unsummed
from gatewayd.spool.dead import COLUMNS, read_letter
from gatewayd.spool.migrations import SEQ_MASK, route_range
from gatewayd.spool.ranges import Range, read_ranges
from gatewayd.spool.rows import read_entry, read_result
from gatewayd.spool.segments import Corrections, read_segments
from gatewayd.spool.sql import number, rows
from gatewayd.spool.sums import UNSUMMED_UPTO, journal_sum, letter_sum, result_sum

Table = Literal["results", "journal", "dead"]

PAGE_ROWS = 64
_LETTERS: dict[str, Table] = {"r": "results", "j": "journal", "d": "dead"}
_PREFIX = {table: letter for letter, table in _LETTERS.items()}
_SELECT = {
    "results": "SELECT id, key, kind, subject, time, data, traceparent, sum FROM results",
    "journal": "SELECT id, payload, props, attempts, sum FROM journal",
    "dead": f"SELECT {COLUMNS}, sum FROM dead",  # noqa: S608
}
_MATCHES = (
    "(?1 = '' OR route = ?1) AND (?2 = '' OR sink = ?2) AND (?3 = '' OR reason = ?3) AND (?4 IS NULL OR time < ?4)"
)
_STRANGE = (TypeError, ValueError, AttributeError, OverflowError, msgspec.DecodeError)


class Pick(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which rows of a table; what is empty does not limit."""

    table: Table
    ids: tuple[int, ...] = ()  # numbers as in the ids above
    route: str = ""
    sink: str = ""  # results: that this sink has not had; dead letters: that this sink refused
    reason: str = ""  # of dead letters
    before: float | None = None  # stored earlier than this, seconds since the epoch; not for the journal

    def has_time(self, time: float) -> bool:
        """Whether a row of that time is meant."""
        return self.before is None or time < self.before


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row, and where it stands."""

    id: str
    route: str
    value: StoredResult | JournalEntry | DeadLetter | None  # None: it is damaged
    waiting: tuple[str, ...] = ()  # results: the sinks that have not had it
    had: tuple[str, ...] = ()  # results: the sinks that have


def row_id(table: Table, row: int) -> str:
    """The id that people see."""
    return f"{_PREFIX[table]}:{row if table == 'dead' else row & SEQ_MASK}"


def parse_id(text: str) -> tuple[Table, int]:
    """The table and the number of an id. Raises GatewaydError."""
    letter, _, digits = text.partition(":")
    if letter not in _LETTERS or not (digits.isascii() and digits.isdecimal()):
        error = GatewaydError(f"{text} is no id of a row: r:<n> is a result, j:<n> a message, d:<n> a dead letter")
        error.hint = "`gatewayd spool ls` prints ids, with --journal and with --dead those of messages and dead letters"
        raise error
    return _LETTERS[letter], int(digits)


def picks_of(ids: Sequence[str]) -> list[Pick]:
    """A pick for each table that the ids are of. Raises GatewaydError."""
    numbers: dict[Table, list[int]] = {}
    for table, found in map(parse_id, ids):
        numbers.setdefault(table, []).append(found)
    return [Pick(table=table, ids=tuple(dict.fromkeys(each))) for table, each in numbers.items()]


class Browser:
    """Reads through a connection that cannot write."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._corrections = Corrections(read_segments(connection))
        self._unsummed_upto = number(
            connection, "SELECT CAST(value AS INTEGER) FROM state WHERE name = ?", (UNSUMMED_UPTO,)
        )

    def rows(self, pick: Pick, *, newest_first: bool = False) -> Iterator[Row]:
        """The rows that are meant, in order of arrival over all routes; `newest_first` is for dead letters alone."""
        if pick.table == "dead":
            return self._letters(pick, newest_first=newest_first)
        if pick.ids:
            return self._by_number(pick)
        routes = [(route_id, name) for route_id, name in self._routes() if pick.route in ("", name)]
        each = [self._of_route(pick, route_id, name) for route_id, name in routes]
        return (row for _, row in heapq.merge(*each, key=lambda found: found[0] & SEQ_MASK))

    def count(self, pick: Pick) -> tuple[int, int]:
        """How many rows are meant, and their payloads' bytes. Takes time that grows with their number."""
        n, n_bytes = 0, 0
        for row in self.rows(pick):
            n, n_bytes = n + 1, n_bytes + payload_bytes(row)
        return n, n_bytes

    def _routes(self) -> list[tuple[int, str]]:
        return [(row, name) for row, name in rows(self._connection, "SELECT id, name FROM routes ORDER BY id")]

    def _letters(self, pick: Pick, *, newest_first: bool) -> Iterator[Row]:
        beyond, order, last = ("<", "DESC", 1 << 62) if newest_first else (">", "ASC", 0)
        matches = (pick.route, pick.sink, pick.reason, pick.before)
        if pick.ids:
            query = f"{_SELECT['dead']} WHERE {_MATCHES} AND id = ?5"
            for letter in pick.ids:
                yield from (self._letter(row) for row in rows(self._connection, query, (*matches, letter)))
            return
        query = f"{_SELECT['dead']} WHERE {_MATCHES} AND id {beyond} ?5 ORDER BY id {order} LIMIT {PAGE_ROWS}"
        while page := rows(self._connection, query, (*matches, last)):
            yield from map(self._letter, page)
            last = page[-1][0]

    def _letter(self, row: tuple[Any, ...]) -> Row:
        *columns, checksum = row
        try:
            is_intact = checksum in (0, letter_sum(columns[1:]))
            value = read_letter(columns) if is_intact else None
        except _STRANGE:
            value = None
        return Row(id=row_id("dead", row[0]), route=str(row[1]), value=value)

    def _by_number(self, pick: Pick) -> Iterator[Row]:
        routes = [(route_id, name) for route_id, name in self._routes() if pick.route in ("", name)]
        for wanted in pick.ids:
            for route_id, name in routes:
                row = route_range(route_id)[0] | wanted
                found = self._page(pick, route_id, name, row - 1, "AND id <= ?3", row)
                yield from (each for _, each in found if each is not None)

    def _of_route(self, pick: Pick, route_id: int, name: str) -> Iterator[tuple[int, Row]]:
        after = route_range(route_id)[0]
        end = route_range(route_id)[1]
        while page := self._page(pick, route_id, name, after, "AND id < ?3", end):
            yield from ((row, found) for row, found in page if found is not None)
            after = page[-1][0]

    def _page(
        self, pick: Pick, route_id: int, name: str, after: int, until: str, last: int
    ) -> list[tuple[int, Row | None]]:
        """The next rows of a route; None in place of those that are not meant."""
        query = f"{_SELECT[pick.table]} WHERE id > ?1 {until} ORDER BY id LIMIT ?2"
        self._connection.execute("BEGIN")  # rows and positions are of one moment
        try:
            positions = self._positions(route_id) if pick.table == "results" else {}
            if pick.sink and pick.table == "results":
                if pick.sink not in positions:
                    return []
                after = max(after, positions[pick.sink][0])
            page = rows(self._connection, query, (after, PAGE_ROWS, last))
        finally:
            self._connection.execute("COMMIT")
        if pick.table == "journal":
            return [(row[0], self._entry(row, name)) for row in page]
        return [(row[0], self._result(row, name, positions, pick)) for row in page]

    def _entry(self, row: tuple[Any, ...], route: str) -> Row:
        entry, payload, props, _, checksum = row
        try:
            is_intact = (
                is_unsummed(entry, checksum, self._unsummed_upto) or journal_sum(entry, payload, props) == checksum
            )
            value = self._corrections.of_entry(read_entry(row)) if is_intact else None
        except _STRANGE:
            value = None
        return Row(id=row_id("journal", entry), route=route, value=value)

    def _result(
        self, row: tuple[Any, ...], route: str, positions: dict[str, tuple[int, list[Range]]], pick: Pick
    ) -> Row | None:
        result, stored_time, checksum = row[0], row[4], row[7]
        time, _ = self._corrections.of(result, stored_time)
        waiting = tuple(sink for sink, (pos, ranges) in positions.items() if _waits(result, pos, ranges))
        if (pick.sink and pick.sink not in waiting) or not pick.has_time(time):
            return None
        value = None
        try:
            if is_unsummed(result, checksum, self._unsummed_upto) or result_sum(*row[:-1]) == checksum:
                value = read_result(row, route, self._corrections.of)
        except _STRANGE:
            value = None
        had = tuple(sink for sink in positions if sink not in waiting)
        return Row(id=row_id("results", result), route=route, value=value, waiting=waiting, had=had)

    def _positions(self, route_id: int) -> dict[str, tuple[int, list[Range]]]:
        ranges = read_ranges(self._connection)
        query = "SELECT sink, pos FROM cursors WHERE route_id = ? ORDER BY sink"
        found = rows(self._connection, query, (route_id,))
        return {sink: (pos, ranges.get((sink, route_id), [])) for sink, pos in found}


def payload_bytes(row: Row) -> int:
    """The size of what the row carries."""
    value = row.value
    if isinstance(value, StoredResult):
        return len(value.data)
    if isinstance(value, JournalEntry):
        return len(value.message.payload)
    return 0 if value is None else len(value.payload)


def _waits(row: int, pos: int, ranges: Sequence[Range]) -> bool:
    return row > pos and not any(first < row <= last for first, last in ranges)
