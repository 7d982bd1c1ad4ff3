"""The rows of a damaged spool whose checksums are right, by table; results, messages and letters into a fresh spool."""

import struct
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import apsw

from gatewayd.spool import sql
from gatewayd.spool.migrations import SEQ_BITS, SEQ_MASK, route_range
from gatewayd.spool.pages import Pages
from gatewayd.spool.sums import fields_sum, journal_sum, letter_sum, result_sum

_CHUNK_ROWS = 1024
_N_RESULT, _N_JOURNAL, _N_LETTER = 8, 5, 11  # columns
_INSERT = {
    "results": "INSERT OR IGNORE INTO results VALUES (?,?,?,?,?,?,?,?)",
    "journal": "INSERT OR IGNORE INTO journal VALUES (?,?,?,?,?)",
    "dead": "INSERT OR IGNORE INTO dead VALUES (?,?,?,?,?,?,?,?,?,?,?)",
}
_STRANGE = (
    TypeError,
    ValueError,
    OverflowError,
    AttributeError,
    struct.error,
)  # not of the types that a checksum is made of


class Finder:
    """Sorts rows by their form and believes none without its checksum."""

    def __init__(self, target: apsw.Connection) -> None:
        self._target = target
        self.routes: dict[int, str] = {}
        self.counters: dict[tuple[str, ...], int] = {}
        self.cursors: dict[tuple[str, int], int] = {}
        self.ranges: set[tuple[str, int, int, int]] = set()
        self.pairs: set[tuple[str, int]] = set()  # a text and a number, without a checksum
        self.seq = 0
        self.n_bad = 0

    def read(self, pages: Pages) -> None:
        """Everything there is. The transactions are short, so that the fresh spool's log stays so."""
        rows = pages.rows()
        while chunk := list(islice(rows, _CHUNK_ROWS)):
            with self._target:
                for row in chunk:
                    self._take(*row)

    def _take(self, row: int, values: tuple[Any, ...]) -> None:
        try:
            table = self._table(row, values)
        except _STRANGE:
            self.n_bad += 1
            return
        if table in _INSERT:
            self._target.execute(_INSERT[table], (row, *values[1:]))
        elif table is None:
            self.n_bad += 1
        if table in {"results", "journal"}:
            self.seq = max(self.seq, row & SEQ_MASK)

    def _table(self, row: int, values: tuple[Any, ...]) -> str | None:
        """Where it belongs; "" for what is kept here or is of no interest, None for what is damaged."""
        n = len(values)
        if row and n == _N_RESULT:
            return "results" if _result_is_whole(row, values) else None
        if row and n == _N_JOURNAL and isinstance(values[1], bytes):
            _, payload, props, n_attempts, checksum = values
            return "journal" if n_attempts >= 0 and journal_sum(row, payload, props) == checksum else None
        if row and n == _N_LETTER:
            return "dead" if letter_sum(values[1:10]) == values[10] else None
        if row and n == 3 and isinstance(values[1], str):
            if fields_sum(row, values[1]) != values[2]:
                return None
            self.routes[row] = values[1]
        elif not row and n in {4, 5, 7} and isinstance(values[-1], int):
            self._keep(values)
        elif not row and n == 2 and isinstance(values[0], str) and isinstance(values[1], int):
            self.pairs.add((values[0], values[1]))
        return ""

    def _keep(self, values: tuple[Any, ...]) -> None:
        *fields, checksum = values
        if fields_sum(*fields) != checksum:
            return  # also of other tables without ids, which have as many columns
        if len(fields) == 6:
            self.counters.setdefault(tuple(fields[:5]), fields[5])
        elif len(fields) == 4:
            self.ranges.add(tuple(fields))
        else:
            sink, route_id, pos = fields
            self.cursors[sink, route_id] = min(pos, self.cursors.get((sink, route_id), pos))

    def unnamed(self) -> set[int]:
        """The numbers of routes that have rows, or cursors, and no name."""
        found = {route_id for _, route_id in self.cursors}
        for table in ("results", "journal"):
            found |= {row for (row,) in sql.rows(self._target, f"SELECT DISTINCT id >> {SEQ_BITS} FROM {table}")}  # noqa: S608
        return found - self.routes.keys()

    def drop_unknown(self) -> int:
        """Rows of routes that are found nowhere; how many."""
        n_changes = self._target.total_changes()
        marks = ",".join(map(str, self.routes))
        for table in ("results", "journal"):
            self._target.execute(f"DELETE FROM {table} WHERE id >> {SEQ_BITS} NOT IN ({marks})")  # noqa: S608
        return self._target.total_changes() - n_changes

    def drop_resolved(self, routes: Mapping[str, Sequence[str]]) -> None:
        """Results that every sink has had: a page that was damaged may still have held them."""
        for route_id, route in self.routes.items():
            own = {sink: pos for (sink, known), pos in self.cursors.items() if known == route_id}
            if own and all(sink in own for sink in routes.get(route, ())):
                first = route_range(route_id)[0]
                self._target.execute("DELETE FROM results WHERE id > ? AND id <= ?", (first, min(own.values())))

    def count(self) -> int:
        """Results, messages and dead letters that are in the fresh spool."""
        return sum(sql.number(self._target, f"SELECT count(*) FROM {table}") for table in _INSERT)  # noqa: S608


def _result_is_whole(row: int, values: tuple[Any, ...]) -> bool:
    _, key, kind, subject, time, data, trace, checksum = values
    return bool(result_sum(row, key, kind, subject, time, data, trace) == checksum)
