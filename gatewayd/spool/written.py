"""How many bytes the spool has written, for those who pay for them with the life of an SD card.

Counted: every frame that a transaction put into the WAL, and every page that a checkpoint copied from there into the
file (a page that is in the WAL many times is copied once). Not counted, for no program sees it: the file system's own
journal, and that a sector or an erase block is larger than what is written of it. What the kernel says the process has
written is beside it in the metrics, as `gatewayd.process.written`.
"""

import os
from pathlib import Path

import apsw

from gatewayd.spool.database import PAGE_BYTES

# The WAL's format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log
_WAL_HEADER_BYTES = 32
_FRAME_BYTES = 24 + PAGE_BYTES
_PAGE_NUMBER_BYTES = 4


class Written:
    """Counts for one connection, which is the only one that writes."""

    def __init__(self, connection: apsw.Connection, wal: Path) -> None:
        self._connection = connection
        self._wal = wal
        self._n_pages_before = self._n_frames_written()
        self._n_frames = 0  # in the WAL, as of the last commit
        self._n_folded = 0  # of them: copied into the file already
        self._n_copied_pages = 0
        self.n_bytes = 0

    def committed(self, n_frames: int) -> None:
        """A transaction is in the WAL, which has `n_frames` now."""
        if n_frames <= self._n_folded:
            self._n_folded = 0  # all was folded, and the WAL begun anew
        self._n_frames = n_frames
        self._sum_up()

    def pages_to_fold(self) -> int:
        """How many pages a checkpoint is going to copy. Asked before it, for it may empty the WAL."""
        begin = _WAL_HEADER_BYTES + self._n_folded * _FRAME_BYTES
        n_bytes = (self._n_frames - self._n_folded) * _FRAME_BYTES
        if n_bytes <= 0:
            return 0
        try:
            file = os.open(self._wal, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return 0
        try:
            frames = os.pread(file, n_bytes, begin)
        except OSError:
            return 0
        finally:
            os.close(file)
        return len({frames[at : at + _PAGE_NUMBER_BYTES] for at in range(0, len(frames), _FRAME_BYTES)})

    def folded(self, n_pages: int) -> None:
        """A checkpoint copied everything, which was `n_pages`."""
        self._n_folded = self._n_frames
        self._n_copied_pages += n_pages
        self._sum_up()

    def _sum_up(self) -> None:
        n_frames = self._n_frames_written() - self._n_pages_before
        self.n_bytes = n_frames * _FRAME_BYTES + self._n_copied_pages * PAGE_BYTES

    def _n_frames_written(self) -> int:
        return int(self._connection.status(apsw.SQLITE_DBSTATUS_CACHE_WRITE)[0])
