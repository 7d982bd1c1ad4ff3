"""Whether a spool is what was written: SQLite's own check, every row's checksum, ids, positions and the books.

Invariants: nothing is written; no damage ends the check, it is counted and told; rows are read a page at a time, so
that the daemon's WAL can be folded meanwhile. SQLite's check is one long read: of a spool in use the WAL grows as long.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import apsw
import msgspec

from gatewayd.spool.books import read_books
from gatewayd.spool.browse import row_id
from gatewayd.spool.damaged import is_unsummed
from gatewayd.spool.database import BUSY_MS
from gatewayd.spool.dead import COLUMNS, read_letter
from gatewayd.spool.migrations import MIGRATIONS, SEQ_BITS, SEQ_MASK, route_range
from gatewayd.spool.reader import connect, file_bytes, is_in_use
from gatewayd.spool.rows import read_entry
from gatewayd.spool.salvage import is_log_damaged
from gatewayd.spool.scan import Scan
from gatewayd.spool.sql import number, rows
from gatewayd.spool.sums import UNSUMMED_UPTO, check_fields, journal_sum, letter_sum, result_sum

MAX_PROBLEMS = 20  # told of one kind; all are counted
_PAGE_ROWS = 256
_STRANGE = (
    apsw.Error,
    TypeError,
    ValueError,
    AttributeError,
    OverflowError,
    LookupError,
    StopIteration,
    msgspec.DecodeError,
)
_T = TypeVar("_T")


class Check(msgspec.Struct, kw_only=True):
    """One kind of thing that was looked at."""

    name: str
    n: int = 0  # looked at
    n_bad: int = 0
    n_unchecked: int = 0  # rows of version 1, which have no checksum
    problems: list[str] = []

    def bad(self, problem: str) -> None:
        """One of them is not what it should be."""
        self.n_bad += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems = [*self.problems, problem]


class Report(msgspec.Struct, kw_only=True):
    """What was found."""

    path: str
    version: int | None = None
    file_bytes: int = 0
    wal_bytes: int = 0
    n_pages: int = 0
    n_free_pages: int = 0
    checks: list[Check] = []

    @property
    def is_clean(self) -> bool:
        """Nothing is damaged."""
        return not any(check.n_bad for check in self.checks)

    @property
    def n_readable(self) -> int:
        """Results, messages and dead letters that are what was written, or have no checksum that says otherwise."""
        return sum(
            check.n - check.n_bad for check in self.checks if check.name in ("results", "journal", "dead letters")
        )


def check_spool(path: Path, *, full: bool = False, progress: Callable[[str], None] = lambda _: None) -> Report:
    """Look at everything; `progress` is told what is looked at. Raises OSError when the file cannot be read at all."""
    with path.open("rb"):
        pass
    report = Report(
        path=str(path), file_bytes=file_bytes(path), wal_bytes=file_bytes(path.with_name(path.name + "-wal"))
    )
    opening = Check(name="file", n=1)
    report.checks = [opening]
    is_used = _is_in_use(path)
    with _undisturbed(path, is_used=is_used) as readable:
        try:
            connection = connect(readable)
            connection.set_busy_timeout(BUSY_MS)
            report.version = int(connection.pragma("user_version"))
        except apsw.Error as error:
            opening.bad(f"SQLite cannot open it: {error}")
            return report
        try:
            # What a log holds that is broken in the middle, SQLite forgets without a word; one in use is growing.
            if not is_used and is_log_damaged(path):
                opening.bad("the log (-wal) is damaged: SQLite would forget commits that are in it")
            _look(connection, report, full=full, progress=progress)
        finally:
            connection.close()
    return report


def _is_in_use(path: Path) -> bool:
    try:
        return is_in_use(path)
    except PermissionError:
        return True


@contextmanager
def _undisturbed(path: Path, *, is_used: bool) -> Iterator[Path]:
    """The spool under another name, where SQLite would make files beside it to read its log."""
    log = path.with_name(path.name + "-wal")
    if is_used or not log.exists():
        yield path
        return
    beside = path.absolute().parent
    with tempfile.TemporaryDirectory(
        prefix=".gatewayd-fsck-", dir=beside if os.access(beside, os.W_OK) else None
    ) as folder:
        for file in (path, log):
            _link(file, Path(folder) / file.name)
        yield Path(folder) / path.name


def _link(file: Path, name: Path) -> None:
    try:
        name.hardlink_to(file)
    except OSError:  # another file system, or one without links
        shutil.copyfile(file, name)


def _look(connection: apsw.Connection, report: Report, *, full: bool, progress: Callable[[str], None]) -> None:
    report.n_pages = _or(0, lambda: int(connection.pragma("page_count")))
    report.n_free_pages = _or(0, lambda: int(connection.pragma("freelist_count")))
    progress("pages")
    report.checks.append(_check_pages(connection, full=full))
    if report.version != len(MIGRATIONS):
        return
    query = "SELECT CAST(value AS INTEGER) FROM state WHERE name = ?"
    unsummed = _or(0, lambda: number(connection, query, (UNSUMMED_UPTO,)))
    ids = _Ids(connection)
    checks = (_Routes(connection), _Results(connection, ids, unsummed), _Journal(connection, ids, unsummed))
    for check in (*checks, _Letters(connection), _Positions(connection, ids), _Counters(connection)):
        progress(check.found.name)
        check.run()
        report.checks.append(check.found)
    progress("books")
    report.checks.append(_check_books(connection))


def _or(default: _T, read: Callable[[], _T]) -> _T:
    try:
        return read()
    except _STRANGE:
        return default


def _check_pages(connection: apsw.Connection, *, full: bool) -> Check:
    check = Check(name="pages", n=_or(0, lambda: int(connection.pragma("page_count"))))
    try:
        said = rows(connection, f"PRAGMA {'integrity_check' if full else 'quick_check'}({MAX_PROBLEMS})")
    except apsw.Error as error:
        said = [(f"SQLite's check ended: {error}",)]
    for (line,) in said:
        if line != "ok":
            check.bad(str(line).replace("\n", "; "))
    return check


class _Ids:
    """Which ids may be there. Looked at again before one is called wrong: the spool may be in use."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self.seq = 0  # the last number that was given out
        self._routes: set[int] = set()

    def is_route(self, row: int) -> bool:
        """Whether the row's route is there."""
        if row >> SEQ_BITS not in self._routes:
            self._routes = {route_id for (route_id,) in Scan(self._connection).all("SELECT id FROM routes")}
        return row >> SEQ_BITS in self._routes

    def is_number(self, row: int) -> bool:
        """Whether the row's number has been given out."""
        if row & SEQ_MASK > self.seq:
            self.seq = _or(SEQ_MASK, lambda: number(self._connection, "SELECT value FROM meta WHERE name = 'seq'"))
        return row & SEQ_MASK <= self.seq


