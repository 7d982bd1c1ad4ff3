"""The files of the audit trail, written: lines appended to the chain, rotated, synced; mended after a crash.

Invariant: what is on disk follows on what was there, or a record says why not. Half a line at the end is cut off; a
trail that does not verify is moved into `aside-<n>/` and a new one begun. A failed write leaves the file as it was.
Blocks; used by one thread.
"""

import os
import re
import shutil
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import structlog

from gatewayd.cascade.chain import GENESIS, seal, unseal
from gatewayd.cascade.chain_files import (
    HEAD,
    Finding,
    Head,
    examine,
    file_name,
    file_number,
    lines,
    trail_files,
    write_head,
)
from gatewayd.config.schema import Audit
from gatewayd.disk import sync

log = structlog.get_logger(__name__)

Record = dict[str, Any]
Waiting = TypeVar("Waiting")
OnEvent = Callable[[str, int], None]  # (event, n)

_AT_ONCE = 512  # lines in one write
_ASIDE = re.compile(r"aside-(\d+)")


class ChainWriter:
    """The end of the trail. `open` before the first `append`, and again after an OSError."""

    def __init__(self, folder: Path, config: Audit, stamp: Callable[[], Record], on_event: OnEvent) -> None:
        """`stamp`: the fields `time` and `clock` of a record that the trail writes about itself."""
        self._folder = folder
        self._config = config
        self._stamp = stamp
        self._on_event = on_event
        self._own: deque[Record] = deque()  # what the trail has to say of itself, before anything else
        self._seq, self._hash = 0, GENESIS
        self._synced_seq = 0
        self._path: Path | None = None
        self._fd: int | None = None
        self._size = 0
        self._head_fd: int | None = None
        self._was_whole = False  # the chain was followed from its begin once, since this process started

    @property
    def head(self) -> Head:
        """The last line written."""
        return Head(seq=self._seq, hash=self._hash)

    def tell(self, event: str, **fields: Any) -> None:
        """A record about the trail itself, to be written before the next decisions."""
        self._on_event(event, 1)
        self._own.append({"event": event, **self._stamp(), **fields})

    def open(self) -> Finding:
        """Find the end of the trail, mend it, and be ready to append. Raises OSError."""
        self.close()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        finding = examine(self._folder, only_last=self._was_whole, pause=_yield_turn)
        if not self._is_sound(finding):
            self._put_aside(finding)
            finding = Finding()
        self._was_whole = True
        self._seq = self._synced_seq = finding.last_seq
        self._hash = finding.last.hash if finding.last is not None else GENESIS
        self._take(finding.end_file or self._folder / file_name(self._next_number()))
        self._cut(finding)
        return finding

    def append(self, waiting: deque[Waiting], make: Callable[[Waiting], Record]) -> int:
        """Write what waits, its oldest first, and take from `waiting` what is written; how many. Raises OSError."""
        n_written, n_waiting = 0, len(waiting)
        while self._own:
            self._write(self._own, dict)
        while n_written < n_waiting:  # and not until none waits: more may come faster than a slow disk takes it
            n_written += self._write(waiting, make)
        return n_written

    def sync(self) -> None:
        """Return when all that was appended is on disk. Raises OSError; the file is then closed, `open` it anew."""
        if self._fd is None or self._synced_seq == self._seq:
            return
        try:
            os.fsync(self._fd)
        except OSError:
            self.close()  # what the disk has of it is unknown now
            raise
        self._synced_seq = self._seq
        assert self._head_fd is not None
        write_head(self._head_fd, self.head)

    def close(self) -> None:
        """Let go of the files."""
        for fd in (self._fd, self._head_fd):
            if fd is not None:
                os.close(fd)
        self._fd = self._head_fd = None

    def _is_sound(self, finding: Finding) -> bool:
        """Whether the trail can be gone on with. Damage after what was synced is the tear of a crash: it is cut off."""
        head_seq = finding.head.seq if finding.head is not None else 0
        misfit = finding.misfit
        if misfit is not None:
            is_tear = finding.head is not None and misfit.file == finding.files[-1] and misfit.after_seq >= head_seq
            return is_tear and misfit.after_seq > 0
        return not finding.is_short and (self._was_whole or not finding.begin_problem)

    def _take(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._path = path
        self._fd = os.open(path, flags | os.O_APPEND, 0o640)
        self._head_fd = os.open(self._folder / HEAD, flags, 0o640)
        self._size = os.fstat(self._fd).st_size
        sync(self._folder)

    def _cut(self, finding: Finding) -> None:
        n_torn = self._size - finding.end_bytes
        if n_torn:
            assert self._fd is not None
            os.ftruncate(self._fd, finding.end_bytes)
            self._size = finding.end_bytes
            log.warning("the audit trail's torn end was cut off", path=str(self._path), n_bytes=n_torn)
            self.tell("torn", n_bytes=n_torn)

    def _write(self, waiting: deque[Waiting], make: Callable[[Waiting], Record]) -> int:
        """One write, into one file: as many as fit."""
        assert self._fd is not None
        sealed: list[bytes] = []
        seq, own_hash, size = self._seq, self._hash, self._size
        for at in range(min(len(waiting), _AT_ONCE)):
            line, next_hash = seal({**make(waiting[at]), "seq": seq + 1}, own_hash)
            if size and size + len(line) > self._config.max_file_bytes:
                break
            sealed.append(line)
            seq, own_hash, size = seq + 1, next_hash, size + len(line)
        if not sealed:
            self._rotate()
            return 0
        _write_all(self._fd, b"".join(sealed), self._size)
        self._seq, self._hash, self._size = seq, own_hash, size
        for _ in sealed:
            waiting.popleft()
        return len(sealed)

    def _rotate(self) -> None:
        """Begin a new file; what is beyond `max_files` is told in it, and removed after that is on disk."""
        self.sync()
        log.info("audit file is full, a new one is begun", seq=self._seq, hash=self._hash)
        self.close()
        self._take(self._folder / file_name(self._next_number()))
        for path in trail_files(self._folder)[: -self._config.max_files]:
            self._remove(path)

    def _remove(self, path: Path) -> None:
        last = examine_last(path)
        record = {"event": "removed", "file": path.name, "last_seq": last.seq, "last_hash": last.hash, **self._stamp()}
        self._on_event("removed", 1)
        waiting = deque([record])
        while waiting:
            self._write(waiting, dict)
        self.sync()
        path.unlink(missing_ok=True)

    def _next_number(self) -> int:
        files = trail_files(self._folder)
        return max([file_number(files[-1]) if files else 0, file_number(self._path) if self._path else 0]) + 1

    def _put_aside(self, finding: Finding) -> None:
        kept = aside_folders(self._folder)
        number = int(kept[-1].name.removeprefix("aside-")) + 1 if kept else 1
        place = self._folder / f"aside-{number}"
        place.mkdir(mode=0o750)
        files = trail_files(self._folder)
        next_number = file_number(files[-1]) + 1 if files else 1
        for path in [*files, self._folder / HEAD]:
            if path.exists():
                path.rename(place / path.name)
        sync(self._folder)
        self._path = self._folder / file_name(next_number - 1)
        log.error(
            "the audit trail does not verify: it is kept aside and a new one begun",
            problem=finding.problem,
            kept=str(place),
            hint="find out who wrote into it; `gatewayd audit verify` reads what is kept with --folder",
        )
        self.tell("aside", kept=place.name, problem=finding.problem, last_seq=finding.last_seq)
        for folder in [*kept, place][: -self._config.max_aside]:
            shutil.rmtree(folder, ignore_errors=True)
            self.tell("aside_removed", kept=folder.name)


def aside_folders(folder: Path) -> list[Path]:
    """The trails kept aside, the oldest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _ASIDE.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("aside-")))


def examine_last(path: Path) -> Head:
    """Number and hash of a file's last line, which is known to be whole."""
    last = b""
    for line in lines(path):
        last = line
    link = unseal(last)
    return Head(seq=link.seq, hash=link.hash) if link is not None else Head(seq=0, hash="")


def _yield_turn() -> None:
    """A whole trail takes a second or more to follow, and the event loop has the same interpreter."""
    time.sleep(0.001)


def _write_all(fd: int, content: bytes, size: int) -> None:
    rest = memoryview(content)
    try:
        while rest:
            rest = rest[os.write(fd, rest) :]
    except OSError:
        with suppress(OSError):  # if that fails too, the next opening cuts the torn line off
            os.ftruncate(fd, size)
        raise
