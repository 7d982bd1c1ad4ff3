"""The ballast: a file whose space is given back when the disk is full, so that acks and deletes still find some.

Invariant: while it is given up nothing new is taken in, for what it freed is for draining alone. It is made again once
the file system has twice its size. Its bytes count toward `spool.max_bytes`.
"""

import os
from pathlib import Path

import apsw

_SHARE = 16  # of the cap, at most: as much as the WAL of a small spool


def ballast_bytes_for(wanted_bytes: int, max_bytes: int) -> int:
    """The ballast's size under a cap."""
    return min(wanted_bytes, max_bytes // _SHARE)


class Ballast:
    """`<spool>.ballast`. Of size 0 it is always there and never helps."""

    def __init__(self, spool: Path, n_bytes: int) -> None:
        self._path = spool.with_suffix(".ballast")
        self.n_bytes = n_bytes
        self.is_there = False
        self._look()

    def make(self) -> bool:
        """Take the space, when the file system has twice as much. Whether the ballast is new."""
        if self.is_there or self._free_bytes() < 2 * self.n_bytes:
            return False
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(file, 0, self.n_bytes)
            finally:
                os.close(file)
        except OSError:
            self._path.unlink(missing_ok=True)
            return False
        self.is_there = True
        return True

    def give_up(self, error: Exception) -> bool:
        """Let go of the space if it was the lack of space that made `error`. Whether there was any to let go of."""
        if not self.n_bytes or not self.is_there:
            return False
        # A quota shows in the error alone, a WAL's index that finds no room in the file system alone.
        if not isinstance(error, apsw.FullError) and self._free_bytes() >= self.n_bytes:
            return False
        try:
            self._path.unlink(missing_ok=True)
        except OSError:
            return False  # read-only: it would not help either
        self.is_there = False
        return True

    def _look(self) -> None:
        try:
            if self.n_bytes and self._path.stat().st_blocks * 512 >= self.n_bytes == self._path.stat().st_size:
                self.is_there = True
                return
            self._path.unlink()
        except OSError:
            pass
        self.is_there = not self.n_bytes

    def _free_bytes(self) -> int:
        try:
            system = os.statvfs(self._path.parent)
        except OSError:
            return 0
        return system.f_bavail * system.f_frsize
