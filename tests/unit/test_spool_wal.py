"""The log read frame by frame, also behind a damaged frame; and what of it is damage, and what a power cut."""

import shutil
from pathlib import Path

import apsw
import pytest

from gatewayd.spool.pages import Pages
from gatewayd.spool.salvage import is_log_damaged
from gatewayd.spool.wal import read_wal
from tests.sim.real_spool import leased, opened, work

FRAME = 4096 + 24
N_COMMITS = 12


@pytest.fixture
async def crashed(tmp_path: Path) -> Path:
    """A spool as a crash leaves it: a dozen commits are in its log alone."""
    async with opened(tmp_path / "live") as spool:
        for n in range(N_COMMITS):
            await spool.commit(work(f"k{n}", size=2000))
        (tmp_path / "crashed").mkdir()
        for name in ("spool.db", "spool.db-wal"):
            shutil.copy(tmp_path / "live" / name, tmp_path / "crashed" / name)
    return tmp_path / "crashed"


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(content)


def commits(log: Path) -> list[int]:
    """The frames that end a transaction."""
    return [at for at, frame in enumerate(read_wal(log).frames) if frame.n_pages]


def test_a_whole_log_is_taken_as_sqlite_takes_it(crashed: Path) -> None:
    wal = read_wal(crashed / "spool.db-wal")

    assert wal.has_header
    assert wal.n_taken == len(wal.frames) == len(wal.committed())
    assert sum(frame.n_pages > 0 for frame in wal.frames) >= N_COMMITS
    assert not wal.is_damaged


def test_the_pages_are_those_that_sqlite_sees(crashed: Path) -> None:
    pages = Pages(crashed / "spool.db", read_wal(crashed / "spool.db-wal"))
    ours = dict(row for row in pages.rows() if len(row[1]) == 8)
    pages.close()

    theirs = apsw.Connection(str(crashed / "spool.db"))
    rows = list(theirs.execute("SELECT * FROM results"))
    theirs.close()

    assert len(rows) == N_COMMITS
    assert {row: values[1:] for row, values in ours.items()} == {row[0]: (*row[1:4], 1, *row[5:]) for row in rows}


def test_a_torn_last_transaction_is_a_power_cut(crashed: Path) -> None:
    log = crashed / "spool.db-wal"
    last_but_one = commits(log)[-2]
    flip(log, 32 + FRAME * (last_but_one + 1) + 500)

    assert not read_wal(log).is_damaged
    assert not is_log_damaged(crashed / "spool.db")


@pytest.mark.parametrize("place", [4, 8, 20, 24, 3000])
async def test_a_damaged_frame_in_the_middle_costs_no_row_behind_it(crashed: Path, place: int) -> None:
    log = crashed / "spool.db-wal"
    flip(log, 32 + FRAME * commits(log)[2] + place)

    assert is_log_damaged(crashed / "spool.db")
    async with opened(crashed) as spool:
        there = await leased(spool)
        books = await spool.books()

    assert len(there) >= N_COMMITS - 1
    assert books.balanced
    assert books.results["r"]["cloud"]["produced"] == N_COMMITS
    assert list(crashed.glob("corrupt-1/spool.db-wal"))


async def test_a_log_without_its_header_is_read_all_the_same(crashed: Path) -> None:
    (crashed / "spool.db-wal").write_bytes(bytes(32) + (crashed / "spool.db-wal").read_bytes()[32:])

    assert is_log_damaged(crashed / "spool.db")
    async with opened(crashed) as spool:
        assert await leased(spool) == [f"k{n}" for n in range(N_COMMITS)]


def test_a_log_without_its_header_that_was_folded_is_no_damage(crashed: Path) -> None:
    connection = apsw.Connection(str(crashed / "spool.db"))
    connection.execute("SELECT * FROM meta").fetchall()
    n_frames, n_folded = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    assert n_frames == n_folded > 0
    shutil.copytree(crashed, crashed.with_name("folded"))
    connection.close()
    log = crashed.with_name("folded") / "spool.db-wal"
    log.write_bytes(bytes(32) + log.read_bytes()[32:])

    assert read_wal(log).is_damaged  # by itself it might be
    assert not is_log_damaged(log.with_name("spool.db"))


@pytest.mark.parametrize("content", [b"", b"\0" * 31, b"\xff" * 5000, b"\0" * 40_000])
def test_a_log_of_anything_ends_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "spool.db-wal").write_bytes(content)

    assert not read_wal(tmp_path / "spool.db-wal").is_damaged
