"""What the writer does when nothing waits: give pages back to the file system after a drain, in small steps."""

import apsw

from gatewayd.crash import NO_CRASH, CrashPoint
from gatewayd.spool.cap import Cap
from gatewayd.spool.database import BUSY_MS, PAGE_BYTES

_BUSY_PAUSE_S = 0.25  # so long nothing waited: idle
_STEP_PAUSE_S = 0.005
_REST_PAUSE_S = 5.0
_STEP_PAGES = 64  # 256 KiB: a few milliseconds
_KEEP_PAGES = 64  # free pages left in the file for what comes next
_WORTH_PAGES = 256  # fewer free pages than this are not worth the writing


class Idle:
    """Called again and again while nothing waits; `pause_s` is how long to wait for work before the next call."""

    def __init__(self, connection: apsw.Connection, cap: Cap, *, wal_pages: int, crash: CrashPoint = NO_CRASH) -> None:
        self._connection = connection
        self._crash = crash
        self._cap = cap
        self._wal_pages = wal_pages
        self._n_frames = 0  # in the WAL, as of the last commit
        self._is_vacuuming = False
        self.pause_s = _BUSY_PAUSE_S

        connection.set_wal_hook(self._committed)

    def give_back(self) -> None:
        """The disk is full: fold the WAL and give back whatever is free, a step at a time."""
        try:
            if self._connection.pragma("freelist_count"):
                self._connection.execute(f"PRAGMA incremental_vacuum({_STEP_PAGES})").fetchall()
            self._truncate_wal()
        except apsw.Error:
            return  # next time

    def shrink(self) -> None:
        """Make the file as small as what is in it, for a transaction that is going to be large."""
        self._truncate_wal()
        while (n_free := int(self._connection.pragma("freelist_count"))) > 0:
            self._connection.execute(f"PRAGMA incremental_vacuum({_STEP_PAGES})").fetchall()
            self._truncate_wal()
            if int(self._connection.pragma("freelist_count")) >= n_free:
                return

    def fold_when_long(self) -> None:
        """Fold the WAL into the file once it has its length. After the answers, for nobody has to wait for it."""
        if self._n_frames < self._wal_pages:
            return
        self._crash.reach("spool.before_checkpoint")
        try:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            self._crash.reach("spool.after_checkpoint")
            self._n_frames = 0
        except apsw.Error:
            return  # after the next commit

    def step(self) -> None:
        """Do one small thing. A failure (full disk, a reader in the way) is no harm: the next step tries again."""
        try:
            n_free = int(self._connection.pragma("freelist_count"))
            if n_free > (_KEEP_PAGES if self._is_vacuuming else _WORTH_PAGES):
                self._is_vacuuming = True
                n_pages = min(_STEP_PAGES, n_free - _KEEP_PAGES)
                self._connection.execute(f"PRAGMA incremental_vacuum({n_pages})").fetchall()
                self.pause_s = _STEP_PAUSE_S
                return
            if self._is_vacuuming or self._cap.wal_bytes > _WORTH_PAGES * PAGE_BYTES // 2:
                self._is_vacuuming = False
                self._truncate_wal()
            self.pause_s = _BUSY_PAUSE_S
        except apsw.Error:
            self.pause_s = _REST_PAUSE_S

    def _committed(self, _connection: apsw.Connection, _name: str, n_frames: int) -> int:
        self._n_frames = n_frames
        return apsw.SQLITE_OK

    def _truncate_wal(self) -> None:
        self._crash.reach("spool.before_checkpoint")
        # Never wait for a reader here: messages may come at any moment.
        self._connection.set_busy_timeout(0)
        try:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            self._crash.reach("spool.after_checkpoint")
        finally:
            self._connection.set_busy_timeout(BUSY_MS)
