"""What SQLite itself can still read of a damaged spool: rows without checksums, which no page tells apart.

Where it cannot open the file, it is given a copy: each page as it was last written, in one file without a log, and the
first page of a fresh spool where the damaged one is none. The tables lie at the same places in each.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import apsw
import msgspec

from gatewayd.spool import sql
from gatewayd.spool.dead import COLUMNS as DEAD_COLUMNS
from gatewayd.spool.dead import read_letter
from gatewayd.spool.migrations import MAX_ROUTES, SEQ_MASK
from gatewayd.spool.pages import Pages
from gatewayd.spool.rows import read_entry
from gatewayd.spool.scan import Scan
from gatewayd.spool.sums import UNSUMMED_UPTO, journal_sum, letter_sum, result_sum
from gatewayd.spool.wal import PAGE_BYTES, Wal

_BAD = (ValueError, TypeError, msgspec.DecodeError, msgspec.ValidationError, apsw.ConstraintError, apsw.MismatchError)
_CHUNK_ROWS = 256
_INNER = 0x05  # an interior page of a table
_decode_identities = msgspec.msgpack.Decoder(list[bytes]).decode
# Tables that the fresh spool has for itself, or that are brought over elsewhere. Ranges go: again, rather than never.
_NOT_COPIED = frozenset(
    ("meta", "routes", "results", "journal", "dead", "cursors", "counters", "ranges", "orders", "reports")
)


class Readable:
    """A read-only connection, as a context manager; without one, when there is nothing to be read, all is empty."""

    def __init__(self, damaged: Path, pages: Pages, wal: Wal, fresh: Path) -> None:
        self._copy = fresh.with_name(fresh.name + "-graft")
        self._connection = None if wal.is_damaged else _connect(damaged)
        for schema in ({}, _schema_pages(fresh)):
            if self._connection is None:
                _graft(pages, schema, self._copy)
                self._connection = _connect(self._copy)
        self._scan = None if self._connection is None else Scan(self._connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._connection.close()
        self._copy.unlink(missing_ok=True)

    @property
    def n_gaps(self) -> int:
        """Places that could not be read."""
        return self._scan.n_gaps if self._scan is not None else 0

    def seq(self) -> int:
        """The sequence number; 0 when it is not there."""
        found = [value for name, value in self._all("SELECT name, value FROM meta") if name == "seq"]
        return next((value for value in found if isinstance(value, int) and 0 <= value < SEQ_MASK // 2), 0)

    def routes(self) -> Iterator[tuple[int, str]]:
        """The routes by their numbers."""
        for row, name in self._all("SELECT id, CAST(name AS BLOB) FROM routes"):
            if isinstance(row, int) and 0 < row < MAX_ROUTES and isinstance(name, bytes):
                yield row, name.decode(errors="replace")

    def copy_unsummed(self, target: apsw.Connection) -> None:
        """The rows that version 1 has written; they get their checksums."""
        upto = self._unsummed_upto()
        if upto:
            columns = "id, key, kind, subject, time, data, traceparent"
            self._copy_rows(target, "results", columns, upto, _sum_result)
            self._copy_rows(target, "journal", "id, payload, props, attempts", upto, _sum_entry)
            self._copy_rows(target, "dead", DEAD_COLUMNS, upto, _sum_letter)

    def copy_rest(self, target: apsw.Connection) -> None:
        """The tables of which a row or two too few, or too many, changes no promise."""
        tables = [name for (name,) in sql.rows(target, "SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            if table in _NOT_COPIED or table.startswith("sqlite_"):
                continue
            with target:
                for row in self._all(f"SELECT * FROM {table}"):  # noqa: S608
                    marks = ",".join("?" * len(row))
                    try:
                        if table == "seen":
                            _decode_identities(row[1])
                        if row[0] != UNSUMMED_UPTO:
                            target.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row)  # noqa: S608
                    except (*_BAD, apsw.SQLError):
                        continue

    def _all(self, query: str) -> Iterator[tuple[Any, ...]]:
        return self._scan.all(query) if self._scan is not None else iter(())

    def _unsummed_upto(self) -> int:
        if self._connection is None:
            return 0
        try:
            if self._connection.pragma("user_version") == 1:
                return SEQ_MASK
            query = "SELECT value FROM state WHERE name = ?"
            return sql.number(self._connection, query, (UNSUMMED_UPTO,))
        except (apsw.Error, ValueError, TypeError):
            return 0

    def _copy_rows(
        self, target: apsw.Connection, table: str, columns: str, upto: int, sum_of: Callable[[tuple[Any, ...]], int]
    ) -> None:
        assert self._scan is not None
        marks = ",".join("?" * (columns.count(",") + 2))
        insert = f"INSERT OR IGNORE INTO {table} ({columns}, sum) VALUES ({marks})"  # noqa: S608
        rows = self._scan.by_id(table, columns)
        while chunk := list(islice(rows, _CHUNK_ROWS)):
            with target:
                for row in chunk:
                    if table == "dead" or row[0] & SEQ_MASK <= upto:
                        with suppress(*_BAD):
                            target.execute(insert, (*row, sum_of(row)))


def _sum_result(row: tuple[Any, ...]) -> int:
    msgspec.json.decode(row[5])
    return result_sum(*row)


def _sum_entry(row: tuple[Any, ...]) -> int:
    read_entry(row)
    return journal_sum(*row[:3])


def _sum_letter(row: tuple[Any, ...]) -> int:
    read_letter(row)
    return letter_sum(row[1:])


def _connect(path: Path) -> apsw.Connection | None:
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    except (apsw.Error, OSError):
        return None
    try:
        sql.number(connection, "SELECT count(*) FROM sqlite_master")
        sql.rows(connection, "SELECT id FROM results LIMIT 0")
    except apsw.Error:
        connection.close()
        return None
    return connection


def _graft(pages: Pages, schema: Mapping[int, bytes], copy: Path) -> None:
    with copy.open("wb") as file:
        for number in range(1, pages.n_pages + 1):
            page = bytearray(schema.get(number) or pages.newest(number))
            if number == 1:
                page[18:20] = b"\1\1"  # not in WAL mode, https://www.sqlite.org/fileformat2.html#the_database_header
                page[28:32] = pages.n_pages.to_bytes(4, "big")
                page[32:40] = bytes(8)  # no free pages
                page[92:96] = page[24:28]
            file.write(page)


def _schema_pages(fresh: Path) -> dict[int, bytes]:
    """The first page and those below it, which say what tables there are and where."""
    with fresh.open("rb") as file:
        first = file.read(PAGE_BYTES)
        numbers = [int.from_bytes(first[108:112], "big")] if first[100] == _INNER else []
        for at in range(int.from_bytes(first[103:105], "big") if numbers else 0):
            cell = int.from_bytes(first[112 + 2 * at : 114 + 2 * at], "big")
            numbers.append(int.from_bytes(first[cell : cell + 4], "big"))
        pages = {1: first}
        for number in numbers:
            file.seek((number - 1) * PAGE_BYTES)
            pages[number] = file.read(PAGE_BYTES)
    return pages
