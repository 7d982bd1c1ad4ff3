"""Upgrade and downgrade, by whole processes: an old spool is taken over, a newer one is refused in words."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from gatewayd.cli import EXIT_CONFIG
from gatewayd.spool.migrations import MIGRATIONS
from tests.sim.gateway import CloudProcess, Gateway, wait_until
from tests.sim.mosquitto import Mosquitto

pytestmark = pytest.mark.broker

# Version 1 as it was released: kept here as it stood, whatever becomes of the code. ids: route 1, 44 bits below.
VERSION_1 = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES ('clean', 0), ('seq', 200);
CREATE TABLE routes (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
INSERT INTO routes VALUES (1, 'temperature');
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
INSERT INTO cursors VALUES ('cloud', 1, 1 << 44);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
INSERT INTO results SELECT (1 << 44) | i, 'old-' || i, 'threshold', 'plant/a/temperature', 1750000000.0 + i,
    CAST('{"label":"overheated","value":' || (80 + i) || '}' AS BLOB), '' FROM n;
INSERT INTO counters VALUES ('messages', 'temperature', '', 'received', '', 200),
    ('messages', 'temperature', '', 'handled', '', 200), ('results', 'temperature', 'cloud', 'produced', '', 200);
PRAGMA user_version = 1;
"""
CONFIG = """
[source]
port = {port}
[sinks.cloud]
type = "http"
url = "{url}"
retry_max_s = 0.5
[routes.temperature]
topics = ["plant/+/temperature"]
handler = "threshold"
sinks = ["cloud"]
payload.format = "number"
[routes.temperature.options]
on = "every"
[[routes.temperature.options.rules]]
label = "overheated"
above = 80.0
"""


def write_spool(gateway: Gateway, sql: str) -> Path:
    path = gateway.folder / "state" / "spool.db"
    path.parent.mkdir(exist_ok=True)
    connection = apsw.Connection(str(path))
    connection.pragma("auto_vacuum", 2)
    connection.pragma("journal_mode", "WAL")
    connection.execute(sql)
    connection.close()
    return path


def test_results_of_the_first_release_reach_the_cloud_after_the_upgrade(
    tmp_path: Path, new_mosquitto: Callable[..., Mosquitto]
) -> None:
    cloud = CloudProcess(tmp_path)
    cloud.start()
    gateway = Gateway(tmp_path / "gateway", CONFIG.format(port=new_mosquitto().port, url=cloud.url))
    path = write_spool(gateway, VERSION_1)
    try:
        gateway.start()
        wait_until(lambda: len(cloud.stored()) >= 200, 60, gateway.describe)
        assert gateway.stop() == 0
        events = cloud.stored().values()
    finally:
        gateway.end()
        cloud.stop()

    assert {event["id"] for event in events} == {f"old-{number}" for number in range(1, 201)}
    assert {event["data"]["value"] for event in events} == {80 + number for number in range(1, 201)}
    books = gateway.books()
    assert (books.balanced, books.results["temperature"]["cloud"]["delivered"]) == (True, 200)
    with apsw.Connection(str(path)) as connection:
        assert connection.pragma("user_version") == len(MIGRATIONS)


def test_a_downgrade_is_refused_with_words_and_the_spool_is_left_as_it_is(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "gateway", CONFIG.format(port=1, url="http://127.0.0.1:9/"))
    newer = len(MIGRATIONS) + 1
    path = write_spool(gateway, f"CREATE TABLE of_the_future (x); PRAGMA user_version = {newer};")
    before = path.read_bytes()

    done = subprocess.run(
        [sys.executable, "-m", "gatewayd", "run", "--config", str(gateway.config)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == EXIT_CONFIG  # systemd does not try again
    assert f"the spool is of version {newer}, this gatewayd knows {len(MIGRATIONS)}" in done.stderr
    assert "run the newer gatewayd" in done.stderr
    assert path.read_bytes() == before
