"""Opening the spool: lock, file, state; then the config's routes and sinks, and a cap that may have been lowered."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import apsw

from gatewayd.config import schema
from gatewayd.spool.cap import wal_pages_for
from gatewayd.spool.database import Lock, close_database, open_database
from gatewayd.spool.idle import Idle
from gatewayd.spool.store import Store

Events = list[tuple[str, Mapping[str, object]]]


@dataclass(frozen=True, slots=True)
class Opened:
    """What belongs together from `open_store` to `close`."""

    store: Store
    idle: Idle
    events: Events  # reported by the store, not delivered yet
    aside: Path | None  # where a damaged file was moved to
    _connection: apsw.Connection
    _lock: Lock

    def close(self, *, is_clean: bool) -> None:
        """Let go. After a failure the file is left for the next start to check."""
        try:
            if is_clean:
                close_database(self._connection)
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
    """Open everything. Raises ConfigError; see `database`."""
    lock = Lock(path.with_suffix(".lock"))
    try:
        connection, aside = open_database(path, wal_pages=wal_pages_for(config.max_bytes))
    except BaseException:
        lock.release()
        raise
    events: Events = []
    try:
        store = Store(connection, path, config, when_full, routes, lambda name, fields: events.append((name, fields)))
        store.start()
        _reconcile(store, routes, sinks, events)
    except BaseException:
        connection.close()
        lock.release()
        raise
    return Opened(store, Idle(connection, store.cap), events, aside, connection, lock)


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
