"""The rows that lie in a spool's pages, read without SQLite: no tree, no first page and no whole log is needed for it.

Nothing here is to be trusted: whoever reads compares the rows with their checksums. Free pages are left out, and so is
what a page no longer points to: rows that were deleted do not come back, but where the page itself is damaged.
Format: https://www.sqlite.org/fileformat2.html; the file is of 4096-byte pages and in auto-vacuum mode.
"""

import os
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gatewayd.spool.wal import PAGE_BYTES, Frame, Wal

_MAGIC = b"SQLite format 3\0"
_POINTERS = PAGE_BYTES // 5  # entries of a pointer-map page, and the pages from one such page to the next but one
_NO_ROWS = (2, 3, 4)  # types in the pointer map, of 1 to 5: a free page, and pages with the rest of a long row
_TABLE, _INDEX = 0x0D, 0x0A  # leaves
_INNER = (0x02, 0x05)
_MAX_LOCAL = {_TABLE: PAGE_BYTES - 35, _INDEX: (PAGE_BYTES - 12) * 64 // 255 - 23}
_MIN_LOCAL = (PAGE_BYTES - 12) * 32 // 255 - 23
_MAX_COLUMNS = 16
_MIN_HEAD, _MAX_HEAD = 3, 1 + 4 * _MAX_COLUMNS  # bytes
# A length, and an id that has a route in its upper bits, as varints: at every place, also within another such.
_LARGE_ID = re.compile(rb"(?=[\x80-\xff]{0,3}[\x00-\x7f][\x80-\xff]{6})")
_MAX_CARVED = 16_384  # pages searched byte by byte: a start must come to an end
_SIZES = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)  # bytes by serial type, up to 9; 10 and 11 are none
_BAD = (IndexError, ValueError, OverflowError, struct.error)

Row = tuple[int, tuple[Any, ...]]  # id (0 in a table without), columns


