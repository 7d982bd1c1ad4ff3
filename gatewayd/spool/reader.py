"""Reading a spool from another process while the daemon runs: books, status, dead letters, pending results.

Never writes and never checkpoints. Every read is short: a long one would keep the daemon's WAL from being reused.
"""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import apsw
import msgspec

from gatewayd.errors import ConfigError
from gatewayd.ports import DeadLetter, StoredResult
from gatewayd.spool.books import Books, read_books
from gatewayd.spool.database import BUSY_MS, PAGE_BYTES
from gatewayd.spool.dead import COLUMNS, read_letter
from gatewayd.spool.migrations import MIGRATIONS, route_range
from gatewayd.spool.ranges import Range, gaps, read_ranges
from gatewayd.spool.rows import read_result
from gatewayd.spool.segments import Corrections, read_segments
from gatewayd.spool.sql import number, rows

_PAGE_ROWS = 256


class SpoolStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How much is in the spool."""

    results: int  # rows; a result that two sinks wait for is one
    journaled: int
    dead_letters: int
    used_bytes: int  # pages in use
    file_bytes: int
    wal_bytes: int
    oldest_time: float | None  # of the results waiting, seconds since the epoch


class SpoolReader:
    """A read-only connection. Use it as a context manager."""

    def __init__(self, connection: apsw.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the spool file `path`. Raises ConfigError when there is none, or not one that we can read."""
        connection = None
        try:
            connection = connect(path)
            connection.set_busy_timeout(BUSY_MS)
            version = int(connection.pragma("user_version"))
        except (apsw.Error, OSError) as error:
            if connection is not None:
                connection.close()
            raise ConfigError("gateway.state_dir", f"{path} cannot be read: {error}") from error
        if version != len(MIGRATIONS):
            connection.close()
            raise ConfigError("gateway.state_dir", f"{path} {_version_in_words(version)}")
        return cls(connection, path)

    @property
    def connection(self) -> apsw.Connection:
        """For reads that are short, see above."""
        return self._connection

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def books(self) -> Books:
        """Both books, of one moment. Raises apsw's errors."""
        self._connection.execute("BEGIN")
        try:
            return read_books(self._connection)
        except (LookupError, StopIteration) as error:
            raise apsw.CorruptError("a counter or a cursor is of a route that is not there") from error
        finally:
            self._connection.execute("COMMIT")

    def status(self) -> SpoolStatus:
        """How much is in the spool now."""
        pages = self._connection.pragma("page_count") - self._connection.pragma("freelist_count")
        return SpoolStatus(
            results=number(self._connection, "SELECT count(*) FROM results"),
            journaled=number(self._connection, "SELECT count(*) FROM journal"),
            dead_letters=number(self._connection, "SELECT count(*) FROM dead"),
            used_bytes=pages * PAGE_BYTES,
            file_bytes=file_bytes(self._path),
            wal_bytes=file_bytes(self._path.with_name(self._path.name + "-wal")),
            oldest_time=self._oldest_time(),
        )

    def dead_letters(self, *, limit: int = 100) -> list[DeadLetter]:
        """The newest dead letters, the newest first."""
        query = f"SELECT {COLUMNS} FROM dead ORDER BY id DESC LIMIT ?"  # noqa: S608
        return [read_letter(row) for row in rows(self._connection, query, (limit,))]

    def pending(self, sink: str, route: str) -> Iterator[StoredResult]:
        """The results of `route` that `sink` has not had, oldest first. Reads a page at a time."""
        query = "SELECT route_id, pos FROM cursors WHERE sink = ? AND route_id = (SELECT id FROM routes WHERE name = ?)"
        found = self._connection.execute(query, (sink, route)).fetchone()
        if found is None:
            return
        route_id, pos = found
        ranges = read_ranges(self._connection).get((sink, route_id), ())
        correct = Corrections(read_segments(self._connection)).of
        for gap in gaps(pos, ranges, after=pos, upto=route_range(route_id)[1] - 1):
            for row in self._paged(gap):
                yield read_result(row, route, correct)

    def _paged(self, gap: Range) -> Iterator[tuple[Any, ...]]:
        select = "SELECT id, key, kind, subject, time, data, traceparent FROM results WHERE id > ? AND id <= ?"
        pos, upto = gap
        while page := rows(self._connection, f"{select} ORDER BY id LIMIT ?", (pos, upto, _PAGE_ROWS)):
            yield from page
            pos = page[-1][0]

    def _oldest_time(self) -> float | None:
        oldest = [
            self._connection.execute(
                "SELECT time FROM results WHERE id > ? AND id < ? ORDER BY id LIMIT 1", route_range(route_id)
            ).get
            for (route_id,) in rows(self._connection, "SELECT id FROM routes")
        ]
        return min((time for time in oldest if time is not None), default=None)


def is_in_use(path: Path) -> bool:
    """Whether a daemon, or a command in its place, has the spool open. Raises PermissionError when we may not know.

    Looked at under its lock, for its files say nothing after a crash.
    """
    try:
        file = os.open(path.with_suffix(".lock"), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def connect(path: Path) -> apsw.Connection:
    """A connection that cannot write. Raises apsw's errors.

    Nothing is left beside a spool that nobody uses: it is not going to change, so SQLite needs no files of its own.
    That also lets somebody read it who may not write into its folder.
    """
    if any(path.with_name(path.name + suffix).exists() for suffix in ("-wal", "-shm")):
        return apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    return apsw.Connection(
        f"file:{quote(str(path))}?immutable=1", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    )


def _version_in_words(version: int) -> str:
    if version < len(MIGRATIONS):
        return f"is of version {version}: start the daemon once to upgrade it"
    return f"is of version {version}, this gatewayd reads {len(MIGRATIONS)}: use the gatewayd that wrote it"


def file_bytes(path: Path) -> int:
    """The size of a file; 0 when it is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
