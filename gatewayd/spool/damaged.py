"""Rows that are not what was written, met while the spool is in use: they leave it, and what is behind them goes on.

Invariant: no result is sent and no message handled whose checksum is wrong. Such a row leaves in a transaction of its
own: to the dead letters, and in the books as evicted (a result, for each sink that had not had it) or dead (a message).
"""

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apsw
import msgspec
import structlog

from gatewayd.errors import GatewaydError
from gatewayd.ports import DeadLetter
from gatewayd.spool import sql
from gatewayd.spool.ledger import Ledger
from gatewayd.spool.migrations import SEQ_BITS, SEQ_MASK, route_range
from gatewayd.spool.positions import Positions
from gatewayd.spool.rows import read_entry
from gatewayd.spool.sums import UNSUMMED_UPTO, journal_sum, result_sum

log = structlog.get_logger(__name__)

REASON = "damaged"
_DETAIL = "what the disk gave back is not what was written"

RESULTS = "SELECT id, key, kind, subject, time, data, traceparent, sum FROM results"
JOURNAL = "SELECT id, payload, props, attempts, sum FROM journal"
# Text as bytes: a damaged one need not be text any more.
_RAW = {
    "results": "SELECT id, CAST(key AS BLOB), CAST(kind AS BLOB), CAST(subject AS BLOB), time, data, "
    "CAST(traceparent AS BLOB), sum FROM results",
    "journal": JOURNAL,
}
# Not of the types that a checksum is made of, or text that is none.
_STRANGE = (TypeError, ValueError, AttributeError, OverflowError, struct.error, msgspec.DecodeError)

Emit = Callable[[str, Mapping[str, object]], None]


@dataclass
class DamagedRowsError(GatewaydError):
    """Some of the first `limit` rows of `table` with ids in (first, last] are damaged."""

    table: str
    first: int
    last: int
    limit: int


