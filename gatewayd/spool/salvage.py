"""What can still be read of a damaged spool, row by row, into a fresh one.

Invariants: the damaged file is only read; whatever is damaged in it ends no start; the fresh spool's books balance, and
say under the reasons `damaged` (counted, not found) and `salvaged` (found, not counted) where they had to be mended.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw
import msgspec

from gatewayd.spool import sql
from gatewayd.spool.books import MESSAGE_LINES, RESULT_LINES, read_books
from gatewayd.spool.database import PAGE_BYTES, close_database, open_database
from gatewayd.spool.dead import COLUMNS as DEAD_COLUMNS
from gatewayd.spool.dead import read_letter
from gatewayd.spool.ledger import Ledger
from gatewayd.spool.migrations import SEQ_BITS, SEQ_MASK, route_range
from gatewayd.spool.rows import read_entry
from gatewayd.spool.scan import Scan
from gatewayd.spool.sums import fields_sum

_MAX_N = 1 << 53  # a count beyond it is damage
_LINES = {"messages": MESSAGE_LINES, "results": RESULT_LINES, "dead": ("purged",)}
_BAD = (ValueError, TypeError, msgspec.DecodeError, msgspec.ValidationError)
_decode_identities = msgspec.msgpack.Decoder(list[bytes]).decode

Row = tuple[Any, ...]


@dataclass
class Salvaged:
    """What came over."""

    n_salvaged: int = 0  # results, messages of the journal and dead letters
    n_unknown: int = 0  # results (for each sink) and messages that the books know of and that were not found
    n_gaps: int = 0  # places that could not be read
    n_bad: int = 0  # rows that were read and make no sense
    seq: int = 0
    routes: dict[int, str] = field(default_factory=dict)


def salvage(damaged: Path, fresh: Path, *, routes: Mapping[str, Sequence[str]], wal_pages: int) -> Salvaged:
    """Fill `fresh`, which is not there yet, from `damaged`, and close it. Raises apsw's errors of `fresh` alone."""
    target = open_database(fresh, wal_pages=wal_pages)
    found = Salvaged()
    try:
        source = _open(damaged, fresh)
        if source is not None:
            try:
                _copy(source, target, found)
            finally:
                source.close()
        _settle(target, found, routes)
        close_database(target)
    finally:
        target.close()
        _graft_of(fresh).unlink(missing_ok=True)
    return found


def _open(damaged: Path, fresh: Path) -> apsw.Connection | None:
    for path in (damaged, _graft_of(fresh)):
        try:
            if path != damaged:
                _graft(damaged, fresh, path)
            connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        except (apsw.Error, OSError):
            continue
        try:
            sql.number(connection, "SELECT count(*) FROM sqlite_master")
            sql.rows(connection, "SELECT id FROM results LIMIT 0")
        except apsw.Error:
            connection.close()
        else:
            return connection
    return None


def _graft_of(fresh: Path) -> Path:
    return fresh.with_name(fresh.name + "-graft")


def _graft(damaged: Path, fresh: Path, copy: Path) -> None:
    """A copy of the damaged file with the first page of a fresh one: the tables lie at the same places in each."""
    shutil.copyfile(damaged, copy)
    n_pages = copy.stat().st_size // PAGE_BYTES
    page = bytearray(fresh.read_bytes()[:PAGE_BYTES])
    page[18:20] = b"\1\1"  # not in WAL mode, https://www.sqlite.org/fileformat2.html#the_database_header
    page[28:32] = n_pages.to_bytes(4, "big")
    page[32:40] = bytes(8)  # no free pages
    page[92:96] = page[24:28]
    with copy.open("r+b") as file:
        file.write(page)