class _Kind:
    """Rows of one kind. `run` never raises for what is damaged."""

    name = ""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self.found = Check(name=self.name)

    def run(self) -> None:
        raise NotImplementedError

    def _all(self, query: str, check: Callable[[Sequence[Any]], None]) -> None:
        scan = Scan(self._connection)
        for row in scan.all(query):
            self._one(row, str(row[:2]), check)
        if scan.n_gaps:
            self.found.bad("not all of it can be read")

    def _by_id(self, table: str, columns: str, check: Callable[[Sequence[Any]], None]) -> None:
        scan = Scan(self._connection)
        for row in _paged(self._connection, scan, table, columns):
            self._one(row, row_id(table, row[0]), check)  # type: ignore[arg-type]
        for _ in range(scan.n_gaps):
            self.found.bad("there are rows that cannot be read")

    def _one(self, row: Sequence[Any], what: str, check: Callable[[Sequence[Any]], None]) -> None:
        self.found.n += 1
        try:
            check(row)
        except _STRANGE as error:
            self.found.bad(f"{what}: {error}")


class _Routes(_Kind):
    name = "routes"

    def run(self) -> None:
        self._all("SELECT id, name, sum FROM routes", lambda row: check_fields(row[2], row[0], row[1]))


class _Rows(_Kind):
    """Rows whose ids carry route and number."""

    def __init__(self, connection: apsw.Connection, ids: _Ids, unsummed_upto: int) -> None:
        super().__init__(connection)
        self._ids = ids
        self._unsummed_upto = unsummed_upto

    def _check_id(self, row: int) -> None:
        if not self._ids.is_route(row):
            raise ValueError("is of no route that there is")
        if not self._ids.is_number(row):
            raise ValueError(f"has a number that was not given out: the last one was {self._ids.seq}")

    def _check_sum(self, row: int, checksum: int, own: int) -> None:
        if is_unsummed(row, checksum, self._unsummed_upto):
            self.found.n_unchecked += 1
        elif checksum != own:
            raise ValueError("is not what was written")


