"""Bytes by sink and day: written with what is committed anyway, and never forgotten by a failure."""

from pathlib import Path
from typing import Any

import apsw
import pytest

from gatewayd.spool.daily import KEPT_DAYS, WRITE_EVERY_S
from gatewayd.spool.database import open_database
from gatewayd.spool.usage import Usage
from tests.sim.real_spool import opened, work

DAY = "2026-11-21"


@pytest.fixture
def connection(tmp_path: Path) -> apsw.Connection:
    return open_database(tmp_path / "spool.db", wal_pages=32)


def on_disk(path: Path) -> list[tuple[str, str, int, int]]:
    reader = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        found: list[Any] = reader.execute(
            "SELECT sink, day, n_bytes, n_requests FROM usage ORDER BY sink, day"
        ).fetchall()
        return found
    finally:
        reader.close()


def write(usage: Usage, connection: apsw.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    usage.daily.flush()
    connection.execute("COMMIT")
    usage.daily.committed()


async def test_what_was_counted_goes_with_the_next_commit(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        spool.usage.add("cloud", DAY, 700)
        spool.usage.add("cloud", DAY, 300)

        await spool.commit(work("a"))

        assert on_disk(tmp_path / "spool.db") == [("cloud", DAY, 1000, 2)]


async def test_what_no_commit_took_along_is_written_at_the_end_and_read_at_the_start(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        spool.usage.add("cloud", DAY, 700)

    async with opened(tmp_path) as spool:
        assert spool.usage.days("cloud") == {DAY: 700}
        assert spool.usage.days("another") == {}


def test_a_chore_writes_it_within_a_minute_when_nothing_is_committed(connection: apsw.Connection) -> None:
    usage = Usage(connection)
    assert not usage.daily.is_due(0.0)

    usage.add("cloud", DAY, 1)

    assert usage.daily.is_due(1.0)
    assert not usage.daily.is_due(2.0)
    assert usage.daily.is_due(1.0 + WRITE_EVERY_S)


def test_a_rollback_forgets_nothing(connection: apsw.Connection) -> None:
    usage = Usage(connection)
    usage.add("cloud", DAY, 700)
    connection.execute("BEGIN IMMEDIATE")
    usage.daily.flush()
    connection.execute("ROLLBACK")
    usage.daily.rollback()
    usage.add("cloud", DAY, 5)

    write(usage, connection)

    assert Usage(connection).days("cloud") == {DAY: 705}
    assert usage.daily.is_written


def test_what_is_counted_while_a_commit_is_under_way_goes_with_the_next_one(connection: apsw.Connection) -> None:
    usage = Usage(connection)
    usage.add("cloud", DAY, 700)
    connection.execute("BEGIN IMMEDIATE")
    usage.daily.flush()
    usage.add("cloud", DAY, 5)
    connection.execute("COMMIT")
    usage.daily.committed()
    assert not usage.daily.is_written

    write(usage, connection)

    assert Usage(connection).days("cloud") == {DAY: 705}


def test_bytes_without_a_day_get_one_once(connection: apsw.Connection) -> None:
    usage = Usage(connection)
    usage.add("cloud", "", 700)
    usage.add("cloud", DAY, 1)

    usage.date("cloud", DAY)
    usage.date("cloud", DAY)

    write(usage, connection)
    assert Usage(connection).days("cloud") == {DAY: 701}


def test_days_that_are_too_old_go(connection: apsw.Connection) -> None:
    usage = Usage(connection)
    for sink, day in (("cloud", "2020-01-01"), ("other", "2025-12-01"), ("cloud", DAY), ("cloud", "")):
        usage.add(sink, day, 7)
    write(usage, connection)
    usage.add("cloud", DAY, 1)

    usage.daily.run()
    write(usage, connection)

    assert KEPT_DAYS == 400
    assert usage.days("cloud") == Usage(connection).days("cloud") == {DAY: 8, "": 7}
    assert Usage(connection).days("other") == {"2025-12-01": 7}


@pytest.mark.parametrize("row", [("2026-13-45", 7, 1), ("20261121", 7, 1), ("x", 7, 1), (DAY, -7, 1), (DAY, 2**62, 1)])
def test_what_nobody_can_have_counted_is_left_out(connection: apsw.Connection, row: tuple[str, int, int]) -> None:
    connection.execute("INSERT INTO usage VALUES ('cloud', ?, ?, ?)", row)
    connection.execute("INSERT INTO usage VALUES ('cloud', '2026-11-20', 5, 1)")

    assert Usage(connection).days("cloud") == {"2026-11-20": 5}
