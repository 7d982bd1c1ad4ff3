"""A write-ahead log as it lies on disk, frame by frame, also behind a frame that is damaged.

SQLite takes a log up to the first frame whose checksum is wrong and forgets the rest without a word. But a frame's
checksum goes on from the one that stands in the frame before, so every frame whose predecessor's header is whole can be
checked. Format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log.
"""

import struct
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

PAGE_BYTES = 4096
_HEADER_BYTES = 32
_FRAME_BYTES = 24 + PAGE_BYTES
_MAGIC = 0x377F0682  # plus 1: checksums over big-endian words
_FEW = 8  # frames that tell the salts when the header does not

_header = struct.Struct(">8I").unpack_from
_frame = struct.Struct(">6I").unpack_from

Sums = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Frame:
    """One page, as a transaction left it."""

    page: int
    n_pages: int  # of the database after the commit that ends here; 0 in mid-transaction
    content: bytes
    is_whole: bool  # its checksum is right


@dataclass(slots=True)
class Wal:
    """The frames written since the log was begun anew, in order; those behind it are older and not in here."""

    frames: list[Frame] = field(default_factory=list)
    has_header: bool = True

    @property
    def n_taken(self) -> int:
        """How many frames SQLite takes: up to the last commit before the first that is not whole."""
        n = 0
        for index, frame in enumerate(self.frames if self.has_header else ()):
            if not frame.is_whole:
                break
            if frame.n_pages:
                n = index + 1
        return n

    @property
    def is_damaged(self) -> bool:
        """Whether SQLite would forget what was committed.

        What was under way at a power cut may be there in part, its last frame included. But a transaction begins when
        the one before is synced: with two commits behind the damage, the first of them had been promised.
        """
        left = self.frames[self.n_taken :]
        bad = 0 if not self.has_header else next((at for at, frame in enumerate(left) if not frame.is_whole), len(left))
        return sum(frame.is_whole and frame.n_pages > 0 for frame in left[bad:]) >= 2

    def committed(self) -> Sequence[Frame]:
        """The frames that count: to the last commit, and on to the end where damage may have hidden a commit."""
        last = max((at for at, frame in enumerate(self.frames) if frame.n_pages), default=-1)
        return self.frames if not all(frame.is_whole for frame in self.frames[last + 1 :]) else self.frames[: last + 1]


def read_wal(path: Path) -> Wal:
    """The log at `path`; empty when there is none. Raises OSError when the disk does not give it back."""
    if not path.exists():
        return Wal()
    content = path.read_bytes()
    if len(content) < _HEADER_BYTES + _FRAME_BYTES:
        return Wal()
    magic, _, page_bytes, _, *salts, sum_1, sum_2 = _header(content)
    order = ">" if magic & 1 else "<"
    has_header = magic | 1 == _MAGIC | 1 and page_bytes == PAGE_BYTES
    has_header = has_header and _sums(order, content[:24], (0, 0)) == (sum_1, sum_2)
    places = range(_HEADER_BYTES, len(content) - _FRAME_BYTES + 1, _FRAME_BYTES)
    if not has_header:
        order = ">" if sys.byteorder == "big" else "<"
        salts = list(Counter(_frame(content, at)[2:4] for at in places[:_FEW]).most_common(1)[0][0])
    frames: list[Frame] = []
    n_ours = 0
    before = (sum_1, sum_2)
    for at in places:
        page, n_pages, salt_1, salt_2, *sums = _frame(content, at)
        body = content[at + 24 : at + _FRAME_BYTES]
        is_ours = [salt_1, salt_2] == salts
        is_whole = is_ours and _sums(order, content[at : at + 8] + body, before) == tuple(sums)
        frames.append(Frame(page, n_pages if is_whole else 0, body, is_whole))
        n_ours = len(frames) if is_ours else n_ours
        before = (sums[0], sums[1])
    return Wal(frames[:n_ours], has_header)  # behind them it is older


def _sums(order: str, content: bytes, start: Sums) -> Sums:
    first, second = start
    words = struct.unpack(f"{order}{len(content) // 4}I", content)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second