def _copy(source: apsw.Connection, target: apsw.Connection, found: Salvaged) -> None:
    scan = Scan(source)
    for table in ("routes", "routes INDEXED BY sqlite_autoindex_routes_1"):
        for row_id, name in scan.all(f"SELECT id, CAST(name AS BLOB) FROM {table}"):  # noqa: S608
            if isinstance(row_id, int) and isinstance(name, bytes) and row_id not in found.routes:
                found.routes[row_id] = name.decode(errors="replace")
    with target:
        target.executemany(
            "INSERT OR IGNORE INTO routes VALUES (?, ?, ?)", [(*row, fields_sum(*row)) for row in found.routes.items()]
        )
        for book, route, sink, line, reason, n in scan.all("SELECT book, route, sink, line, reason, n FROM counters"):
            known = route in found.routes.values() or book == "dead"
            if known and line in _LINES.get(book, ()) and isinstance(n, int) and 0 <= n < _MAX_N:
                counter = (book, route, sink, line, reason, n)
                target.execute(
                    "INSERT OR IGNORE INTO counters VALUES (?,?,?,?,?,?,?)", (*counter, fields_sum(*counter))
                )
        for name, value in scan.all("SELECT name, value FROM meta"):
            if name == "seq" and isinstance(value, int) and 0 <= value < SEQ_MASK // 2:
                found.seq = value
    _copy_rows(scan, target, found, "seen", "id, identities", lambda row: _decode_identities(row[1]))
    _copy_rows(scan, target, found, "attempts", "id, identity, n", lambda row: bytes(row[1]))
    n = _copy_rows(
        scan, target, found, "results", "id, key, kind, subject, time, data, traceparent, sum", _check_result
    )
    n += _copy_rows(scan, target, found, "journal", "id, payload, props, attempts, sum", read_entry)
    n += _copy_rows(scan, target, found, "dead", DEAD_COLUMNS, read_letter)
    found.n_salvaged, found.n_gaps = n, scan.n_gaps
    with target:
        for sink, route_id, pos in scan.all("SELECT sink, route_id, pos FROM cursors"):
            if route_id in found.routes and isinstance(sink, str) and isinstance(pos, int):
                base, end = route_range(route_id)
                good = pos if base <= pos <= (base | found.seq) < end else base  # again, rather than never
                cursor = (sink, route_id, good)
                target.execute("INSERT OR IGNORE INTO cursors VALUES (?, ?, ?, ?)", (*cursor, fields_sum(*cursor)))


def _check_result(row: Row) -> None:
    msgspec.json.decode(row[5])


def _copy_rows(
    scan: Scan, target: apsw.Connection, found: Salvaged, table: str, columns: str, check: Callable[[Row], object]
) -> int:
    marks = ",".join("?" * len(columns.split(",")))
    insert = f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({marks})"  # noqa: S608
    n = 0
    for rows in _chunks(scan.by_id(table, columns)):
        with target:
            for row in rows:
                try:
                    has_route = table not in {"results", "journal"} or row[0] >> SEQ_BITS in found.routes
                    check(row)
                    if has_route:
                        target.execute(insert, row)
                except (*_BAD, apsw.ConstraintError, apsw.MismatchError):
                    has_route = False
                if not has_route:
                    found.n_bad += 1
                    continue
                n += 1
                if table in {"results", "journal"}:
                    found.seq = max(found.seq, row[0] & SEQ_MASK)
    return n


def _chunks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == 256:
            yield chunk
            chunk = []
    yield chunk


def _settle(target: apsw.Connection, found: Salvaged, routes: Mapping[str, Sequence[str]]) -> None:
    """Cursors for whom they are missing, the sequence number, and books that balance."""
    with target:
        for route_id, route in found.routes.items():
            for sink in routes.get(route, ()):
                first = (sink, route_id, route_range(route_id)[0])
                target.execute("INSERT OR IGNORE INTO cursors VALUES (?, ?, ?, ?)", (*first, fields_sum(*first)))
        target.execute("UPDATE meta SET value = ? WHERE name = 'seq'", (found.seq,))
        ledger = Ledger()
        ledger.load(target)
        books = read_books(target)
        for route, lines in books.messages.items():
            n_missing = 2 * lines["received"] - sum(lines.values())
            ledger.message(
                route, *(("dropped", n_missing, "damaged") if n_missing > 0 else ("received", -n_missing, "salvaged"))
            )
            found.n_unknown += max(0, n_missing)
        for route, sinks in books.results.items():
            for sink, lines in sinks.items():
                n_missing = 2 * lines["produced"] - sum(lines.values())
                mend = ("evicted", n_missing, "damaged") if n_missing > 0 else ("produced", -n_missing, "salvaged")
                ledger.result(route, sink, *mend)
                found.n_unknown += max(0, n_missing)
        ledger.flush(target)
