"""Opening the spool: lock, file, state; then the config's routes and sinks, and a cap that may have been lowered."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import apsw
import msgspec
import structlog

from gatewayd.config import schema
from gatewayd.crash import NO_CRASH, CrashPoint
from gatewayd.events import event_time
from gatewayd.ports import Clock
from gatewayd.spool import purge, requeue
from gatewayd.spool.aside import finish, kept, part_of, prune, put_aside, replace
from gatewayd.spool.ballast import Ballast, ballast_bytes_for
from gatewayd.spool.cap import wal_pages_for
from gatewayd.spool.database import (
    DAMAGE,
    DISK,
    Lock,
    close_database,
    in_words,
    is_unreadable,
    open_database,
)
from gatewayd.spool.idle import Idle
from gatewayd.spool.orders import Orders
from gatewayd.spool.policy import RoutePolicy
from gatewayd.spool.reports import Reports
from gatewayd.spool.salvage import Salvaged, is_log_damaged, salvage
from gatewayd.spool.spending import SpendingBook
from gatewayd.spool.store import Store
from gatewayd.spool.usage import Usage

log = structlog.get_logger(__name__)

_TRIES = 3
_RETRY_S = 0.1

Events = list[tuple[str, Mapping[str, object]]]


@dataclass(frozen=True, slots=True)
class Mended:
    """What became of a damaged spool."""

    aside: Path  # where it is kept
    found: Salvaged
    removed: list[Path]  # older ones that are no longer kept

    def report(self, on_event: Callable[[str, Mapping[str, object]], None]) -> None:
        """Say so, in the log and as events."""
        found = self.found
        fields = {
            "n_salvaged": found.n_salvaged,
            "n_unknown": found.n_unknown,
            "n_gaps": found.n_gaps,
            "n_bad": found.n_bad,
            "has_books": found.has_books,
        }
        log.error("spool was damaged, what could be read of it is in a fresh one", kept_in=str(self.aside), **fields)
        on_event("damaged", {"moved_to": str(self.aside), **fields})
        for folder in self.removed:
            log.warning("an older damaged spool is removed, see spool.max_corrupt_kept", folder=str(folder))
            on_event("corrupt_removed", {"folder": str(folder)})


@dataclass(frozen=True, slots=True)
class Opened:
    """What belongs together from `open_store` to `close`."""

    store: Store
    usage: Usage
    spending: SpendingBook
    idle: Idle
    events: Events  # reported by the store, not delivered yet
    mended: Mended | None  # the file was damaged
    ballast: Ballast
    _connection: apsw.Connection
    _lock: Lock

    def close(self, *, is_clean: bool) -> None:
        """Let go. After a failure the file is left for the next start to check."""
        try:
            if is_clean:
                self.store.ages.close(self._connection)
                close_database(self._connection)
        except apsw.Error as error:
            log.warning("spool could not be closed in order, the next start checks it", cause=str(error))
        finally:
            self._connection.close()
            self._lock.release()


def open_store(
    path: Path,
    *,
    routes: Mapping[str, Sequence[str]],
    sinks: Collection[str],
    policies: Mapping[str, RoutePolicy],
    config: schema.Spool,
    clock: Clock,
    crash: CrashPoint = NO_CRASH,
) -> Opened:
    """Open everything. Raises ConfigError, and SpoolFull when the disk does not allow it now; see `database`."""
    lock = Lock(path.with_suffix(".lock"))
    try:
        return _open_patiently(path, lock, routes, sinks, policies, config, clock, crash)
    except BaseException:
        lock.release()
        raise


def _open_patiently(
    path: Path,
    lock: Lock,
    routes: Mapping[str, Sequence[str]],
    sinks: Collection[str],
    policies: Mapping[str, RoutePolicy],
    config: schema.Spool,
    clock: Clock,
    crash: CrashPoint,
) -> Opened:
    finish(path)
    ballast = Ballast(path, ballast_bytes_for(config.ballast_bytes, config.max_bytes))
    is_damaged, is_bare = is_log_damaged(path), False
    has_log = path.with_name(path.name + "-wal").exists() or not path.exists()
    mended: Mended | None = None
    n_tries = 0
    while True:
        try:
            if is_damaged and mended is None:
                mended = _mend(path, routes, config, is_bare=is_bare)
            connection, store, usage, spending, events = _open(path, routes, sinks, policies, config, clock, crash)
        except (*DAMAGE, msgspec.DecodeError, LookupError, UnicodeDecodeError, StopIteration):
            if is_bare:
                raise  # a fresh file with nothing but checked rows in it cannot be damaged
            is_damaged, is_bare, mended = True, mended is not None, None
        except (*DISK, OSError) as error:
            n_tries += 1
            ballast.give_up(error)
            if n_tries < _TRIES:
                time.sleep(_RETRY_S)
            elif not is_damaged and isinstance(error, apsw.IOError) and is_unreadable(path):
                is_damaged = True
            else:
                raise in_words(path, error) from error
        else:
            idle = Idle(connection, store.cap, wal_pages=wal_pages_for(config.max_bytes), crash=crash)
            _fit(store, idle)
            ballast.make()
            if not has_log and not is_damaged and not _was_clean(connection):
                log.error("spool's log is gone: what was committed since it was last folded is lost", log=f"{path}-wal")
                events.append(("log_lost", {}))
            return Opened(store, usage, spending, idle, events, mended, ballast, connection, lock)


def _mend(path: Path, routes: Mapping[str, Sequence[str]], config: schema.Spool, *, is_bare: bool) -> Mended:
    aside = kept(path)[-1] if is_bare else put_aside(path)
    part = part_of(path)
    wal_pages = wal_pages_for(config.max_bytes)
    found = salvage(aside / path.name, part, routes=routes, wal_pages=wal_pages, is_bare=is_bare)
    replace(path, part)
    return Mended(aside, found, prune(path, config.max_corrupt_kept))


def _open(
    path: Path,
    routes: Mapping[str, Sequence[str]],
    sinks: Collection[str],
    policies: Mapping[str, RoutePolicy],
    config: schema.Spool,
    clock: Clock,
    crash: CrashPoint,
) -> tuple[apsw.Connection, Store, Usage, SpendingBook, Events]:
    connection = open_database(path, wal_pages=wal_pages_for(config.max_bytes), crash=crash)
    events: Events = []
    try:
        store = Store(
            connection, path, config, policies, routes, clock, lambda name, fields: events.append((name, fields)), crash
        )
        store.start()
        store.chores.append(Orders(store, {"requeue": requeue.step, "purge": purge.step}, routes))
        store.chores.append(Reports(store, every_s=config.loss_report_s, now=clock.now, time_text=event_time))
        usage, spending = Usage(connection), SpendingBook(connection)
        _reconcile(store, routes, sinks, events)
        _mark(store)
    except BaseException:
        connection.close()
        raise
    return connection, store, usage, spending, events


def _reconcile(store: Store, routes: Mapping[str, Sequence[str]], sinks: Collection[str], events: Events) -> None:
    store.begin()
    for route, sink, n in store.reconcile(routes, sinks):
        events.append(("evicted", {"route": route, "sink": sink, "reason": "sink_removed", "n": n}))
    _end(store)
    # In steps, for a cap that was lowered by much must not make one huge transaction.
    room = store.cap.room_bytes()
    while room < 0:
        store.begin()
        before = room
        store.cap.make_room(min(0, room + store.cap.group_bytes))
        _end(store)
        store.cap.measure()
        room = store.cap.room_bytes()
        if room <= before:
            break  # nothing is left that may be evicted


def _mark(store: Store) -> None:
    """Give the rows of a life that ended before its upkeep their mark: else crash after crash would keep them."""
    if not store.ages.wants_number(store.seq):
        return
    try:
        store.begin()
        store.skip_seq()
        _end(store)
    except DISK:  # a full disk does not keep us from starting, and upkeep tries again
        store.rollback()


def _was_clean(connection: apsw.Connection) -> bool:
    """Whether the last life ended in good order: then its log was folded and removed."""
    return bool(connection.execute("SELECT value FROM meta WHERE name = 'clean'").get)


def _fit(store: Store, idle: Idle) -> None:
    """Make the file of a cap that was lowered smaller before anything is taken in."""
    try:
        if store.cap.is_oversize:
            idle.shrink()
    except apsw.Error as error:  # full disk, a reader in the way: it is done when nothing waits
        log.warning("spool is still larger than its cap", cause=str(error))


def _end(store: Store) -> None:
    store.flush()
    store.commit()
    store.committed()
