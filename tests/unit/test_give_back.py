"""Disk is given back after a drain, also while messages keep coming; and what is written is counted."""

import asyncio
import os
import time
from pathlib import Path

import apsw
import pytest

from gatewayd.spool import SqliteSpool
from gatewayd.spool.database import PAGE_BYTES, open_database
from gatewayd.spool.duty import Duty
from gatewayd.spool.written import Written
from tests.sim.real_spool import MIB, opened, work

_FRAME_BYTES = PAGE_BYTES + 24


def disk_bytes(folder: Path) -> int:
    return sum((folder / name).stat().st_size for name in ("spool.db", "spool.db-wal"))


async def drain(spool: SqliteSpool) -> None:
    while (lease := await spool.try_lease("cloud", "r", limit=1000, max_bytes=MIB)) is not None:
        await spool.ack(lease, refused={})


async def fill(spool: SqliteSpool, n: int) -> None:
    for first in range(0, n, 100):
        await spool.commit(work(*(f"{key:08d}" for key in range(first, first + 100)), size=1000))


async def test_disk_is_given_back_while_messages_keep_coming(tmp_path: Path) -> None:
    async with opened(tmp_path, max_bytes=64 * MIB) as spool:
        await fill(spool, 20_000)
        peak = disk_bytes(tmp_path)
        await drain(spool)

        n = 0
        began_s = time.monotonic()
        while (left := disk_bytes(tmp_path)) > peak / 10 and time.monotonic() - began_s < 30:
            await spool.commit(work(f"fresh-{n}"))
            await drain(spool)
            n += 1
            await asyncio.sleep(0.002)

    assert peak > 20 * MIB
    assert left <= peak / 10
    assert n > 20  # they did keep coming


async def test_pages_in_use_are_not_moved_in_the_middle_of_a_drain(tmp_path: Path) -> None:
    async with opened(tmp_path, max_bytes=64 * MIB) as spool:
        await fill(spool, 4_000)
        peak = disk_bytes(tmp_path)

        for _ in range(10):  # a quarter of it is free by then, and it goes on
            lease = await spool.try_lease("cloud", "r", limit=100, max_bytes=MIB)
            assert lease is not None
            await spool.ack(lease, refused={})
            await asyncio.sleep(0.1)

        assert (tmp_path / "spool.db").stat().st_size > 0.9 * (peak - MIB)


def test_upkeep_takes_a_tenth_of_a_busy_writers_time() -> None:
    duty = Duty(256)

    duty.took(0.004, 100.0, is_busy=True)

    assert duty.due_at_s == pytest.approx(100.0 + 0.036)


def test_upkeep_of_a_quiet_writer_takes_half_of_it() -> None:
    duty = Duty(256)

    duty.took(0.004, 100.0, is_busy=False)

    assert duty.due_at_s == pytest.approx(100.004)


def test_steps_get_longer_until_they_take_as_long_as_two_commits_and_shorter_beyond() -> None:
    duty = Duty(256)
    for _ in range(100):
        duty.committed(0.040)  # a slow disk

    for _ in range(20):
        duty.took(0.030, 0.0, is_busy=True)
    longest = duty.n_pages
    duty.took(0.100, 0.0, is_busy=True)

    assert longest == 256
    assert duty.n_pages == 128


def test_no_step_is_larger_than_the_log_of_a_small_spool_allows() -> None:
    duty = Duty(32)

    for seconds in (0.0, 0.0, 1.0, 1.0, 0.0, 0.0):
        duty.took(seconds, 0.0, is_busy=True)
        assert 1 <= duty.n_pages <= 32


def counted(path: Path) -> tuple[apsw.Connection, Written]:
    connection = open_database(path, wal_pages=32)
    written = Written(connection, Path(connection.filename_wal))
    frames: list[int] = []

    def hook(_connection: apsw.Connection, _name: str, n_frames: int) -> int:
        written.committed(n_frames)
        frames.append(n_frames)
        return apsw.SQLITE_OK

    connection.set_wal_hook(hook)
    return connection, written


def fold(connection: apsw.Connection, written: Written) -> None:
    n_pages = written.pages_to_fold()
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    written.folded(n_pages)


def test_every_frame_of_the_log_is_counted(tmp_path: Path) -> None:
    connection, written = counted(tmp_path / "spool.db")
    size = os.stat(connection.filename_wal).st_size

    for n in range(5):
        connection.execute("INSERT INTO state VALUES (?, ?)", (str(n), b"x" * 20_000))

    assert written.n_bytes == os.stat(connection.filename_wal).st_size - size - 32
    assert written.n_bytes > 5 * 20_000


def test_a_page_that_is_in_the_log_many_times_is_folded_once(tmp_path: Path) -> None:
    connection, written = counted(tmp_path / "spool.db")
    for n in range(20):
        connection.execute("INSERT OR REPLACE INTO state VALUES ('a', ?)", (n,))
    assert written.n_bytes == 20 * _FRAME_BYTES

    fold(connection, written)

    assert written.n_bytes == 20 * _FRAME_BYTES + PAGE_BYTES


def test_a_log_that_is_begun_anew_is_counted_on(tmp_path: Path) -> None:
    connection, written = counted(tmp_path / "spool.db")

    for n in range(6):
        for _ in range(3):
            connection.execute("INSERT OR REPLACE INTO state VALUES ('a', ?)", (n,))
        fold(connection, written)

    assert written.n_bytes == 6 * (3 * _FRAME_BYTES + PAGE_BYTES)


async def test_the_spool_says_what_it_has_written(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        before = spool.written_bytes
        for n in range(50):
            await spool.commit(work(f"{n}", size=100))

        assert 50 * _FRAME_BYTES <= spool.written_bytes - before <= 50 * 8 * _FRAME_BYTES
