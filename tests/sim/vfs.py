"""A disk that forgets: an apsw VFS that records what SQLite writes, and what a power cut at any moment may leave of it.

Model: what was synced is there. Of what was not, any part may be there: each write and truncation whole, not at all
(so later ones may be there without earlier ones), torn at 512 bytes, or with garbage in one sector that it wrote. A new
or deleted file's name is certain once its folder was synced, which SQLite does with the first sync of a journal or WAL.
"""

import ctypes
import errno
import itertools
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import apsw

SECTOR_BYTES = 512
_JOURNALS = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_WAL
_RECORDED = _JOURNALS | apsw.SQLITE_OPEN_MAIN_DB


@dataclass(frozen=True, slots=True)
class Op:
    """One thing that happened to the disk, or a mark of the test's own."""

    kind: Literal["open", "write", "truncate", "sync", "sync_folder", "delete", "mark"]
    file: str = ""
    at: int = 0  # offset, or size
    data: bytes = b""
    mark: object = None


class RecordingDisk(apsw.VFS):
    """The default VFS from `recording` on; `log` holds everything in order."""

    def __init__(self) -> None:
        self.log: list[Op] = []
        self._lock = threading.Lock()
        self._known: set[str] = set()
        super().__init__("recording", "unix", makedefault=True)

    def mark(self, mark: object) -> None:
        """Note that something was promised now."""
        self.note(Op("mark", mark=mark))

    def note(self, op: Op) -> None:
        """Put an operation on record."""
        with self._lock:
            self.log.append(op)

    def xOpen(self, name, flags):  # type: ignore[no-untyped-def]
        file = _RecordedFile(self, name, flags)
        if flags[0] & _RECORDED and file.name not in self._known:
            self._known.add(file.name)
            self.note(Op("open", file.name))
        return file

    def xDelete(self, filename: str, syncdir: bool) -> None:
        super().xDelete(filename, syncdir)
        self._known.discard(Path(filename).name)
        self.note(Op("delete", Path(filename).name))
        if syncdir:
            self.note(Op("sync_folder"))


class _RecordedFile(apsw.VFSFile):
    def __init__(self, disk: RecordingDisk, name, flags) -> None:  # type: ignore[no-untyped-def]
        super().__init__("unix", name, flags)
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self.name = Path(path).name if path else ""
        self._disk = disk
        self._is_recorded = bool(flags[0] & _RECORDED)
        self._syncs_folder = bool(flags[0] & _JOURNALS)

    def xWrite(self, data: bytes, offset: int) -> None:
        super().xWrite(data, offset)
        if self._is_recorded:
            self._disk.note(Op("write", self.name, offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:
        super().xTruncate(newsize)
        if self._is_recorded:
            self._disk.note(Op("truncate", self.name, newsize))

    def xSync(self, flags: int) -> None:
        # Not handed on: durability is what the model says it is, and the tests are quick.
        if self._is_recorded:
            self._disk.note(Op("sync", self.name))
            if self._syncs_folder:
                self._disk.note(Op("sync_folder"))


@contextmanager
def recording() -> Iterator[RecordingDisk]:
    """Every connection opened within is recorded."""
    disk = RecordingDisk()
    try:
        yield disk
    finally:
        disk.unregister()


@dataclass
class _File:
    synced: bytearray = field(default_factory=bytearray)
    unsynced: list[Op] = field(default_factory=list)
    is_named: bool = False  # the folder's entry is certain
    is_deleted: bool = False
    before: "_File | None" = None  # what may have the name instead, until the folder is synced

    def copy(self) -> "_File":
        before = self.before.copy() if self.before else None
        return replace(self, synced=bytearray(self.synced), unsynced=list(self.unsynced), before=before)


class Platter:
    """What the log up to some moment has put on the disk, certainly and perhaps."""

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}
        self.marks: list[object] = []

    def put(self, name: str, content: bytes) -> None:
        """A file that is there for certain."""
        self._files[name] = _File(synced=bytearray(content), is_named=True)

    def apply(self, op: Op) -> None:
        """One more operation."""
        if op.kind == "mark":
            self.marks.append(op.mark)
        elif op.kind == "sync_folder":
            self._sync_folder()
        elif op.kind == "open":
            self._files[op.file] = _File(before=self._files.get(op.file))
        elif op.kind == "delete":
            self._files[op.file] = _File(is_deleted=True, before=self._files.get(op.file))
        elif op.kind == "sync":
            file = self._files[op.file]
            for write in file.unsynced:
                _apply(file.synced, write)
            file.unsynced.clear()
        else:
            self._files[op.file].unsynced.append(op)

    def image(self, draw: random.Random) -> dict[str, bytes]:
        """What a cut at this moment may leave: file name -> content."""
        style = draw.choice(("nothing", "everything", "some", "some", "some"))
        left = {}
        for name, file in self._files.items():
            content = self._content(file, draw, style)
            if content is not None:
                left[name] = bytes(content)
        return left

    def _sync_folder(self) -> None:
        for file in self._files.values():
            file.is_named, file.before = True, None

    def _content(self, file: _File, draw: random.Random, style: str) -> bytearray | None:
        if not file.is_named and (style == "nothing" or (style == "some" and draw.random() < 0.5)):
            return self._content(file.before, draw, style) if file.before else None
        if file.is_deleted:
            return None
        content = bytearray(file.synced)
        if style != "nothing":
            keep = 1.0 if style == "everything" else draw.random()
            for op in file.unsynced:
                if draw.random() <= keep:
                    _apply(content, op)
                elif op.kind == "write" and draw.random() < 0.5:
                    for torn in _torn(op, draw):
                        _apply(content, torn)
        return content


def _apply(content: bytearray, op: Op) -> None:
    if op.kind == "truncate":
        del content[op.at :]
        content.extend(bytes(op.at - len(content)))
        return
    content.extend(bytes(max(0, op.at - len(content))))
    content[op.at : op.at + len(op.data)] = op.data


def _torn(op: Op, draw: random.Random) -> Sequence[Op]:
    """Some sectors of a write, at times with garbage in one."""
    begin, end = op.at, op.at + len(op.data)
    cuts = [begin, *range(begin - begin % SECTOR_BYTES + SECTOR_BYTES, end, SECTOR_BYTES), end]
    sectors = [replace(op, at=a, data=op.data[a - begin : b - begin]) for a, b in itertools.pairwise(cuts)]
    kept = [sector for sector in sectors if draw.random() < 0.5]
    if kept and draw.random() < 0.3:
        spoiled = draw.randrange(len(kept))
        kept[spoiled] = replace(kept[spoiled], data=draw.randbytes(len(kept[spoiled].data)))
    return kept


_MMAP = ctypes.CFUNCTYPE(
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
    use_errno=True,
)
_FTRUNCATE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_long, use_errno=True)
FAULTS = ("open", "read", "write", "sync", "truncate", "delete", "shm")