class Checked:
    """Reads rows and believes none without its checksum."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._unsummed_upto = 0

    def load(self) -> None:
        """Learn which rows may be without: those of version 1."""
        query = "SELECT value FROM state WHERE name = ?"
        self._unsummed_upto = sql.number(self._connection, query, (UNSUMMED_UPTO,))

    def results(self, first: int, last: int, limit: int) -> Iterator[tuple[Any, ...]]:
        """Rows of `RESULTS` in (first, last], in order. Raises DamagedRowsError."""
        return self._rows("results", RESULTS, first, last, limit)

    def journal(self, first: int, last: int, limit: int) -> Iterator[tuple[Any, ...]]:
        """Rows of `JOURNAL` in (first, last], in order. Raises DamagedRowsError."""
        return self._rows("journal", JOURNAL, first, last, limit)

    def journal_rows(self, ids: Sequence[int]) -> Iterator[tuple[Any, ...]]:
        """Rows of `JOURNAL` by id, in that order; those that are gone are left out. Raises DamagedRowsError."""
        for row in ids:
            yield from self.journal(row - 1, row, 1)

    def _rows(self, table: str, select: str, first: int, last: int, limit: int) -> Iterator[tuple[Any, ...]]:
        query = f"{select} WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"
        try:
            for row in self._connection.execute(query, (first, last, limit)):
                if not self.is_whole(table, row):
                    raise DamagedRowsError(table, first, last, limit)
                yield row
        except UnicodeDecodeError as error:
            raise DamagedRowsError(table, first, last, limit) from error

    def is_whole(self, table: str, row: tuple[Any, ...]) -> bool:
        """Whether a row of `RESULTS` or `JOURNAL` is what was written."""
        checksum = row[-1]
        try:
            if is_unsummed(row[0], checksum, self._unsummed_upto):
                return True
            if table == "results":
                return bool(result_sum(*row[:-1]) == checksum)
            return bool(journal_sum(*row[:3]) == checksum and row[3] >= 0)
        except _STRANGE:
            return False

    def find(self, damaged: DamagedRowsError) -> list[tuple[Any, ...]]:
        """The damaged rows, their texts as bytes."""
        query = f"{_RAW[damaged.table]} WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"
        rows = sql.rows(self._connection, query, (damaged.first, damaged.last, damaged.limit))
        return [row for row in rows if not self.is_whole(damaged.table, _with_texts(damaged.table, row))]


class GiveUp:
    """Takes damaged rows out of the spool."""

    def __init__(
        self,
        connection: apsw.Connection,
        checked: Checked,
        positions: Positions,
        ledger: Ledger,
        bury: Callable[[Sequence[DeadLetter]], None],
        emit: Emit,
    ) -> None:
        self._connection = connection
        self._checked = checked
        self._positions = positions
        self._ledger = ledger
        self._bury = bury
        self._emit = emit

    def run(self, damaged: DamagedRowsError) -> None:
        """In a transaction. Raises CorruptError when the table itself is out of order: a start mends that."""
        found = self._checked.find(damaged)
        if not found:
            raise apsw.CorruptError(f"{damaged.table}: damaged rows are found in one way and not in another")
        names = {route_id: route for route, route_id in self._positions.route_ids.items()}
        for row in found:
            route = names[row[0] >> SEQ_BITS]
            if damaged.table == "results":
                self._count_result(route, row[0])
                self._bury([_result_letter(route, row)])
            else:
                self._ledger.message(route, "dead", 1, REASON)
                self._bury([_message_letter(route, row)])
            self._connection.execute(f"DELETE FROM {damaged.table} WHERE id = ?", (row[0],))  # noqa: S608
            if self._connection.changes() != 1:
                raise apsw.CorruptError(f"{damaged.table}: a row is found in one way and not in another")
            log.error(
                "spool row is damaged, it is among the dead letters", table=damaged.table, route=route, row=row[0]
            )
            self._emit("damaged_row", {"route": route, "table": damaged.table})

    def _count_result(self, route: str, row: int) -> None:
        for sink in self._positions.sinks(route):
            if self._positions.is_pending(route, sink, row):
                self._ledger.result(route, sink, "evicted", 1, REASON)
                self._emit("evicted", {"route": route, "sink": sink, "reason": REASON, "n": 1})


def is_unsummed(row: int, checksum: int, upto: int) -> bool:
    """Whether a row may be without: only those that version 1 has written, up to `state.unsummed_upto`."""
    return checksum == 0 and row & SEQ_MASK <= upto


def check_ids(connection: apsw.Connection, route_ids: Mapping[str, int], seq: int) -> None:
    """Raises CorruptError when there are rows of no route, or rows that were not numbered yet."""
    for table in ("results", "journal"):
        begin = 0
        for first, end in sorted(map(route_range, route_ids.values())):
            outside = f"SELECT EXISTS (SELECT 1 FROM {table} WHERE id >= ? AND id <= ?)"  # noqa: S608
            inside = f"SELECT max(id) FROM {table} WHERE id > ? AND id < ?"  # noqa: S608
            strange = sql.number(connection, outside, (begin, first))
            if strange or sql.number(connection, inside, (first, end)) & SEQ_MASK > seq:
                raise apsw.CorruptError(f"{table}: rows that nobody has stored")
            begin = end
        if sql.number(connection, f"SELECT EXISTS (SELECT 1 FROM {table} WHERE id >= ?)", (begin,)):  # noqa: S608
            raise apsw.CorruptError(f"{table}: rows of no route")


def _with_texts(table: str, row: tuple[Any, ...]) -> tuple[Any, ...]:
    if table == "journal":
        return row
    try:
        key, kind, subject, trace = (row[at].decode() for at in (1, 2, 3, 6))
    except _STRANGE:
        return row  # texts are bytes then, which no checksum is made of
    return (row[0], key, kind, subject, row[4], row[5], trace, row[7])


def _result_letter(route: str, row: tuple[Any, ...]) -> DeadLetter:
    _, key, _, subject, time, data, *_ = row
    return _letter(route, _text(subject), data, time, _text(key))


def _message_letter(route: str, row: tuple[Any, ...]) -> DeadLetter:
    try:
        message = read_entry(row).message
    except _STRANGE:
        return _letter(route, "", row[1], 0.0, "")
    return _letter(route, message.topic, row[1], message.time, message.key)


def _letter(route: str, topic: str, payload: object, time: object, key: str) -> DeadLetter:
    return DeadLetter(
        route=route,
        reason=REASON,
        detail=_DETAIL,
        topic=topic,
        payload=payload if isinstance(payload, bytes) else repr(payload).encode(),
        time=float(time) if isinstance(time, int | float) else 0.0,
        key=key,
    )


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else ""
