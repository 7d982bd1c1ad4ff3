"""Opening the spool: lock, file, state; then the config's routes and sinks, and a cap that may have been lowered."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import apsw
import msgspec
import structlog

from gatewayd.config import schema
from gatewayd.spool.ballast import Ballast, ballast_bytes_for
from gatewayd.spool.cap import wal_pages_for
from gatewayd.spool.database import (
    DAMAGE,
    DISK,
    Lock,
    close_database,
    in_words,
    is_unreadable,
    move_aside,
    open_database,
)
from gatewayd.spool.idle import Idle
from gatewayd.spool.store import Store

log = structlog.get_logger(__name__)

_TRIES = 3
_RETRY_S = 0.1

Events = list[tuple[str, Mapping[str, object]]]


@dataclass(frozen=True, slots=True)
class Opened:
    """What belongs together from `open_store` to `close`."""

    store: Store
    idle: Idle
    events: Events  # reported by the store, not delivered yet
    aside: Path | None  # where a damaged file was moved to
    ballast: Ballast
    _connection: apsw.Connection
    _lock: Lock

    def close(self, *, is_clean: bool) -> None:
        """Let go. After a failure the file is left for the next start to check."""
        try:
            if is_clean:
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
    when_full: Mapping[str, str],
    config: schema.Spool,
) -> Opened:
    """Open everything. Raises ConfigError, and SpoolFull when the disk does not allow it now; see `database`."""
    lock = Lock(path.with_suffix(".lock"))
    try:
        return _open_patiently(path, lock, routes, sinks, when_full, config)
    except BaseException:
        lock.release()
        raise


def _open_patiently(
    path: Path,
    lock: Lock,
    routes: Mapping[str, Sequence[str]],
    sinks: Collection[str],
    when_full: Mapping[str, str],
    config: schema.Spool,
) -> Opened:
    aside: Path | None = None
    ballast = Ballast(path, ballast_bytes_for(config.ballast_bytes, config.max_bytes))
    n_tries = 0
    while True:
        try:
            connection, store, events = _open(path, routes, sinks, when_full, config)
        except (*DAMAGE, msgspec.DecodeError):
            if aside is not None:
                raise  # a fresh file cannot be damaged
            aside = move_aside(path)
        except DISK as error:
            n_tries += 1
            ballast.give_up(error)
            if n_tries < _TRIES:
                time.sleep(_RETRY_S)
            elif aside is None and isinstance(error, apsw.IOError) and is_unreadable(path):
                aside = move_aside(path)
            else:
                raise in_words(path, error) from error
        else:
            idle = Idle(connection, store.cap, wal_pages=wal_pages_for(config.max_bytes))
            ballast.make()
            return Opened(store, idle, events, aside, ballast, connection, lock)


def _open(
    path: Path,
    routes: Mapping[str, Sequence[str]],
    sinks: Collection[str],
    when_full: Mapping[str, str],
    config: schema.Spool,
) -> tuple[apsw.Connection, Store, Events]:
    connection = open_database(path, wal_pages=wal_pages_for(config.max_bytes))
    events: Events = []
    try:
        store = Store(connection, path, config, when_full, routes, lambda name, fields: events.append((name, fields)))
        store.start()
        _reconcile(store, routes, sinks, events)
    except BaseException:
        connection.close()
        raise
    return connection, store, events


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


def _end(store: Store) -> None:
    store.flush()
    store.commit()
    store.committed()
