"""The writer thread: everything that waits goes into one transaction, and is answered when that is on disk.

Invariants: an operation is answered exactly once, after the commit that holds it; one that fails does so alone (the
group is undone and each of its operations tried in a transaction of its own); no failure ends the thread.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import apsw
import structlog

from gatewayd.crash import CrashPoint
from gatewayd.errors import FatalError, GatewaydError, SpoolFull
from gatewayd.ports import Clock
from gatewayd.spool.ballast import Ballast
from gatewayd.spool.chores import CHORES_EVERY_S, Chore
from gatewayd.spool.daily import Daily
from gatewayd.spool.idle import Idle
from gatewayd.spool.store import Store

log = structlog.get_logger(__name__)

_RETRY_S = 0.2  # a full disk may have room again; acks and deletes are what makes it
_MAX_READS = 50  # ten seconds: what cannot be read for so long is damaged, and the next start looks after it
# What the disk may get over: full, read-only for now, a bad moment.
_NO_ROOM = (
    apsw.FullError,
    apsw.IOError,
    apsw.BusyError,
    apsw.LockedError,
    apsw.ReadOnlyError,
    apsw.CantOpenError,
)


class Op:
    """One thing to do, and where its answer goes."""

    __slots__ = (
        "error",
        "future",
        "is_producer",
        "is_read",
        "n_bytes",
        "n_results",
        "n_tries",
        "route",
        "run",
        "value",
    )

    def __init__(
        self,
        run: Callable[[], Any],
        future: "asyncio.Future[Any] | None",
        *,
        is_read: bool = False,
        is_producer: bool = False,
        n_bytes: int = 0,
        n_results: int = 0,
        route: str | None = None,
    ) -> None:
        self.run = run
        self.future = future  # None: nobody waits, it is done again later
        self.is_read = is_read
        self.is_producer = is_producer  # told that the spool is full; others wait until it is not
        self.n_bytes = n_bytes
        self.n_results = n_results
        self.route = route  # for which room is made
        self.n_tries = 0  # that the disk did not allow
        self.value: Any = None
        self.error: BaseException | None = None


Deliver = Callable[[list[Op], frozenset[str], list[tuple[str, Mapping[str, object]]]], None]


class Writer:
    """Owns the store from `start` to the end of `stop`."""

    def __init__(
        self,
        store: Store,
        *,
        deliver: Deliver,
        events: list[tuple[str, Mapping[str, object]]],
        clock: Clock,
        max_group: int,
        window_s: float,
        crash: CrashPoint,
        idle: Idle,
        ballast: Ballast,
        daily: Sequence[Daily],
    ) -> None:
        self._store = store
        self._daily = daily
        store.chores.extend(daily)
        self._deliver = deliver
        self._events = events
        self._clock = clock
        self._max_group = max_group
        self._window_s = window_s
        self._crash = crash
        self._idle = idle
        self._ballast = ballast
        self._rescue_at_s = 0.0
        self._chores_at_s = 0.0
        self._queue: queue.SimpleQueue[Op | None] = queue.SimpleQueue()
        self._delayed: list[Op] = []  # acks, deletes and reads that found the disk full or out of order
        self._retry_at_s = 0.0
        self._is_stopping = False
        self._mark = 0  # events from here on are of the transaction under way
        self.is_healthy = True
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def put(self, op: Op) -> None:
        """Queue an operation. Whoever calls bounds how many."""
        self._queue.put(op)

    def stop(self) -> None:
        """Do what was queued before, then end. Blocks until then."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while not self._is_stopping:
            ops = self._take()
            writes = [op for op in ops if not op.is_read]
            grown: frozenset[str] = frozenset()
            if writes:
                grown = self._write(writes)
            for op in ops:
                if op.is_read:
                    self._alone(op, self._read)
            later = set(map(id, self._delayed))
            self._hand_back([op for op in ops if id(op) not in later], grown)
            self._do_chores()
            self._idle.fold_when_long()
            if ops:
                self._idle.between()
            if not self._ballast.is_there:
                self._rescue()
        for counts in self._daily:
            if not counts.is_written:
                self._alone(Op(counts.run, None), self._transact_one)
        self._try_once_more()
        for op in self._delayed:
            op.error = SpoolFull("the spool was closed while the disk was full")
        self._hand_back(self._delayed, frozenset())

    def _try_once_more(self) -> None:
        """It is the end, and the first failure may have given up the ballast: there may be room for what is left."""
        ops, self._delayed = self._delayed, []
        writes = [op for op in ops if not op.is_read]
        grown = self._write(writes) if writes else frozenset()
        later = set(map(id, self._delayed))
        self._hand_back([op for op in ops if id(op) not in later], grown)

    def _take(self) -> list[Op]:
        """Everything that waits, up to the bounds of a group; nothing when it is time to look after the file."""
        ops: list[Op] = []
        wait_s = self._retry_at_s - time.monotonic() if self._delayed else self._idle.pause_s
        if wait_s <= 0:  # also while producers keep coming: the acks are what makes room for them
            ops, self._delayed = self._delayed, []
            return ops
        try:
            first = self._queue.get(timeout=wait_s)
        except queue.Empty:
            if not self._delayed:
                self._idle.step()
            return ops
        if self._window_s:
            time.sleep(self._window_s)
        n_bytes = 0
        while first is not None:
            ops.append(first)
            n_bytes += first.n_bytes
            if len(ops) >= self._max_group or n_bytes >= self._store.cap.group_bytes:
                return ops
            try:
                first = self._queue.get_nowait()
            except queue.Empty:
                return ops
        self._is_stopping = True
        return ops

    def _write(self, writes: list[Op]) -> frozenset[str]:
        """Commit the writes; the routes that have new results."""
        started_s = self._clock.monotonic()
        grown: frozenset[str] = frozenset()
        for ops in self._portions(writes):
            grown |= self._together(ops)
        later = set(map(id, self._delayed))
        done = [op for op in writes if op.error is None and id(op) not in later]
        report = {
            "works": sum(op.is_producer for op in done),
            "results": sum(op.n_results for op in done),
            "bytes": sum(op.n_bytes for op in done),
            "seconds": self._clock.monotonic() - started_s,
        }
        self._idle.duty.committed(self._clock.monotonic() - started_s)
        self._events.append(("commit", report))
        return grown

    def _portions(self, writes: list[Op]) -> list[list[Op]]:
        """What goes into one transaction: everything, unless that is more than the WAL may take beside a full file."""
        cap = self._store.cap
        if not cap.is_tight(sum(op.n_bytes for op in writes)):
            return [writes]
        portions: list[list[Op]] = []
        n_bytes = 0
        for op in writes:
            if not portions or n_bytes + op.n_bytes > cap.group_bytes:
                portions.append([])
                n_bytes = 0
            portions[-1].append(op)
            n_bytes += op.n_bytes
        return portions

    def _together(self, ops: list[Op]) -> frozenset[str]:
        try:
            return self._transact_one(ops[0]) if len(ops) == 1 else self._transact(ops)
        except Exception:
            # Which of them it was shows when each is tried alone.
            self._undo()
            grown: frozenset[str] = frozenset()
            for op in ops:
                op.error = None
                grown |= self._alone(op, self._transact_one) or frozenset()
            return grown

    def _do_chores(self) -> None:
        now_s = time.monotonic()
        if now_s < self._chores_at_s:
            return
        self._chores_at_s = now_s + CHORES_EVERY_S
        grown: frozenset[str] = frozenset()
        for chore in self._store.chores:
            if self._is_due(chore):
                grown |= self._alone(Op(chore.run, None), self._transact_one) or frozenset()
        self._hand_back([], grown)

    def _is_due(self, chore: Chore) -> bool:
        try:
            return chore.is_due(self._clock.monotonic())
        except apsw.Error as error:  # a disk that cannot be read now; asked again with the next look
            log.warning("the spool cannot be looked at, will try again", cause=str(error))
            return False

    def _clear_the_way(self, n_bytes: int, route: str | None) -> None:
        cap = self._store.cap
        if not cap.is_tight(n_bytes):
            return
        self._mark = len(self._events)
        room, before = cap.room_bytes(), None
        while room < n_bytes and room != before:  # in steps, each within the WAL's reserve
            before = room
            self._store.begin()
            cap.make_room(min(n_bytes, room + cap.group_bytes), route)
            self._store.flush()
            self._store.commit()
            self._store.committed()
            self._mark = len(self._events)
            self._idle.shrink()
            cap.measure()
            room = cap.room_bytes()
        self._idle.shrink()

    def _transact(self, ops: list[Op]) -> frozenset[str]:
        self._mark = len(self._events)
        self._store.begin()
        for op in ops:
            if op.is_producer and not self._ballast.is_there:
                op.error = SpoolFull("the file system is full: what room is left is for draining")
                continue
            try:
                op.value = op.run()
            except SpoolFull as error:  # raised before anything was changed: the others go on
                op.error = error
        for counts in self._daily:
            counts.flush()
        self._store.flush()  # last, for it marks the file as in use when anything was changed
        moment = "chore" if ops[0].future is None else "commit"
        self._crash.reach(f"spool.before_{moment}")
        self._store.commit()
        for counts in self._daily:
            counts.committed()
        self._crash.reach(f"spool.after_{moment}")
        return self._store.committed()

    def _transact_one(self, op: Op) -> frozenset[str]:
        self._clear_the_way(op.n_bytes, op.route)
        return self._transact([op])

    def _read(self, op: Op) -> None:
        self._mark = len(self._events)
        op.value = op.run()

    def _alone(self, op: Op, step: Callable[[Op], frozenset[str] | None]) -> frozenset[str] | None:
        try:
            return step(op)
        except _NO_ROOM as error:
            self._undo()
            self._events.append(("no_room", {"cause": str(error)}))
            self._put_off(op, error)
            return None
        except GatewaydError as error:
            op.error = error
        except (apsw.ConstraintError, TypeError, ValueError) as error:
            self.is_healthy &= not op.is_read  # what is on disk makes no sense: the next start mends it
            op.error = FatalError(f"the spool was given what it cannot store: {error!r}")
        except Exception as error:
            # The adapter's boundary: whoever waits must hear of it, and the thread must live to tell the next.
            self.is_healthy = False
            op.error = FatalError(f"the spool cannot write: {error!r}")
            log.exception("spool failed")
        self._undo()
        return None

    def _rescue(self) -> None:
        """The disk was full: give back what was drained, and take things in again once there is room."""
        now_s = time.monotonic()
        if now_s < self._rescue_at_s:
            return
        self._rescue_at_s = now_s + _RETRY_S
        self._idle.give_back()
        if self._ballast.make():
            self._tell_ballast()

    def _tell_ballast(self) -> None:
        is_there = self._ballast.is_there
        self._events.append(("ballast", {"is_there": is_there}))
        if is_there:
            log.info("disk has room again, the spool takes things in")
        else:
            log.warning("disk is full, the spool takes nothing in until it has room", freed_bytes=self._ballast.n_bytes)

    def _put_off(self, op: Op, error: apsw.Error) -> None:
        op.n_tries += 1
        if self._ballast.give_up(error):
            self._tell_ballast()
        if op.is_producer or op.future is None:
            op.error = SpoolFull(f"the file system takes no more: {error}")
        elif op.is_read and op.n_tries >= _MAX_READS:
            self.is_healthy = False
            op.error = FatalError(f"the spool cannot be read: {error}")
            log.error("spool cannot be read", cause=repr(error))
        else:
            self._delayed.append(op)
            self._retry_at_s = time.monotonic() + _RETRY_S

    def _undo(self) -> None:
        del self._events[self._mark :]
        for counts in self._daily:
            counts.rollback()
        try:
            self._store.rollback()
        except _NO_ROOM as error:  # the store reads itself anew before its next transaction
            self._events.append(("no_room", {"cause": str(error)}))
        except apsw.Error as error:
            self.is_healthy = False
            log.error("spool cannot roll back", cause=repr(error))

    def _hand_back(self, ops: list[Op], grown: frozenset[str]) -> None:
        if ops or grown or self._events:
            events = self._events[:]
            self._events.clear()
            self._deliver(ops, grown, events)