class _Results(_Rows):
    name = "results"

    def run(self) -> None:
        self._by_id("results", "id, key, kind, subject, time, data, traceparent, sum", self._check)

    def _check(self, row: Sequence[Any]) -> None:
        self._check_sum(row[0], row[7], result_sum(*row[:7]))
        self._check_id(row[0])


class _Journal(_Rows):
    name = "journal"

    def run(self) -> None:
        self._by_id("journal", "id, payload, props, attempts, sum", self._check)

    def _check(self, row: Sequence[Any]) -> None:
        self._check_sum(row[0], row[4], journal_sum(*row[:3]))
        self._check_id(row[0])
        read_entry(row)


class _Letters(_Kind):
    name = "dead letters"

    def run(self) -> None:
        self._by_id("dead", f"{COLUMNS}, sum", self._check)

    def _check(self, row: Sequence[Any]) -> None:
        *columns, checksum = row
        if checksum == 0:
            self.found.n_unchecked += 1
        elif letter_sum(columns[1:]) != checksum:
            raise ValueError("is not what was written")
        read_letter(columns)


class _Positions(_Kind):
    """Cursors, and the ranges beyond them."""

    name = "positions"

    def __init__(self, connection: apsw.Connection, ids: _Ids) -> None:
        super().__init__(connection)
        self._ids = ids
        self._ends: dict[tuple[str, int], int] = {}  # how far the sink has come in the route

    def run(self) -> None:
        query = "SELECT sink, route_id, first, last, sum FROM ranges ORDER BY sink, route_id, first"
        with _snapshot(self._connection):
            self._all("SELECT sink, route_id, pos, sum FROM cursors", self._check_cursor)
            self._all(query, self._check_range)

    def _check_cursor(self, row: Sequence[Any]) -> None:
        sink, route_id, pos, checksum = row
        check_fields(checksum, sink, route_id, pos)
        begin, end = route_range(route_id)
        if not begin <= pos < end or not self._ids.is_number(pos):
            raise ValueError("lies outside its route")
        self._ends[sink, route_id] = pos

    def _check_range(self, row: Sequence[Any]) -> None:
        sink, route_id, first, last, checksum = row
        check_fields(checksum, sink, route_id, first, last)
        before = self._ends.get((sink, route_id))
        if before is None:
            raise ValueError("a range without a cursor")
        if not before < first < last < route_range(route_id)[1] or not self._ids.is_number(last):
            raise ValueError("a range that does not lie beyond what comes before it")
        self._ends[sink, route_id] = last


class _Counters(_Kind):
    name = "counters"

    def run(self) -> None:
        query = "SELECT book, route, sink, line, reason, n, sum FROM counters"
        self._all(query, lambda row: check_fields(row[6], *row[:6]))


def _paged(connection: apsw.Connection, scan: Scan, table: str, columns: str) -> Iterator[tuple[Any, ...]]:
    """A table in order of id; from the first place on that cannot be read, as far as `scan` gets."""
    query = f"SELECT {columns} FROM {table} WHERE id > ? ORDER BY id LIMIT {_PAGE_ROWS}"  # noqa: S608
    after = -1
    while True:
        try:
            page = rows(connection, query, (after,))
        except (apsw.Error, UnicodeDecodeError):
            yield from scan.by_id(table, columns, begin=after + 1)
            return
        yield from page
        if len(page) < _PAGE_ROWS:
            return
        after = page[-1][0]


@contextmanager
def _snapshot(connection: apsw.Connection) -> Iterator[None]:
    """What is read within it is of one moment."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")


def _check_books(connection: apsw.Connection) -> Check:
    check = Check(name="books")
    try:
        with _snapshot(connection):
            books = read_books(connection)
    except _STRANGE as error:
        check.bad(f"cannot be read: {error}")
        return check
    check.n = len(books.messages) + sum(map(len, books.results.values()))
    if not books.balanced:
        check.bad("they do not balance: see `gatewayd spool audit`")
    return check
