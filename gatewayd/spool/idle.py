"""Upkeep of the file: folding the WAL, and giving pages back to the file system after a drain, in small steps.

Invariant: nobody waits for it longer than for another message's commit. While messages come, steps are as short as a
commit and rest for many times their length (see `duty`); when nothing waits, one follows the other.

A file gets shorter when a checkpoint has copied what a step did, so there is one every few steps.
"""

import time
from pathlib import Path

import apsw

from gatewayd.crash import NO_CRASH, CrashPoint
from gatewayd.spool.cap import Cap
from gatewayd.spool.database import BUSY_MS, PAGE_BYTES
from gatewayd.spool.duty import Duty
from gatewayd.spool.written import Written

_LOOK_S = 0.25  # how often the free pages are looked at
_QUIET_S = 0.25  # so long nothing came: idle
_STEP_PAUSE_S = 0.005
_REST_PAUSE_S = 5.0
_STEP_PAGES = 64  # of a step that somebody waits for
_KEEP_PAGES = 64  # free pages left in the file for what comes next
_WORTH_PAGES = 256  # fewer free pages than this are not worth the writing
_MANY = 7 / 8  # of the file: so few pages are in use that moving them costs little
_FEW = 1 / 8  # of the file: not worth it while messages come, which may need them
_STILL_S = 5.0  # so long the pages in use have not become fewer: no drain is under way
_FOLD_PAGES = 2048  # given back since the last checkpoint


class Idle:
    """Called by the writer: `between` after each group, `step` when nothing came for `pause_s`."""

    def __init__(self, connection: apsw.Connection, cap: Cap, *, wal_pages: int, crash: CrashPoint = NO_CRASH) -> None:
        self._connection = connection
        self._crash = crash
        self._cap = cap
        self._wal_pages = wal_pages
        self._n_frames = 0  # in the WAL, as of the last commit
        self._n_given = 0  # pages, since the WAL was folded
        self._is_vacuuming = False
        self._look_at_s = 0.0
        self._n_used = 0  # pages, when they were last looked at
        self._shrank_at_s = float("-inf")
        self._busy_at_s = 0.0  # when something came last
        self.duty = Duty(wal_pages)
        self.written = Written(connection, Path(connection.filename_wal))

        connection.set_wal_hook(self._committed)

    @property
    def pause_s(self) -> float:
        """How long to wait for work before the next `step`."""
        due_at_s = self.duty.due_at_s if self._is_vacuuming else self._look_at_s
        return max(_STEP_PAUSE_S, due_at_s - time.monotonic())

    def give_back(self) -> None:
        """The disk is full: fold the WAL and give back whatever is free, a step at a time."""
        try:
            if self._connection.pragma("freelist_count"):
                self._vacuum(_STEP_PAGES)
            self._truncate_wal()
        except apsw.Error:
            return  # next time

    def shrink(self) -> None:
        """Make the file as small as what is in it, for a transaction that is going to be large."""
        self._truncate_wal()
        while (n_free := int(self._connection.pragma("freelist_count"))) > 0:
            self._vacuum(_STEP_PAGES)
            self._truncate_wal()
            if int(self._connection.pragma("freelist_count")) >= n_free:
                return

    def fold_when_long(self) -> None:
        """Fold the WAL into the file once it has its length. After the answers, for nobody has to wait for it."""
        if self._n_frames >= self._wal_pages:
            self._fold()

    def between(self) -> None:
        """A group was written and answered, and the next may be waiting: do something if it is time."""
        now_s = self._busy_at_s = time.monotonic()
        if now_s >= (self.duty.due_at_s if self._is_vacuuming else self._look_at_s):
            self._step(now_s, is_busy=True)

    def step(self) -> None:
        """Nothing came for `pause_s`: do one small thing."""
        now_s = time.monotonic()
        self._step(now_s, is_busy=now_s - self._busy_at_s < _QUIET_S)

    def _step(self, now_s: float, *, is_busy: bool) -> None:
        """A failure (full disk, a reader in the way) is no harm: a later step tries again."""
        try:
            if self._is_vacuuming:
                self._give_back_some(is_busy=is_busy)
                self.duty.took(time.monotonic() - now_s, time.monotonic(), is_busy=is_busy)
            else:
                self._look(now_s, is_busy=is_busy)
                self._look_at_s = now_s + _LOOK_S
        except apsw.Error:
            self._look_at_s = self.duty.due_at_s = now_s + _REST_PAUSE_S

    def _look(self, now_s: float, *, is_busy: bool) -> None:
        """Whether there is something to give back.

        Not in the middle of a drain: the pages in use would be moved, to be free a moment later, and flash wears.
        """
        n_free, n_pages = (int(self._connection.pragma(name)) for name in ("freelist_count", "page_count"))
        if n_pages - n_free < self._n_used:
            self._shrank_at_s = now_s
        self._n_used = n_pages - n_free
        n_worth = max(_WORTH_PAGES, n_pages * _FEW if is_busy else 0)
        is_drained = n_free > n_pages * _MANY or now_s - self._shrank_at_s > _STILL_S
        self._is_vacuuming = n_free > n_worth and is_drained
        if not (self._is_vacuuming or is_busy) and self._cap.wal_bytes > _WORTH_PAGES * PAGE_BYTES // 2:
            self._truncate_wal()

    def _give_back_some(self, *, is_busy: bool) -> None:
        n_free = int(self._connection.pragma("freelist_count"))
        if n_free > _KEEP_PAGES:
            # A page that is given back is up to three frames (what is moved, its parent, a map); the cap has room for
            # three times the WAL's length.
            n_room = self._wal_pages - self._n_frames // 3
            n_pages = max(1, min(self.duty.n_pages, n_room, n_free - _KEEP_PAGES))
            self._vacuum(n_pages)
            self._n_given += n_pages
            if self._n_given < _FOLD_PAGES and n_free - n_pages > _KEEP_PAGES:
                return
        else:
            self._is_vacuuming = False
        self._n_given = 0
        if is_busy:
            self._fold()  # it does not wait for whoever reads; the WAL is cut when it is begun anew
        else:
            self._truncate_wal()

    def _vacuum(self, n_pages: int) -> None:
        self._connection.execute(f"PRAGMA incremental_vacuum({n_pages})").fetchall()

    def _committed(self, _connection: apsw.Connection, _name: str, n_frames: int) -> int:
        self._n_frames = n_frames
        self.written.committed(n_frames)
        return apsw.SQLITE_OK

    def _fold(self) -> None:
        self._crash.reach("spool.before_checkpoint")
        n_pages = self.written.pages_to_fold()
        try:
            n_frames, n_folded = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.Error:
            return  # after the next commit
        self._crash.reach("spool.after_checkpoint")
        if n_folded == n_frames:
            self.written.folded(n_pages)
        self._n_frames = 0

    def _truncate_wal(self) -> None:
        self._crash.reach("spool.before_checkpoint")
        n_pages = self.written.pages_to_fold()
        # Never wait for a reader here: messages may come at any moment.
        self._connection.set_busy_timeout(0)
        try:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            self._crash.reach("spool.after_checkpoint")
            self.written.folded(n_pages)
        finally:
            self._connection.set_busy_timeout(BUSY_MS)
