"""File sink: one structured CloudEvent a line (NDJSON), in files that rotate by size.

`send` returns after the fsync. What a crash or a full disk left of a line was never confirmed, so it is cut off when
the file is opened again, and the results come again.
"""

import asyncio
import errno
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from gatewayd.config import schema
from gatewayd.disk import sync
from gatewayd.errors import SinkMisconfigured, SinkUnavailable
from gatewayd.events import event_json
from gatewayd.ports import StoredResult

log = structlog.get_logger(__name__)

_BLOCK_BYTES = 65_536
_OUR_LINE = b'{"specversion":'  # every line of ours begins so
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_WRONG = frozenset({errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EROFS, errno.ENAMETOOLONG})


class FileSink:
    """Appends to `config.path`; a relative path lies in the folder `beside`, and `-` is standard output."""

    def __init__(self, config: schema.FileSink, *, gateway: str, beside: str | Path = ".") -> None:
        self._gateway = gateway
        self._path = Path(beside) / config.path
        is_stdout = config.path == "-"
        self._out = _Stdout() if is_stdout else _Rotating(self._path, config.max_file_bytes, config.max_files)
        # A timed-out `send` leaves its thread writing; the next one must not write into its lines.
        self._lock = threading.Lock()
        self.sent_bytes = 0

    async def send(self, results: Sequence[StoredResult]) -> Mapping[str, str]:
        """Return when the lines are on disk. Raises SinkUnavailable when they could not be written."""
        lines = b"".join(event_json(stored, self._gateway) + b"\n" for stored in results)
        try:
            await asyncio.to_thread(self._append, lines)
        except OSError as exc:
            raise _unavailable(exc) from exc
        return {}

    async def close(self) -> None:
        """Let go of the file."""
        await asyncio.to_thread(self._close)

    def _append(self, lines: bytes) -> None:
        with self._lock:
            self.sent_bytes += len(lines)
            self._out.append(lines)

    def _close(self) -> None:
        with self._lock:
            self._out.close()


class _Stdout:
    """Standard output: flushed, and synced where it is a file."""

    def __init__(self) -> None:
        self._is_torn = False  # the last write failed in the middle of a line

    def append(self, lines: bytes) -> None:
        out = sys.stdout.buffer
        begun = b"\n" if self._is_torn else b""
        self._is_torn = True
        out.write(begun + lines)
        out.flush()
        self._is_torn = False
        try:
            os.fsync(out.fileno())
        except OSError as exc:  # a pipe or a terminal cannot; neither can what tests put in its place
            if exc.errno not in {errno.EINVAL, errno.ENOTSUP, errno.EROFS, None}:
                raise

    def close(self) -> None:
        """Standard output is not ours to close."""


class _Rotating:
    """A file and its predecessors `<path>.1` (the youngest) to `<path>.<max_files - 1>`."""

    def __init__(self, path: Path, max_file_bytes: int, max_files: int) -> None:
        self._path = path
        self._max_file_bytes = max_file_bytes
        self._max_files = max_files
        self._fd: int | None = None

    def append(self, lines: bytes) -> None:
        try:
            fd = self._opened()
            size = os.fstat(fd).st_size
            if size and size + len(lines) > self._max_file_bytes:
                self._rotate()
                fd, size = self._opened(), 0
            _write_all(fd, lines, size)
        except OSError:
            self.close()  # after a failed fsync nothing is known about the file: look at it anew
            raise

    def close(self) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def _opened(self) -> int:
        if self._fd is not None and not _is_at(self._fd, self._path):
            log.warning("file was moved or removed by somebody else, a new one is begun", path=str(self._path))
            self.close()
        if self._fd is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
            _repair(self._fd, self._path)
            sync(self._path.parent)
        return self._fd

    def _rotate(self) -> None:
        """Move every file up by one, oldest first: a crash in between leaves a gap, and the next turn fills it."""
        self.close()
        names = [self._path, *(self._path.with_name(f"{self._path.name}.{n}") for n in range(1, self._max_files))]
        gap = next((n for n, name in enumerate(names) if not name.exists()), len(names) - 1)
        for n in range(gap, 0, -1):
            names[n - 1].replace(names[n])
        if gap == 0:
            self._path.unlink()
        sync(self._path.parent)


def _write_all(fd: int, lines: bytes, size: int) -> None:
    rest = memoryview(lines)
    try:
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fsync(fd)
    except OSError:
        with suppress(OSError):  # gives the space back; if that fails too, the next opening repairs the line
            os.ftruncate(fd, size)
        raise


def _repair(fd: int, path: Path) -> None:
    """Cut off a last line of ours without its end; end one that somebody else wrote."""
    size = os.fstat(fd).st_size
    if size == 0 or os.pread(fd, 1, size - 1) == b"\n":
        return
    begin = _begin_of_last_line(fd, size)
    head = os.pread(fd, min(len(_OUR_LINE), size - begin), begin)
    is_ours = _OUR_LINE.startswith(head)
    log.warning("last line was torn", path=str(path), n_bytes=size - begin, cut_off=is_ours)
    if is_ours:
        os.ftruncate(fd, begin)
    else:
        os.write(fd, b"\n")
    os.fsync(fd)


def _begin_of_last_line(fd: int, size: int) -> int:
    end = size
    while end > 0:
        begin = max(0, end - _BLOCK_BYTES)
        found = os.pread(fd, end - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _unavailable(exc: OSError) -> SinkUnavailable:
    where = f" ({exc.filename})" if exc.filename else ""
    problem = f"{os.strerror(exc.errno) if exc.errno else exc}{where}"
    if exc.errno in _WRONG:
        misconfigured = SinkMisconfigured(problem)
        misconfigured.hint = "check `path` and who may write there (systemd: ReadWritePaths=)"
        return misconfigured
    error = SinkUnavailable(problem)
    if exc.errno in _FULL:
        error.hint = "the disk is full: lower `max_files` or `max_file_bytes`, or make room"
    return error
