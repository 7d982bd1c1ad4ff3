"""The spool's file: one daemon at a time, settings that make a commit survive a power cut, damage put aside.

A file that does not open, or fails its check after an unclean stop, is damaged: see `aside` and `salvage`.
"""

import errno
import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

import apsw

from gatewayd.crash import NO_CRASH, CrashPoint
from gatewayd.errors import ConfigError, GatewaydError, SpoolFull
from gatewayd.spool.migrations import migrate

PAGE_BYTES = 4096
BUSY_MS = 5000
_LOCK_PATIENCE_S = 2.0
_LOCK_LOOK_S = 0.05
DAMAGE = (apsw.NotADBError, apsw.CorruptError, apsw.SQLError, apsw.ConstraintError, apsw.MismatchError)
DISK = (
    apsw.CantOpenError,
    apsw.PermissionsError,
    apsw.ReadOnlyError,
    apsw.AuthError,
    apsw.FullError,
    apsw.IOError,
    apsw.BusyError,
    apsw.LockedError,
)

# FULL: with WAL, NORMAL may lose the last commits at a power cut, and our PUBACK would have been a lie
# (https://www.sqlite.org/pragma.html#pragma_synchronous).
_PRAGMAS = MappingProxyType({"journal_mode": "WAL", "synchronous": "FULL", "temp_store": "MEMORY", "cache_size": -2048})


class Lock:
    """An advisory lock on `<spool>.lock`. It goes with the process, however that ends."""

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT}:
                raise SpoolFull(
                    f"{path.parent} cannot be written, the disk is full, read-only or out of order: {error}"
                ) from error
            raise ConfigError("gateway.state_dir", f"cannot be written: {error}") from error
        try:
            _lock(self._file)
        except OSError as error:
            pid = os.pread(self._file, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._file)
            raise ConfigError(
                "gateway.state_dir", f"{path.parent} is in use by another gatewayd, process {pid}: stop that one first"
            ) from error
        with suppress(OSError):  # the number is for people; a full disk may not take it
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Let the next one in."""
        os.close(self._file)


def _lock(file: int) -> None:
    """Not at once refused: a command may have it for a moment, and systemd does not start again what says so."""
    until_s = time.monotonic() + _LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until_s:
                raise
            time.sleep(_LOCK_LOOK_S)
        else:
            return


def in_words(path: Path, error: Exception) -> GatewaydError:
    """Why the spool cannot be opened. What a disk may get over is no mistake in the config: then the daemon ends, and
    systemd starts it again.
    """
    rights = os.access(path.parent, os.W_OK) and (not path.exists() or os.access(path, os.R_OK | os.W_OK))
    if not rights and not _is_read_only(path.parent):
        return ConfigError("gateway.state_dir", f"{path} cannot be opened: {error}")
    return SpoolFull(f"{path} cannot be opened, the disk is full, read-only or out of order: {error}")


def is_unreadable(path: Path) -> bool:
    """Whether the disk does not give back some part of the file."""
    try:
        with path.open("rb") as file:
            while file.read(1 << 20):
                pass
    except OSError as error:
        return error.errno == errno.EIO
    return False


def _is_read_only(folder: Path) -> bool:
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def close_database(connection: apsw.Connection) -> None:
    """Note that the stop was clean, fold the WAL into the file, close."""
    connection.execute("UPDATE meta SET value = 1 WHERE name = 'clean'")
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
    connection.close()


def open_database(path: Path, *, wal_pages: int, crash: CrashPoint = NO_CRASH) -> apsw.Connection:
    """Open or create the spool's file. Raises apsw's errors, and ConfigError when it is of a newer version."""
    connection = apsw.Connection(str(path))
    try:
        # A file that turns out to be damaged is left as it is, its WAL beside it.
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.set_busy_timeout(BUSY_MS)
        _configure(connection, wal_pages)
        migrate(connection, crash)
        if not connection.execute("SELECT value FROM meta WHERE name = 'clean'").get:
            _check(connection)
        _fold_wal(connection)
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
    connection.wal_autocheckpoint(0)  # see `idle`: what fails while it is folded is no failure of a commit


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
