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
from gatewayd.spool.sums import fields_sum

SEQ_BITS = 44  # 2**44 rows: 27 years at 20,000 a second; leaves 2**19 routes. (40 bits would last 636 days.)
SEQ_MASK = (1 << SEQ_BITS) - 1
MAX_ROUTES = 1 << (63 - SEQ_BITS)

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
    """
    -- Checksums, see `sums`; 0: of a row that version 1 has written.
    ALTER TABLE results ADD COLUMN sum INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE journal ADD COLUMN sum INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE dead ADD COLUMN sum INTEGER NOT NULL DEFAULT 0;
    -- These few are all given theirs at once.
    ALTER TABLE routes ADD COLUMN sum INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE cursors ADD COLUMN sum INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE counters ADD COLUMN sum INTEGER NOT NULL DEFAULT 0;
    UPDATE routes SET sum = fields_sum(id, name);
    UPDATE cursors SET sum = fields_sum(sink, route_id, pos);
    UPDATE counters SET sum = fields_sum(book, route, sink, line, reason, n);
    -- Ids in (first, last] are resolved for the sink although they lie beyond its cursor.
    CREATE TABLE ranges (
        sink TEXT NOT NULL, route_id INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
        sum INTEGER NOT NULL, PRIMARY KEY (sink, route_id, first)
    ) STRICT, WITHOUT ROWID;
    -- Rows up to `seq` were stored when the age clock showed at most `age_s`, the wall clock `time`.
    CREATE TABLE marks (
        seq INTEGER PRIMARY KEY, age_s REAL NOT NULL, time REAL NOT NULL, sum INTEGER NOT NULL
    ) STRICT;
    -- From `seq` on the wall clock was `offset_s` ahead of the clock that counts from boot.
    CREATE TABLE clocks (
        seq INTEGER PRIMARY KEY, boot TEXT NOT NULL, offset_s REAL NOT NULL, is_synced INTEGER NOT NULL,
        sum INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE state (name TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID;
    -- Rows beyond this one that have no checksum are damaged.
    INSERT INTO state SELECT 'unsummed_upto', value FROM meta WHERE name = 'seq';
    CREATE TABLE usage (
        sink TEXT NOT NULL, day TEXT NOT NULL, n_bytes INTEGER NOT NULL, n_requests INTEGER NOT NULL,
        PRIMARY KEY (sink, day)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE spending (
        tier TEXT NOT NULL, day TEXT NOT NULL, n_calls INTEGER NOT NULL, n_tokens INTEGER NOT NULL,
        n_bytes INTEGER NOT NULL, n_nanos INTEGER NOT NULL, PRIMARY KEY (tier, day)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE holds (
        sink TEXT PRIMARY KEY, until_age_s REAL NOT NULL, sum INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE orders (id INTEGER PRIMARY KEY, what TEXT NOT NULL, args TEXT NOT NULL, answer TEXT) STRICT;
    CREATE TABLE reports (route TEXT PRIMARY KEY, row INTEGER NOT NULL, counted TEXT NOT NULL) STRICT, WITHOUT ROWID;
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
    connection.create_scalar_function("fields_sum", fields_sum, deterministic=True)
    for number in range(version, len(MIGRATIONS)):
        connection.execute(f"BEGIN IMMEDIATE; {MIGRATIONS[number]} PRAGMA user_version = {number + 1}")
        crash.reach("spool.migrating")
        connection.execute("COMMIT")


def route_range(route_id: int) -> tuple[int, int]:
    """Exclusive bounds of the ids of a route's rows."""
    return route_id << SEQ_BITS, (route_id + 1) << SEQ_BITS
