"""What can still be found of a damaged spool, row by row, in a fresh one.

Invariants: the damaged files are only read, and whatever is damaged in them ends no start; a row comes over only when
its checksum is right, so nothing comes back as something else; the fresh spool's books balance, and say under the
reasons `damaged` (counted, not found) and `salvaged` (found, not counted) where they had to be mended.

Rows are read from the pages as they lie (`pages`), for a tree that is broken hides rows that are whole. What has no
checksum comes over by way of SQLite, as far as it goes: it is nothing that a result or a message hangs on.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

from gatewayd.spool.books import MESSAGE_LINES, RESULT_LINES, read_books
from gatewayd.spool.database import close_database, open_database
from gatewayd.spool.found import Finder
from gatewayd.spool.ledger import Ledger
from gatewayd.spool.migrations import MAX_ROUTES, SEQ_MASK, route_range
from gatewayd.spool.pages import Pages
from gatewayd.spool.readable import Readable
from gatewayd.spool.sums import fields_sum
from gatewayd.spool.wal import Wal, read_wal

_MAX_N = 1 << 53  # a count beyond it is damage
_LINES = {"messages": MESSAGE_LINES, "results": RESULT_LINES, "dead": ("purged",)}
# The damaged spool may have given out ids that are found nowhere: the fresh one gives them out to nobody else.
_SEQ_GAP = 1 << 20


@dataclass
class Salvaged:
    """What came over."""

    n_salvaged: int = 0  # results, messages of the journal and dead letters
    n_unknown: int = 0  # results (for each sink) and messages that the books know of and that were not found
    n_gaps: int = 0  # pages, or places in a table, that could not be read
    n_bad: int = 0  # rows that were found and are not what was written
    has_books: bool = False  # False: no count was found, so what is missing is not known
    seq: int = 0
    routes: dict[int, str] = field(default_factory=dict)


def is_log_damaged(path: Path) -> bool:
    """Whether the log beside `path` holds commits that SQLite would forget. Before SQLite opens it."""
    try:
        wal = read_wal(path.with_name(path.name + "-wal"))
        if not wal.is_damaged or not path.exists():
            return False
        pages = Pages(path, wal)
    except OSError:
        return False  # whoever opens it next meets the same, and says so
    try:
        # A log that was begun anew at a power cut may have no header either: all of it is in the file then.
        return wal.has_header or pages.is_ahead()
    finally:
        pages.close()


def salvage(
    damaged: Path, fresh: Path, *, routes: Mapping[str, Sequence[str]], wal_pages: int, is_bare: bool = False
) -> Salvaged:
    """Fill `fresh`, which is not there yet, from `damaged`, and close it. Raises apsw's errors of `fresh` alone.

    `is_bare`: leave out what has no checksum.
    """
    target = open_database(fresh, wal_pages=wal_pages)
    try:
        target.pragma("synchronous", "OFF")  # the file is synced as a whole before it takes its place
        target.wal_autocheckpoint(wal_pages)
        wal = Wal()
        with suppress(OSError):
            wal = read_wal(damaged.with_name(damaged.name + "-wal"))
        pages = Pages(damaged, wal)
        try:
            found = _fill(damaged, pages, wal, target, fresh, routes, is_bare)
        finally:
            pages.close()
        _settle(target, found, routes)
        close_database(target)
    finally:
        target.close()
    return found


def _fill(
    damaged: Path,
    pages: Pages,
    wal: Wal,
    target: apsw.Connection,
    fresh: Path,
    routes: Mapping[str, Sequence[str]],
    is_bare: bool,
) -> Salvaged:
    finder = Finder(target)
    finder.read(pages)
    found = Salvaged(has_books=bool(finder.counters))
    with Readable(damaged, pages, wal, fresh) as readable:
        found.seq = max(finder.seq, readable.seq())
        _name_routes(finder, routes, readable)
        found.routes = finder.routes
        readable.copy_unsummed(target)
        with target:
            _put_routes(target, finder)
            found.n_bad = finder.n_bad + finder.drop_unknown()
            _put_counters(target, finder)
            _put_cursors(target, finder, found.seq)
            finder.drop_resolved(routes)
        if not is_bare:
            readable.copy_rest(target)
        found.n_salvaged, found.n_gaps = finder.count(), pages.n_bad + readable.n_gaps
    return found


def _name_routes(finder: Finder, routes: Mapping[str, Sequence[str]], readable: Readable) -> None:
    """Names for the routes whose own row was lost, and numbers for the names that only the books know."""
    known = {*routes, *(route for book, route, *_ in finder.counters if book != "dead")}
    by_sqlite = list(readable.routes())
    for row, name in [*((row, name) for name, row in sorted(finder.pairs)), *by_sqlite]:
        if name in known and name not in finder.routes.values() and 0 < row < MAX_ROUTES:
            finder.routes.setdefault(row, name)
    unnamed, left = finder.unnamed(), known - set(finder.routes.values())
    if len(unnamed) == len(left) == 1:
        finder.routes[unnamed.pop()] = left.pop()
    if not finder.counters:
        finder.routes |= {row: name for row, name in by_sqlite if row in unnamed}
    for number, name in enumerate(sorted(left), start=max((*finder.routes, *unnamed), default=0) + 1):
        finder.routes[number] = name


def _put_routes(target: apsw.Connection, finder: Finder) -> None:
    names: set[str] = set()
    for row, name in sorted(finder.routes.items()):
        if name not in names:
            target.execute("INSERT INTO routes VALUES (?, ?, ?)", (row, name, fields_sum(row, name)))
        else:
            del finder.routes[row]
        names.add(name)


def _put_counters(target: apsw.Connection, finder: Finder) -> None:
    names = set(finder.routes.values())
    for (book, route, sink, line, reason), n in finder.counters.items():
        if (route in names or book == "dead") and line in _LINES.get(book, ()) and -_MAX_N < n < _MAX_N:
            counter = (book, route, sink, line, reason, n)
            target.execute("INSERT INTO counters VALUES (?,?,?,?,?,?,?)", (*counter, fields_sum(*counter)))


def _put_cursors(target: apsw.Connection, finder: Finder, seq: int) -> None:
    for (sink, route_id), pos in finder.cursors.items():
        if route_id in finder.routes:
            base = route_range(route_id)[0]
            good = pos if base <= pos <= base | seq else base  # again, rather than never
            put_cursor(target, sink, route_id, good)
    for row in finder.ranges:
        sink, route_id, first, last = row
        base = route_range(route_id)[0]
        if base <= finder.cursors.get((sink, route_id), base) < first < last <= base | seq:
            target.execute("INSERT OR IGNORE INTO ranges VALUES (?, ?, ?, ?, ?)", (*row, fields_sum(*row)))


def put_cursor(target: apsw.Connection, sink: str, route_id: int, pos: int) -> None:
    """A cursor, unless there is one."""
    cursor = (sink, route_id, pos)
    target.execute("INSERT OR IGNORE INTO cursors VALUES (?, ?, ?, ?)", (*cursor, fields_sum(*cursor)))


def _settle(target: apsw.Connection, found: Salvaged, routes: Mapping[str, Sequence[str]]) -> None:
    """Cursors for whom they are missing, the sequence number, and books that balance."""
    with target:
        for route_id, route in found.routes.items():
            for sink in routes.get(route, ()):
                put_cursor(target, sink, route_id, route_range(route_id)[0])
        found.seq = min(found.seq + _SEQ_GAP, SEQ_MASK - 1)
        target.execute("UPDATE meta SET value = ? WHERE name = 'seq'", (found.seq,))
        ledger = Ledger()
        ledger.load(target)
        books = read_books(target)
        for route, lines in books.messages.items():
            n_missing = _n_missing(lines)
            mend: tuple[Any, ...] = ("evicted", n_missing, "damaged")
            ledger.message(route, *(mend if n_missing > 0 else ("received", -n_missing, "salvaged")))
            found.n_unknown += max(0, n_missing)
        for route, sinks in books.results.items():
            for sink, lines in sinks.items():
                n_missing = _n_missing(lines)
                mend = ("evicted", n_missing, "damaged")
                ledger.result(route, sink, *(mend if n_missing > 0 else ("produced", -n_missing, "salvaged")))
                found.n_unknown += max(0, n_missing)
        ledger.flush(target)


def _n_missing(lines: Mapping[str, int]) -> int:
    """What came in and stands under no other line; negative: what stands there and did not come in."""
    total, *parts = lines.values()
    return total - sum(parts)