class Pages:
    """A database file and its log, read only. `n_bad`: pages that could not be read, or not in full."""

    def __init__(self, path: Path, wal: Wal) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.n_file = os.fstat(self._file).st_size // PAGE_BYTES
        self._frames: dict[int, list[Frame]] = {}
        n_after = 0
        n_known = max([self.n_file, *(frame.page for frame in wal.frames if frame.is_whole)])
        for frame in wal.committed():
            if not 0 < frame.page <= n_known:
                continue  # a damaged number
            known = self._frames.setdefault(frame.page, [])
            if frame.is_whole:
                known.clear()
            known.insert(0, frame)
            n_after = frame.n_pages or n_after
        self.n_pages = min(n_after, n_known) if n_after else n_known
        self.n_bad = 0
        self.n_carved = 0

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def rows(self) -> Iterator[Row]:
        """Every row that something points to; some of them more than once, some of them damaged."""
        free = self._free()
        for number in range(1, self.n_pages + 1):
            if number in free or (number - 2) % (_POINTERS + 1) == 0:
                continue
            for content in self.versions(number):
                yield from self._cells(number, content)

    def newest(self, number: int) -> bytes:
        """A page as it was last written; zeros where there is nothing."""
        return next(self.versions(number), bytes(PAGE_BYTES))

    def versions(self, number: int) -> Iterator[bytes]:
        """A page as it was last written, and as it was before where that is damaged."""
        for frame in self._frames.get(number, ()):
            yield frame.content
            if frame.is_whole:
                return
        content = self.in_file(number)
        if content:
            yield content

    def in_file(self, number: int) -> bytes:
        """A page without the log; empty where the disk does not give it back, or it was cut off."""
        try:
            content = os.pread(self._file, PAGE_BYTES, (number - 1) * PAGE_BYTES)
        except OSError:
            content = b""
        if len(content) < PAGE_BYTES:
            self.n_bad += 1
            return b""
        return content

    def is_ahead(self) -> bool:
        """Whether the log holds a page otherwise than the file does."""
        return any(frames[0].content != self.in_file(number) for number, frames in self._frames.items())

    def _free(self) -> set[int]:
        """Pages without rows: free ones, and those that hold the rest of a long row."""
        free: set[int] = set()
        head = self.newest(1)
        trunk = int.from_bytes(head[32:36], "big") if head[:16] == _MAGIC else 0
        while 1 < trunk <= self.n_pages and trunk not in free:
            free.add(trunk)
            trunk, n_leaves, *leaves = struct.unpack(f">{PAGE_BYTES // 4}I", self.newest(trunk))
            free.update(leaves[: min(n_leaves, len(leaves))])
        for first in range(2, self.n_pages + 1, _POINTERS + 1):
            types = self.newest(first)[: 5 * _POINTERS : 5]
            if max(types) <= 5:
                free.update(first + 1 + at for at, kind in enumerate(types) if kind in _NO_ROWS)
        return free

    def _cells(self, number: int, content: bytes) -> Iterator[Row]:
        begin = 100 if number == 1 else 0
        kind = content[begin]
        if kind in _INNER:
            return
        n_cells = int.from_bytes(content[begin + 3 : begin + 5], "big")
        first = begin + 8 + 2 * n_cells
        is_bad = kind not in _MAX_LOCAL or first > PAGE_BYTES
        if not is_bad:
            for at in struct.unpack_from(f">{n_cells}H", content, begin + 8):
                try:
                    yield self._cell(content, at, kind)
                except _BAD:
                    is_bad = True
        if is_bad and any(content):
            self.n_bad += 1
            if self.n_carved < _MAX_CARVED:
                self.n_carved += 1
                yield from self._carved(content)

    def _carved(self, content: bytes) -> Iterator[Row]:
        """Whatever has the form of a result or a message, in a page that does not say where its rows are."""
        for found in _LARGE_ID.finditer(content):
            try:
                yield self._cell(content, found.start(), _TABLE)
            except _BAD:
                continue

    def _cell(self, content: bytes, at: int, kind: int) -> Row:
        n_bytes, at = _varint(content, at)
        row = 0
        if kind == _TABLE:
            row, at = _varint(content, at)
        if not _MIN_HEAD <= content[at] <= _MAX_HEAD:
            raise ValueError("not the head of a row")
        types, n_head = _types(content[at : at + _MAX_HEAD])
        # Before a chain of pages is followed for it, which may be a long way for nothing.
        if n_head + sum(map(_size, types)) != n_bytes or n_bytes > self.n_pages * PAGE_BYTES:
            raise ValueError("a row of another length")
        payload = content[at : at + n_bytes]
        if n_bytes > _MAX_LOCAL[kind]:
            n_local = _MIN_LOCAL + (n_bytes - _MIN_LOCAL) % (PAGE_BYTES - 4)
            n_local = n_local if n_local <= _MAX_LOCAL[kind] else _MIN_LOCAL
            following = int.from_bytes(content[at + n_local : at + n_local + 4], "big")
            payload = content[at : at + n_local] + self._overflow(following, n_bytes - n_local)
        if len(payload) != n_bytes:
            raise ValueError("a row that is cut off")
        return row - (1 << 64) if row >> 63 else row, _values(types, payload, n_head)

    def _overflow(self, number: int, n_bytes: int) -> bytes:
        parts = []
        while n_bytes > 0:
            if not 1 < number <= self.n_pages:
                raise ValueError("a row whose rest is nowhere")
            content = self.newest(number)
            parts.append(content[4 : 4 + min(n_bytes, PAGE_BYTES - 4)])
            n_bytes -= PAGE_BYTES - 4
            number = int.from_bytes(content[:4], "big")
        return b"".join(parts)


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = 0
    for n in range(8):
        byte = content[at + n]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + n + 1
    return value << 8 | content[at + 8], at + 9


def _types(payload: bytes) -> tuple[list[int], int]:
    n_head, at = payload[0], 1
    types: list[int] = []
    while at < n_head:
        kind, at = _varint(payload, at)
        types.append(kind)
    if at != n_head or not 1 < len(types) <= _MAX_COLUMNS:
        raise ValueError("not the head of a row")
    return types, at


def _size(kind: int) -> int:
    return (kind - 12) // 2 if kind >= 12 else _SIZES[kind]


def _values(types: Sequence[int], payload: bytes, at: int) -> tuple[Any, ...]:
    values: list[Any] = []
    for kind in types:
        end = at + _size(kind)
        part = payload[at:end]
        if kind >= 12:
            values.append(part.decode() if kind % 2 else part)
        elif kind == 7:
            values.append(struct.unpack(">d", part)[0])
        elif kind in {0, 8, 9}:
            values.append(None if kind == 0 else kind - 8)
        else:
            values.append(int.from_bytes(part, "big", signed=True))
        at = end
    return tuple(values)