class FaultyDisk(apsw.VFS):
    """The default VFS from `faulty` on: the n-th call of a kind fails, once or from then on, as EIO or as ENOSPC.

    `shm` is the mapping of the WAL's index, which apsw has no method for, and `truncate` may fail within a commit
    without any harm, while apsw would raise it: for these two the system call itself is exchanged, under the real VFS.
    """

    def __init__(self, kind: str, n: int, *, for_ever: bool, is_full: bool = False) -> None:
        self._kind = kind
        self._n = n
        self._for_ever = for_ever
        self._is_full = is_full
        self._lock = threading.Lock()
        self.n_fired = 0
        self.is_mended = False
        super().__init__("faulty", "unix", makedefault=kind not in {"shm", "truncate"})

    def fails(self, kind: str) -> bool:
        """Count a call; whether it is one that fails."""
        if kind != self._kind or self.is_mended:
            return False
        with self._lock:
            self._n -= 1
            is_due = self._n == 0 or (self._for_ever and self._n < 0)
            self.n_fired += is_due
            return is_due

    def reach(self, kind: str) -> None:
        """Pass a call of this kind, or fail as SQLite's own VFS would."""
        if self.fails(kind):
            if kind == "open":
                raise apsw.CantOpenError("fault: open")
            if self._is_full and kind == "write":
                raise apsw.FullError(f"fault: {kind}")
            raise apsw.IOError(f"fault: {kind}")

    def xOpen(self, name, flags):  # type: ignore[no-untyped-def]
        self.reach("open")
        return _FaultyFile(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self.reach("delete")
        super().xDelete(filename, syncdir)


class _FaultyFile(apsw.VFSFile):
    def __init__(self, disk: FaultyDisk, name, flags) -> None:  # type: ignore[no-untyped-def]
        super().__init__("unix", name, flags)
        self._disk = disk

    def xRead(self, amount: int, offset: int) -> bytes:
        self._disk.reach("read")
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.reach("write")
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        self._disk.reach("sync")


@contextmanager
def faulty(kind: str, n: int, *, for_ever: bool, is_full: bool = False) -> Iterator[FaultyDisk]:
    """Every connection opened within meets the fault."""
    disk = FaultyDisk(kind, n, for_ever=for_ever, is_full=is_full)
    libc = ctypes.CDLL(None, use_errno=True)
    real_mmap, real_ftruncate = _MMAP(("mmap", libc)), _FTRUNCATE(("ftruncate64", libc))
    number = errno.ENOSPC if is_full else errno.EIO

    @_MMAP
    def mmap(at: int, length: int, protection: int, flags: int, file: int, offset: int) -> int | None:
        if disk.fails("shm"):
            ctypes.set_errno(number)
            return ctypes.c_void_p(-1).value
        return real_mmap(at, length, protection, flags, file, offset)

    @_FTRUNCATE
    def ftruncate(file: int, size: int) -> int:
        if disk.fails("truncate"):
            ctypes.set_errno(number)
            return -1
        return real_ftruncate(file, size)

    calls = {"shm": ("mmap", mmap), "truncate": ("ftruncate", ftruncate)}

    try:
        if kind in calls:
            name, call = calls[kind]
            disk.xSetSystemCall(name, ctypes.cast(call, ctypes.c_void_p).value or 0)
        yield disk
    finally:
        for name, _ in calls.values():
            disk.xSetSystemCall(name, 0)
        disk.unregister()
