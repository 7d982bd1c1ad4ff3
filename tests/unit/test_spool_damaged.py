"""A row that is not what was written is never sent nor handled: it leaves, counted, and what is behind it goes on."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import apsw
import pytest

from gatewayd.ports import Work
from gatewayd.spool.reader import SpoolReader
from tests.sim.real_spool import leased, opened, raw, work

Events = list[tuple[str, Mapping[str, object]]]


def change(folder: Path, statement: str) -> None:
    """What a disk does to a row, without a word: the checksum stays what it was."""
    connection = apsw.Connection(str(folder / "spool.db"))
    connection.execute(statement)
    assert connection.changes()
    connection.close()


@pytest.mark.parametrize(
    "what",
    ["data = x'00'", "key = 'z'", "time = 2.0", "subject = CAST(x'ff' AS TEXT)", "sum = 0", "sum = 5"],
)
async def test_a_damaged_result_is_not_sent_and_the_others_are(tmp_path: Path, what: str) -> None:
    async with opened(tmp_path) as spool:
        await spool.commit(work("a", "b", "c"))
    change(tmp_path, f"UPDATE results SET {what} WHERE key = 'b'")
    events: Events = []

    async with opened(tmp_path, events=events) as spool:
        assert await leased(spool) == ["a", "c"]
        books = await spool.books()

    assert books.balanced
    assert books.results["r"]["cloud"]["pending"] == 2
    assert books.reasons["results/r/cloud/evicted"] == {"damaged": 1}
    assert ("damaged_row", {"route": "r", "table": "results"}) in events
    with SpoolReader.open(tmp_path / "spool.db") as reader:
        [letter] = reader.dead_letters()
    assert (letter.route, letter.reason) == ("r", "damaged")


async def test_a_damaged_result_counts_for_the_sinks_that_had_not_had_it(tmp_path: Path) -> None:
    async with opened(tmp_path, routes={"r": ["one", "two"]}) as spool:
        await spool.commit(work("a", "b"))
        lease = await spool.try_lease("one", "r", limit=1, max_bytes=1000)
        assert lease is not None
        await spool.ack(lease, refused={})
    change(tmp_path, "UPDATE results SET data = x'00' WHERE key = 'a'")

    async with opened(tmp_path, routes={"r": ["one", "two"]}) as spool:
        assert await leased(spool, "one") == ["b"]
        assert await leased(spool, "two") == ["b"]
        books = await spool.books()

    assert books.balanced
    assert "results/r/one/evicted" not in books.reasons
    assert books.reasons["results/r/two/evicted"] == {"damaged": 1}


@pytest.mark.parametrize("what", ["payload = x'00'", "props = x'00'", "sum = 0"])
async def test_a_damaged_message_is_not_handled_and_the_others_are(tmp_path: Path, what: str) -> None:
    async with opened(tmp_path) as spool:
        ids = await spool.commit(Work(route="r", received=3, journal=[raw("a"), raw("b"), raw("c")]))
    change(tmp_path, f"UPDATE journal SET {what} WHERE id = {ids[1]}")

    async with opened(tmp_path) as spool:
        by_id = await spool.journal_get("r", ids)
        by_page = await spool.journal("r", after=0, limit=10)
        books = await spool.books()

    assert [entry.message.key for entry in by_id] == ["a", "c"]
    assert by_page == by_id
    assert books.balanced
    assert books.messages["r"]["journaled"] == 2
    assert books.reasons["messages/r/dead"] == {"damaged": 1}


async def test_all_rows_may_be_damaged(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.commit(work(*map(str, range(300))))
    change(tmp_path, "UPDATE results SET data = x'00'")

    async with opened(tmp_path) as spool:
        assert await leased(spool) == []
        await spool.commit(work("fresh"))
        assert await leased(spool) == ["fresh"]
        books = await spool.books()

    assert books.balanced
    assert books.reasons["results/r/cloud/evicted"] == {"damaged": 300}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE cursors SET pos = pos + 2",
        "UPDATE counters SET n = n + 1 WHERE line = 'produced'",
        "UPDATE routes SET name = 'q'",
        "UPDATE meta SET value = 1 WHERE name = 'seq'",
        "DELETE FROM routes",
    ],
)
async def test_a_damaged_position_counter_route_or_number_loses_and_invents_nothing(
    tmp_path: Path, statement: str
) -> None:
    async with opened(tmp_path) as spool:
        await spool.commit(work("a", "b", "c"))
    change(tmp_path, statement)

    async with opened(tmp_path) as spool:
        assert await leased(spool) == ["a", "b", "c"]
        await spool.commit(work("d"))
        books = await spool.books()

    assert list(tmp_path.glob("corrupt-*"))
    assert books.balanced
    assert books.results["r"]["cloud"]["pending"] == 4


async def test_books_that_do_not_balance_after_a_crash_are_mended(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.commit(work("a", "b", "c"))
    change(tmp_path, "UPDATE meta SET value = 0 WHERE name = 'clean'")
    change(tmp_path, "DELETE FROM results WHERE key = 'b'")

    async with opened(tmp_path) as spool:
        assert await leased(spool) == ["a", "c"]
        books = await spool.books()

    assert books.balanced
    assert books.reasons["results/r/cloud/evicted"] == {"damaged": 1}


async def test_a_log_that_is_gone_after_a_crash_is_told(tmp_path: Path) -> None:
    events: Events = []
    async with opened(tmp_path / "live", events=events) as spool:
        await spool.commit(work("a"))
        for folder in ("crashed", "bare"):
            (tmp_path / folder).mkdir()
            shutil.copy(tmp_path / "live" / "spool.db", tmp_path / folder / "spool.db")
        shutil.copy(tmp_path / "live" / "spool.db-wal", tmp_path / "crashed" / "spool.db-wal")
    for folder in ("crashed", "live"):
        async with opened(tmp_path / folder, events=events):
            pass
    assert "log_lost" not in dict(events)

    async with opened(tmp_path / "bare", events=events) as spool:
        await spool.ping()

    assert "log_lost" in dict(events)


async def test_a_message_that_is_damaged_while_it_is_handled_may_be_answered_after_all(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        ids = await spool.commit(Work(route="r", received=1, journal=[raw("a")]))
        entries = await spool.journal("r", after=0, limit=10)
        change(tmp_path, "UPDATE journal SET payload = x'00'")
        assert await spool.journal("r", after=0, limit=10) == []  # and it is a dead letter now

        await spool.commit(Work(route="r", handled=1, done=[entries[0].id]))

        books = await spool.books()
        assert (ids[0], books.balanced, books.messages["r"]["handled"]) == (entries[0].id, True, 1)
