"""The spool's file: one daemon at a time, settings that make a commit survive a power cut, damage put aside.

A file that does not open, or fails its check after an unclean stop, is moved to `corrupt-<n>/` beside it and a fresh
one is begun: the gateway goes on and nothing is deleted.
"""

import fcntl
import os
from pathlib import Path
from types import MappingProxyType

import apsw

from gatewayd.errors import ConfigError
from gatewayd.spool.migrations import migrate

PAGE_BYTES = 4096
BUSY_MS = 5000
_SUFFIXES = ("", "-wal", "-shm")

# FULL: with WAL, NORMAL may lose the last commits at a power cut, and our PUBACK would have been a lie
# (https://www.sqlite.org/pragma.html#pragma_synchronous).
_PRAGMAS = MappingProxyType({"journal_mode": "WAL", "synchronous": "FULL", "temp_store": "MEMORY", "cache_size": -4096})


class Lock:
    """An advisory lock on `<spool>.lock`. It goes with the process, however that ends."""

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError("gateway.state_dir", f"cannot be written: {error}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = os.pread(self._file, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._file)
            raise ConfigError(
                "gateway.state_dir", f"{path.parent} is in use by another gatewayd, process {pid}: stop that one first"
            ) from error
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Let the next one in."""
        os.close(self._file)


def open_database(path: Path, *, wal_pages: int) -> tuple[apsw.Connection, Path | None]:
    """Open or create the spool's file; with it the folder a damaged one was moved to, if it was.

    Raises ConfigError when the file cannot be opened for want of rights, or is of a newer version.
    """
    try:
        return _open_checked(path, wal_pages), None
    except (apsw.NotADBError, apsw.CorruptError, apsw.SQLError, apsw.ConstraintError, apsw.MismatchError):
        aside = _move_aside(path)
    except (apsw.CantOpenError, apsw.PermissionsError, apsw.ReadOnlyError, apsw.AuthError) as error:
        raise ConfigError("gateway.state_dir", f"{path} cannot be opened: {error}") from error
    return _open_checked(path, wal_pages), aside


def close_database(connection: apsw.Connection) -> None:
    """Note that the stop was clean, fold the WAL into the file, close."""
    connection.execute("UPDATE meta SET value = 1 WHERE name = 'clean'")
    connection.close()


def _open_checked(path: Path, wal_pages: int) -> apsw.Connection:
    connection = apsw.Connection(str(path))
    try:
        connection.set_busy_timeout(BUSY_MS)
        _configure(connection, wal_pages)
        migrate(connection)
        if not connection.execute("SELECT value FROM meta WHERE name = 'clean'").get:
            _check(connection)
        _fold_wal(connection)
        connection.execute("UPDATE meta SET value = 0 WHERE name = 'clean'")
    except BaseException:
        connection.close()
        raise
    return connection


def _configure(connection: apsw.Connection, wal_pages: int) -> None:
    connection.pragma("page_size", PAGE_BYTES)  # these two take effect in an empty file alone
    connection.pragma("auto_vacuum", 2)
    for name, value in _PRAGMAS.items():
        connection.pragma(name, value)
    connection.pragma("journal_size_limit", wal_pages * PAGE_BYTES)
    connection.wal_autocheckpoint(wal_pages)


def _fold_wal(connection: apsw.Connection) -> None:
    """Begin with an empty WAL: after a crash SQLite takes all of an old one for new, and appends to it."""
    try:
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    except (apsw.BusyError, apsw.LockedError, apsw.FullError, apsw.IOError):
        return  # a reader in the way, or a full disk: it is folded later, as always


def _check(connection: apsw.Connection) -> None:
    problem = connection.execute("PRAGMA quick_check(1)").get
    if problem != "ok":
        raise apsw.CorruptError(str(problem))


def _move_aside(path: Path) -> Path:
    n = 1
    while (aside := path.parent / f"corrupt-{n}").exists():
        n += 1
    aside.mkdir(mode=0o700)
    for suffix in _SUFFIXES:
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside / part.name)
    return aside
