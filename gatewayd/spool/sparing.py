"""One route that spares flash: when its results stay in memory, and when they are written.

Invariants: what is in the file is older than what is in the ring, so a sink is offered the file's rows first; nothing
enters the ring or leaves it while it is being written, so order is kept whatever the disk does; a result is in memory
alone for no longer than the route's `write_max_s`, and no more of them than `write_max_results`.

    writing through ── every sink confirms, little is left in the file ──▶ in memory
           ◀── a sink is away, a result grew too old, too many, a refusal, the end ──
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec
import structlog

from gatewayd.errors import FatalError, SpoolFull
from gatewayd.ports import Lease, NewResult, Share, StoredResult, Work
from gatewayd.spool.health import Health
from gatewayd.spool.policy import RoutePolicy
from gatewayd.spool.recent import RecentKeys, Taken
from gatewayd.spool.ring import Ring, Tally
from gatewayd.spool.sizes import rows_bytes, work_bytes
from gatewayd.spool.spill import is_nearly_drained, write_ring, write_tally
from gatewayd.spool.store import Store

log = structlog.get_logger(__name__)

_MAX_HELD = 64  # works that wait for a spill
_MAX_LEFT = 256  # rows in the file, at most, when the route goes back to memory: a request or two
_SLACK_BYTES = 65_536  # of room beside what is needed: it is an estimate
_EARLY = 0.2  # share of `write_max_s` by which a spill begins early: it has to end in time

Future = asyncio.Future[Any]


@dataclass(frozen=True, slots=True)
class Disk:
    """The way to the file, as SqliteSpool has it."""

    write: Callable[[Work], Future]  # commit a work; its journal ids
    change: Callable[[Callable[[], Any], int], Future]  # on the writer thread, in a transaction of n bytes
    read: Callable[[Callable[[], Any]], Future]
    wake: Callable[[str], None]  # the route may have something to lease
    tell: Callable[[str, Mapping[str, object]], None]  # report an event


class Sparing:
    """One route: its ring, and which way its results take. On the event loop's thread."""

    def __init__(
        self,
        ring: Ring,
        policy: RoutePolicy,
        store: Store,
        disk: Disk,
        *,
        now: Callable[[], float],
        health: Health,
        taken: Taken,
        n_keys: int,
    ) -> None:
        self.ring = ring
        self.is_in_memory = False
        self._policy = policy
        self._store = store
        self._disk = disk
        self._now = now
        self._health = health
        self._taken = taken
        self._known = RecentKeys(n_keys)  # of results that were taken in, into the ring or the file
        self._writing: set[str] = set()  # keys of works on their way to the file
        self._busy: Future | None = None  # a spill, or a part of a work that has to be on disk first
        self._held: deque[tuple[Work, Future]] = deque()  # works that came meanwhile, in order
        self._wanted = ""  # why to spill as soon as that is over
        self._must_read: dict[str, bool] = dict.fromkeys(ring.sinks, True)  # the file may have rows for the sink
        self._epoch = 0  # of `_must_read`: what was read in an earlier one says nothing
        self._lent: dict[str, Lease] = {}  # sink -> what it was lent of the ring
        self._moved: dict[int, list[int]] = {}  # lease -> rows of its results, which are in the file now
        self._is_asking = False
        self._is_closing = False
        self._is_spilling = False
        self._booking: Tally | None = None  # on its way into the books

    @property
    def due_s(self) -> float:
        """When the oldest result has to be written (monotonic)."""
        return self.ring.oldest_s + self.window_s

    @property
    def _n_bytes(self) -> int:
        # What is in memory would take on disk: no more than one transaction may bring.
        return rows_bytes(len(self.ring), self.ring.n_bytes)

    @property
    def window_s(self) -> float:
        """How long a result may wait in memory before a spill begins."""
        return (1 - _EARLY) * self._policy.write_max_s

    def submit(self, work: Work) -> Future:
        """Take a work in. The future is done when its results are in the ring, or all of it in the file."""
        if self._is_closing:
            raise FatalError("the spool is closed")
        if self._busy is not None:
            return self._hold(work)
        work = self._without_duplicates(work)
        if not self.is_in_memory and not len(self.ring):
            return self._write(work)
        if work.journal or work.done or not self.is_in_memory:
            return self._spill_first("work", work)
        if len(self.ring) + len(work.results) > self._policy.write_max_results:
            return self._spill_first("write_max_results", work)
        if self._n_bytes + work_bytes(work) > self._store.cap.group_bytes:
            return self._spill_first("bytes", work)
        if work.dead:
            return self._bury_first(work)
        return self._keep(work)

    async def next_results(
        self,
        sink: str,
        share: Share,
        limit: int,
        max_bytes: int,
        read_file: Callable[[], Awaitable[tuple[StoredResult, ...]]],
    ) -> tuple[StoredResult, ...]:
        """The oldest results that the sink has not had: those in the file, and after them those in memory."""
        results = self._take(sink, share, limit, max_bytes)
        is_all_here = self.is_in_memory and self._busy is None and not self._must_read[sink] and share != "older"
        if results or is_all_here:
            return results
        epoch = self._epoch
        results = await read_file()
        if not results and epoch == self._epoch and share != "older":
            self._must_read[sink] = False
        return results or self._take(sink, share, limit, max_bytes)

    def _take(self, sink: str, share: Share, limit: int, max_bytes: int) -> tuple[StoredResult, ...]:
        lent = self._lent.get(sink)
        if lent is not None:
            if lent.share == share:  # and asks again: the lease has lapsed
                self.give_back(lent)
                self._health.failed(self.ring.route, sink)
                self.leave("lapse")
            return ()
        if share == "older" or self._busy is not None or self._must_read[sink]:
            return ()
        return self.ring.take(sink, limit, max_bytes, clock=self._store.ages.quality())

    def lend(self, lease: Lease) -> None:
        """What `next_results` gave is leased."""
        if self.ring.has(lease.results[0].row):
            self._lent[lease.sink] = lease

    def has_lent(self, lease: Lease) -> bool:
        """Whether the lease is of the ring."""
        return self._lent.get(lease.sink) is lease

    async def settle(self, lease: Lease, *, has_refused: bool) -> tuple[StoredResult, ...]:
        """The sink has the lease's results. Those that are in the file by now, as they are there.

        What was refused is put aside for good, and for that it has to be in the file.
        """
        while self._busy is not None:
            await asyncio.wait([self._busy])
        if has_refused and lease.id not in self._moved:
            writing = self._spill("refused")
            await asyncio.wait([writing])  # not cancelled with who waits: it happens all the same
            if writing.exception() is not None:
                await writing
        rows = self._moved.get(lease.id)
        self.give_back(lease)
        if rows is None:
            self.ring.settle(lease.sink, lease.results[-1].row)
            return ()
        moved = zip(lease.results, rows, strict=True)
        return tuple(msgspec.structs.replace(result, row=row) for result, row in moved if row)

    def give_back(self, lease: Lease) -> None:
        """The lease has ended."""
        if self.has_lent(lease):
            del self._lent[lease.sink]
        self._moved.pop(lease.id, None)

    def leave(self, reason: str) -> None:
        """Write what is in memory, and what comes from now on."""
        if self._busy is not None:
            self._wanted = reason
        elif len(self.ring):
            self._spill(reason)
        self.is_in_memory = False

    def close(self) -> None:
        """The process ends: write what there is."""
        self._is_closing = True
        self._refuse_held(FatalError("the spool is closed"))
        if not self._is_spilling and (len(self.ring) or self.ring.tally.has_counts or self.ring.tally.seen):
            self._spill("stop")
        self.is_in_memory = False

    def book(self) -> None:
        """Write into the books what has left the ring since the last time."""
        tally = self.ring.tally
        if self._busy is None and self._booking is None and tally.has_counts:
            self._booking = Tally(tally.messages, tally.delivered)
            self.ring.tally = Tally(seen=tally.seen)
            run = partial(write_tally, self._store, self.ring.route, self._booking)
            self._disk.change(run, 0).add_done_callback(self._booked)

    def unbooked(self) -> Tally:
        """What the books on disk do not know of: all that is counted but results that a sink still waits for."""
        tally = self.ring.spill().tally
        if self._booking is not None:
            tally.add(self._booking)
        return tally

    def _booked(self, answer: Future) -> None:
        if _failure(answer) is not None and self._booking is not None:
            self.ring.tally.add(self._booking)
        self._booking = None

    def try_memory(self) -> None:
        """Back to memory if every sink confirms and little is left in the file."""
        if self._may_enter() and not self._is_asking:
            self._is_asking = True
            ask = partial(is_nearly_drained, self._store, self.ring.route, _MAX_LEFT)
            self._disk.read(ask).add_done_callback(self._asked)

    def _may_enter(self) -> bool:
        if self.is_in_memory or self._is_closing or self._busy is not None or len(self.ring):
            return False
        return self._health.is_healthy(self.ring.route, self.ring.sinks)

    def _asked(self, answer: Future) -> None:
        self._is_asking = False
        is_drained = not answer.cancelled() and answer.exception() is None and answer.result()
        if is_drained and self._may_enter():
            self.is_in_memory = True
            self.look_into_file()
            log.debug("results stay in memory", route=self.ring.route)

    def look_into_file(self) -> None:
        """There are rows in the file that a sink has to be offered before what is in memory."""
        self._epoch += 1
        self._must_read = dict.fromkeys(self.ring.sinks, True)
        self._disk.wake(self.ring.route)

    def _without_duplicates(self, work: Work) -> Work:
        stored = self._store._keys.get(self.ring.route, ())  # asked from this thread, changed on the writer's
        fresh: dict[str, NewResult] = {}
        for result in work.results:
            if not (result.key in self._known or result.key in self._writing or result.key in stored):
                fresh.setdefault(result.key, result)
        if len(fresh) == len(work.results):
            return work
        self._disk.tell("duplicates", {"route": work.route, "n": len(work.results) - len(fresh)})
        return replace(work, results=list(fresh.values()))

    def _keep(self, work: Work) -> Future:
        future: Future = asyncio.get_running_loop().create_future()
        if not self._has_room(work):
            future.set_exception(SpoolFull(f"route {work.route}: spool.max_bytes leaves no room"))
            return future
        self.ring.add(work, self._now())
        self._remember(work)
        self._taken.add(work.seen)
        future.set_result(())
        if work.results:
            self._disk.wake(work.route)
        return future

    def _has_room(self, work: Work) -> bool:
        # What is in memory goes into the file whatever happens, and here nothing is given up to make room for it.
        cap = self._store.cap
        return not cap.blocks(work.route) or cap.room_bytes() >= self._n_bytes + work_bytes(work) + _SLACK_BYTES

    def _remember(self, work: Work) -> None:
        self._known.stage(result.key for result in work.results)
        self._known.commit()

    def _write(self, work: Work) -> Future:
        self._writing.update(result.key for result in work.results)
        future = self._disk.write(work)
        future.add_done_callback(partial(self._written, work))
        return future

    def _written(self, work: Work, answer: Future) -> None:
        self._writing.difference_update(result.key for result in work.results)
        if _failure(answer) is None:
            self._remember(work)

    def _hold(self, work: Work) -> Future:
        future: Future = asyncio.get_running_loop().create_future()
        if len(self._held) >= _MAX_HELD:
            future.set_exception(SpoolFull("the spool cannot keep up: too much waits to be written"))
        else:
            self._held.append((work, future))
        return future

    def _spill_first(self, reason: str, work: Work) -> Future:
        self._spill(reason)
        future: Future = asyncio.get_running_loop().create_future()
        self._held.appendleft((work, future))  # before those that came after it
        return future

    def _bury_first(self, work: Work) -> Future:
        """Dead letters are for a person to read, whatever happens to the results beside them."""
        future: Future = asyncio.get_running_loop().create_future()
        rest = replace(work, received=work.received - len(work.dead), dead=())
        self._busy = self._disk.write(Work(route=work.route, received=len(work.dead), dead=work.dead))
        self._busy.add_done_callback(partial(self._buried, rest, future))
        return future

    def _buried(self, rest: Work, future: Future, answer: Future) -> None:
        self._busy = None
        failure = _failure(answer)
        if failure is None:
            self._held.appendleft((rest, future))
        elif not future.done():
            future.set_exception(failure)
        self._release()

    def _spill(self, reason: str) -> Future:
        self.is_in_memory, self._is_spilling = False, True
        spill = self.ring.spill()
        lent = {lease.id: self.ring.span(lease.results[0].row, lease.results[-1].row) for lease in self._lent.values()}
        held = {(lease.sink, lease.share): lent[lease.id] for lease in self._lent.values()}
        self._busy = self._disk.change(partial(write_ring, self._store, spill, held), self._n_bytes)
        self._busy.add_done_callback(partial(self._spilled, reason, lent))
        return self._busy

    def _spilled(self, reason: str, lent: Mapping[int, tuple[int, int]], answer: Future) -> None:
        self._busy, self._is_spilling = None, False
        failure = _failure(answer)
        if failure is not None:
            self._refuse_held(failure)
            return
        rows: list[int] = answer.result()
        is_held = {lease.id for lease in self._lent.values()}
        self._moved.update({id_: rows[first : last + 1] for id_, (first, last) in lent.items() if id_ in is_held})
        self.ring.spilled()
        if rows:
            log.debug("results written", route=self.ring.route, reason=reason, n=len(rows))
            self._disk.tell("spilled", {"route": self.ring.route, "reason": reason, "n": len(rows)})
        self._release()

    def _refuse_held(self, failure: BaseException) -> None:
        held, self._held = self._held, deque()
        for _, future in held:
            if not future.done():
                future.set_exception(failure)

    def _release(self) -> None:
        if self._is_closing:
            self._refuse_held(FatalError("the spool is closed"))
            return
        if self._wanted and self._busy is None and len(self.ring):
            self._spill(self._wanted)
        self._wanted = ""
        while self._held and self._busy is None:
            work, future = self._held.popleft()
            self.submit(work).add_done_callback(partial(_hand_on, future))


def _failure(answer: Future) -> BaseException | None:
    return FatalError("cancelled") if answer.cancelled() else answer.exception()


def _hand_on(to: Future, answer: Future) -> None:
    if to.done():  # cancelled: done all the same
        return
    failure = _failure(answer)
    if failure is None:
        to.set_result(answer.result())
    else:
        to.set_exception(failure)
