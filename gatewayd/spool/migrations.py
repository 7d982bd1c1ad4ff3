"""The spool's tables. A migration is never edited after a release: the next one is appended.

Rows of `results` and `journal` carry their route in the upper bits of the id and a global, ever growing sequence
number in the lower ones. So one B-tree serves every route with its own contiguous range, in order of arrival, and
ingest maintains no second index.

Everything at or below a cursor's `pos` is resolved for its sink. `counters` changes in the transaction of the change
it counts; what is still here (`journaled`, `pending`) is counted from the rows, so that the balance is a real check.
"""

import apsw

from gatewayd.crash import NO_CRASH, CrashPoint
from gatewayd.errors import ConfigError

SEQ_BITS = 44  # 2**44 rows: 27 years at 20,000 a second; leaves 2**19 routes. (40 bits would last 636 days.)
SEQ_MASK = (1 << SEQ_BITS) - 1

MIGRATIONS = (
    """
    CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    INSERT INTO meta VALUES ('clean', 0), ('seq', 0);
    CREATE TABLE routes (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
    CREATE TABLE results (
        id INTEGER PRIMARY KEY, key TEXT NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL, time REAL NOT NULL,
        data BLOB NOT NULL, traceparent TEXT NOT NULL
    ) STRICT;
    CREATE TABLE journal (
        id INTEGER PRIMARY KEY, payload BLOB NOT NULL, props BLOB NOT NULL, attempts INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE cursors (
        sink TEXT NOT NULL, route_id INTEGER NOT NULL, pos INTEGER NOT NULL, PRIMARY KEY (sink, route_id)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE dead (
        id INTEGER PRIMARY KEY, route TEXT NOT NULL, sink TEXT NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL,
        topic TEXT NOT NULL, payload BLOB NOT NULL, props BLOB NOT NULL, time REAL NOT NULL, key TEXT NOT NULL
    ) STRICT;
    CREATE TABLE counters (
        book TEXT NOT NULL, route TEXT NOT NULL, sink TEXT NOT NULL, line TEXT NOT NULL, reason TEXT NOT NULL,
        n INTEGER NOT NULL, PRIMARY KEY (book, route, sink, line, reason)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE seen (id INTEGER PRIMARY KEY, identities BLOB NOT NULL) STRICT;
    CREATE TABLE attempts (id INTEGER PRIMARY KEY, identity BLOB NOT NULL UNIQUE, n INTEGER NOT NULL) STRICT;
    """,
)


def migrate(connection: apsw.Connection, crash: CrashPoint = NO_CRASH) -> None:
    """Bring the database to the newest version. Raises ConfigError when a newer gatewayd has written it."""
    version = int(connection.pragma("user_version"))
    if version > len(MIGRATIONS):
        raise ConfigError(
            "gateway.state_dir",
            f"the spool is of version {version}, this gatewayd knows {len(MIGRATIONS)}: run the newer gatewayd, "
            "drain its spool, or point gateway.state_dir to another folder",
        )
    for number in range(version, len(MIGRATIONS)):
        connection.execute(f"BEGIN IMMEDIATE; {MIGRATIONS[number]} PRAGMA user_version = {number + 1}")
        crash.reach("spool.migrating")
        connection.execute("COMMIT")


def route_range(route_id: int) -> tuple[int, int]:
    """Exclusive bounds of the ids of a route's rows."""
    return route_id << SEQ_BITS, (route_id + 1) << SEQ_BITS
