"""The spool: journal, results on their way to the cloud, dead letters and the books, in one SQLite file.

Invariants: what `commit` has returned for survives a power cut; a result is offered to each sink of its route, in
order, until that sink has acked it or the cap has evicted it, counted; the books balance after every transaction.

One thread does everything that touches the file (`writer`); here is the asyncio side of it.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog

from gatewayd.config import schema
from gatewayd.crash import CrashPoint
from gatewayd.errors import FatalError, SpoolFull
from gatewayd.ports import Clock, DeadLetter, JournalEntry, Lease, Share, StoredResult, Work
from gatewayd.spool.books import Books
from gatewayd.spool.claims import Claim, Claims
from gatewayd.spool.damaged import DamagedRowsError
from gatewayd.spool.opening import Opened, open_store
from gatewayd.spool.policy import RoutePolicy
from gatewayd.spool.rings import Rings
from gatewayd.spool.shares import Shares
from gatewayd.spool.sizes import work_bytes
from gatewayd.spool.sparing import Disk
from gatewayd.spool.writer import Op, Writer

log = structlog.get_logger(__name__)

OnEvent = Callable[[str, Mapping[str, object]], None]

_GROUPS_WAITING = 8  # so many full groups may wait for the writer


def ignore_event(_name: str, _attributes: Mapping[str, object]) -> None:
    """Report nothing: the default of `on_event`."""


def result_as_payload(result: StoredResult) -> bytes:
    """What a refused result is buried as, unless the caller knows better: its data alone."""
    return result.data


class SqliteSpool:
    """The `Spool` of gatewayd.ports on one SQLite file.

    A result's key is looked up among the newest 65,536 keys (over all routes), kept in memory and read back at the
    start: no index is kept for it. `on_event` is called on the event loop's thread: "commit", "evicted",
    "dead_purged", "duplicates", "no_room", "ballast" (`is_there`), and from `open` "damaged".
    """

    def __init__(
        self, opened: Opened, *, config: schema.Spool, clock: Clock, on_event: OnEvent, crash: CrashPoint
    ) -> None:
        self._opened = opened
        self._store = opened.store
        self._config = config
        self._clock = clock
        self._on_event = on_event
        self._claims = Claims(clock)
        self._shares = Shares(self._claims, opened.store.seq)
        disk = Disk(self._write, self._do, self._read, self._claims.wake, on_event)
        self.rings = Rings(opened.store, disk, clock, config.seen_messages)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._max_waiting = _GROUPS_WAITING * config.max_group
        self._n_waiting = 0
        self._has_room = asyncio.Event()
        self._is_closed = False
        self._refused_payload: Callable[[StoredResult], bytes] = result_as_payload
        self._writer = Writer(
            opened.store,
            deliver=self._deliver_from_thread,
            events=opened.events,
            clock=clock,
            max_group=config.max_group,
            window_s=config.commit_window_ms / 1000,
            crash=crash,
            idle=opened.idle,
            ballast=opened.ballast,
            daily=(opened.usage.daily, opened.spending.daily),
        )
        self.usage, self.spending = opened.usage, opened.spending
        self.spending.commit = lambda: self._do(lambda: None)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        routes: Mapping[str, Sequence[str]],
        policies: Mapping[str, RoutePolicy],
        config: schema.Spool,
        clock: Clock,
        on_event: OnEvent = ignore_event,
        sinks: Collection[str] | None = None,
        refused_payload: Callable[[StoredResult], bytes] = result_as_payload,
        crash: str = "",
    ) -> Self:
        """Open or make the spool file `path`; beside it are its lock and what was found damaged.

        `routes` names each route's sinks, `policies` what a route says about its rows, `sinks` are all
        sinks there are (default: those of `routes`): a route gone from the config is still delivered to those.
        Raises ConfigError when another process has the spool, a newer gatewayd wrote it, or rights are missing, and
        SpoolFull when the disk does not allow it now.
        """
        all_sinks = {sink for known in routes.values() for sink in known} if sinks is None else set(sinks)
        point = CrashPoint(crash)
        opened = open_store(
            path, routes=routes, sinks=all_sinks, policies=policies, config=config, clock=clock, crash=point
        )
        spool = cls(opened, config=config, clock=clock, on_event=on_event, crash=point)
        spool._refused_payload = refused_payload
        if opened.mended is not None:
            opened.mended.report(on_event)
        spool._writer.start()
        return spool

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Do what was begun, fold the WAL into the file and let go of it. The second time does nothing."""
        if not self._is_closed:
            self.rings.close()
            self._is_closed = True
            self._loop = asyncio.get_running_loop()
            await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        self._writer.stop()
        self._opened.close(is_clean=self._writer.is_healthy)

    @property
    def is_healthy(self) -> bool:
        """False from the first failure on that is neither a full disk nor the caller's fault."""
        return self._writer.is_healthy

    @property
    def used_bytes(self) -> int:
        """What the spool takes of its cap, as of the last transaction."""
        ballast = self._opened.ballast
        taken = ballast.n_bytes if ballast.is_there else 0
        return self._store.cap.used_bytes + self._store.cap.wal_bytes + taken

    @property
    def written_bytes(self) -> int:
        """What the spool has written since it was opened: the WAL, and what was folded from it into the file."""
        return self._opened.idle.written.n_bytes

    def known_routes(self, sink: str) -> list[str]:
        """Routes with results for this sink: those of the config, and former ones that are not delivered yet."""
        return self._store.positions.routes(sink)

    def was_seen(self, identity: bytes) -> bool:
        """See ports.Spool."""
        return identity in self._store.seen or self.rings.was_seen(identity)

    def submit(self, work: Work) -> "asyncio.Future[Sequence[int]]":
        """What `commit` waits for, for callers that keep several works under way.

        Raises FatalError when the work does not balance. The future fails with SpoolFull.
        """
        left = work.handled + len(work.journal) - len(work.done) + len(work.dead)
        if work.received != left + (sum(work.dropped.values()) if work.dropped else 0):
            raise FatalError(f"route {work.route}: a work does not balance, see gatewayd.ports.Work")
        sparing = self.rings.of(work.route)
        return self._write(work) if sparing is None else sparing.submit(work)

    def _write(self, work: Work) -> "asyncio.Future[Sequence[int]]":
        future = self._future()
        if self._n_waiting >= 2 * self._max_waiting:
            future.set_exception(SpoolFull("the spool cannot keep up: too much waits to be written"))
            return future
        op = Op(
            partial(self._store.apply, work),
            future,
            is_producer=not work.done,
            n_bytes=work_bytes(work),
            n_results=len(work.results),
            route=work.route,
        )
        self._put(op)
        return future

    async def commit(self, work: Work) -> Sequence[int]:
        """See ports.Spool. Raises FatalError when the work does not balance, before anything is written."""
        while self._n_waiting >= self._max_waiting and not self.rings.keeps(work.route):
            self._has_room.clear()
            await self._has_room.wait()
        return await self.submit(work)

    async def journal(self, route: str, *, after: int, limit: int) -> Sequence[JournalEntry]:
        """See ports.Spool."""
        entries: Sequence[JournalEntry] = await self._read_rows(
            partial(self._store.journaled.read, route, after, limit)
        )
        return entries

    async def journal_get(self, route: str, ids: Sequence[int]) -> Sequence[JournalEntry]:
        """See ports.Spool."""
        entries: Sequence[JournalEntry] = await self._read_rows(partial(self._store.journaled.get, route, ids))
        return entries

    async def begin(self, route: str, ids: Sequence[int]) -> None:
        """See ports.Spool."""
        await self._do(partial(self._store.count_attempts, route, ids))

    async def first_attempts(self, identities: Sequence[bytes]) -> Sequence[bool]:
        """See ports.Spool. Bounded as `attempt` is."""
        counted: Sequence[bool] = await self._do(partial(self._store.first_attempts, identities))
        return counted

    async def attempt(self, identity: bytes) -> int:
        """See ports.Spool. Bounded: the oldest counts are forgotten when there are too many."""
        n: int = await self._do(partial(self._store.attempt, identity))
        return n

    async def books(self) -> Books:
        """Both books as of now, counted from the rows: takes time that grows with the backlog."""
        books: Books = await self._read(self._store.read_books)
        return self.rings.add_to(books)

    async def ping(self) -> None:
        """Return when the writer has answered. Raises FatalError when it met a failure it cannot go on from."""
        await self._do(lambda: None, is_read=True)
        if not self.is_healthy:
            raise FatalError("the spool's writer met a failure it cannot go on from, see the log")

    async def lease(self, sink: str, route: str, *, limit: int, max_bytes: int, share: Share = "all") -> Lease:
        """See ports.Spool. Raises FatalError when the sink has no part in the route."""
        claim = self._claim(sink, route, share)
        while True:
            async with claim.lock:
                lease = await self._try(claim, sink, route, share, limit, max_bytes)
            if lease is not None:
                return lease
            wait_s = claim.wait_s()
            if wait_s > 0:
                await claim.wait(wait_s)

    async def try_lease(
        self, sink: str, route: str, *, limit: int, max_bytes: int, share: Share = "all"
    ) -> Lease | None:
        """See ports.Spool."""
        claim = self._claim(sink, route, share)
        async with claim.lock:
            return await self._try(claim, sink, route, share, limit, max_bytes)

    def divide(self, sink: str, route: str) -> None:
        """See ports.Spool. With too many ranges apart already the live share goes on as it is, in order."""
        if self._store.positions.has_room(route, sink):
            self._shares.divide(sink, route, self._store.seq)

    async def ack(self, lease: Lease, *, refused: Mapping[str, str]) -> None:
        """See ports.Spool. A lease whose results were offered again since is ignored: they will be acked then."""
        claim = self._claims.find(lease)
        if claim is None:
            return
        claim.keep()
        results, lender = lease.results, self.rings.lender(lease)
        try:
            if lender is not None:
                results = await lender.settle(lease, has_refused=bool(refused))
            if results:
                buried = [(result, self._letter(lease, result, refused)) for result in results if result.key in refused]
                first, last = results[0].row, results[-1].row
                await self._do(partial(self._store.outgoing.ack, lease.route, lease.sink, first, last, buried))
        finally:
            # Also when cancelled: the next lease reads from the cursor, wherever the ack left it.
            if claim.is_held_by(lease):
                self._end(lease, claim, attempt=1)
        self.rings.confirmed(lease)

    async def nack(self, lease: Lease, *, delay_s: float) -> None:
        """See ports.Spool. The next lease's `attempt` is one more."""
        claim = self._claims.find(lease)
        if claim is not None:
            self._end(lease, claim, attempt=lease.attempt + 1, delay_s=delay_s)
            self.rings.failed(lease)

    def _end(self, lease: Lease, claim: Claim, *, attempt: int, delay_s: float = 0.0) -> None:
        self._store.leased.clear(lease.route, lease.sink, lease.share)
        claim.free(attempt=attempt, delay_s=delay_s)
        self._shares.settle(lease.sink, lease.route)

    def hold(self, sink: str, delay_s: float) -> None:
        """See ports.Spool. Nobody waits for it: a disk that is full forgets it."""
        if not self._is_closed:
            self._put(Op(partial(self._store.hold, sink, delay_s), None))

    def held_s(self, sink: str) -> float:
        """See ports.Spool."""
        return self._store.holds.rest_s(sink)

    def _claim(self, sink: str, route: str, share: Share) -> Claim:
        return self._claims.of(sink, route, share, is_known=self._store.positions.get(route, sink) is not None)

    async def _try(self, claim: Claim, sink: str, route: str, share: Share, limit: int, max_bytes: int) -> Lease | None:
        if claim.wait_s() > 0:
            return None
        claim.about_to_read()
        self._store.leased.clear(route, sink, share)
        if share == "live":
            self._shares.move(sink, route)
        read = partial(self._read_file, claim, sink, route, share, limit, max_bytes)
        sparing = self.rings.of(route)
        results = await (sparing.next_results(sink, share, limit, max_bytes, read) if sparing is not None else read())
        if not results:
            return None
        lease_id, attempt = self._claims.next_id(), claim.attempt
        lease = Lease(id=lease_id, sink=sink, route=route, results=results, attempt=attempt, share=share)
        if sparing is not None:
            sparing.lend(lease)
        return claim.take(lease, self._config.lease_s)

    async def _read_file(
        self, claim: Claim, sink: str, route: str, share: Share, limit: int, max_bytes: int
    ) -> tuple[StoredResult, ...]:
        boundary_seq = self._shares.boundary_seq(sink, route)
        read = partial(self._store.outgoing.read, route, sink, share, boundary_seq, limit, max_bytes)
        try:
            results: tuple[StoredResult, ...] = await self._read_rows(read)
        except BaseException:
            claim.wake()  # what was not looked at is looked at next time
            # Cancelled: the rows may be read all the same, and nobody holds them then.
            self._put(Op(partial(self._store.leased.clear, route, sink, share), None, is_read=True))
            raise
        return results

    def _letter(self, lease: Lease, result: StoredResult, refused: Mapping[str, str]) -> DeadLetter:
        return DeadLetter(
            route=lease.route,
            sink=lease.sink,
            reason="refused",
            detail=refused[result.key],
            topic=result.subject,
            payload=self._refused_payload(result),
            time=result.time,
            key=result.key,
        )

    def _do(self, run: Callable[[], Any], n_bytes: int = 0, *, is_read: bool = False) -> "asyncio.Future[Any]":
        future = self._future()
        self._put(Op(run, future, is_read=is_read, n_bytes=n_bytes))
        return future

    def _read(self, run: Callable[[], Any]) -> "asyncio.Future[Any]":
        return self._do(run, is_read=True)

    async def _read_rows(self, run: Callable[[], Any]) -> Any:
        while True:
            try:
                return await self._read(run)
            except DamagedRowsError as found:
                await self._do(partial(self._store.damaged.run, found))

    def _future(self) -> "asyncio.Future[Any]":
        if self._is_closed:
            raise FatalError("the spool is closed")
        self._loop = asyncio.get_running_loop()
        return self._loop.create_future()

    def _put(self, op: Op) -> None:
        self._n_waiting += 1
        self._writer.put(op)

    def _deliver_from_thread(
        self, ops: list[Op], grown: frozenset[str], events: list[tuple[str, Mapping[str, object]]]
    ) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._deliver, ops, grown, events)

    def _deliver(self, ops: list[Op], grown: frozenset[str], events: list[tuple[str, Mapping[str, object]]]) -> None:
        self._n_waiting -= len(ops)
        self._has_room.set()
        for op in ops:
            if op.future is None or op.future.done():  # cancelled: done all the same
                continue
            if op.error is None:
                op.future.set_result(op.value)
            else:
                op.future.set_exception(op.error)
        for route in grown:
            self._claims.wake(route)
            self.rings.grown(route)
        for name, attributes in events:
            self._on_event(name, attributes)
