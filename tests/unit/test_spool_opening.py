"""The spool opens: with another config, beside another process, from a damaged file."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import apsw
import pytest

from gatewayd.errors import ConfigError, FatalError
from gatewayd.ports import Work
from gatewayd.spool import SpoolReader
from tests.sim.real_spool import leased, opened, work


async def test_a_sink_taken_off_a_route_gives_up_what_it_had_not_had(tmp_path: Path) -> None:
    async with opened(tmp_path, routes={"r": ["cloud", "file"]}) as spool:
        await spool.commit(work("1", "2"))
    async with opened(tmp_path, routes={"r": ["cloud"]}) as spool:
        books = await spool.books()
        assert books.reasons["results/r/file/evicted"] == {"sink_removed": 2}
        assert books.balanced
        assert await leased(spool) == ["1", "2"]


async def test_a_sink_new_to_a_route_starts_at_its_end(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.commit(work("1"))
    async with opened(tmp_path, routes={"r": ["cloud", "file"]}) as spool:
        await spool.commit(work("2"))

        assert await leased(spool, "file") == ["2"]
        assert await leased(spool, "cloud") == ["1", "2"]


async def test_a_route_gone_from_the_config_is_delivered_to_the_end(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.commit(work("1"))
    async with opened(tmp_path, routes={}, sinks=["cloud"]) as spool:
        assert spool.known_routes("cloud") == ["r"]
        assert await leased(spool) == ["1"]


async def test_a_route_without_sinks_stores_no_results(tmp_path: Path) -> None:
    async with opened(tmp_path, routes={"r": []}) as spool:
        await spool.commit(work("1"))

        with SpoolReader.open(tmp_path / "spool.db") as reader:
            assert reader.status().results == 0
        assert (await spool.books()).totals()["messages"]["handled"] == 1  # type: ignore[index]


async def test_two_daemons_cannot_open_one_spool(tmp_path: Path) -> None:
    async with opened(tmp_path):
        with pytest.raises(ConfigError, match="in use by another gatewayd"):
            async with opened(tmp_path):
                pass


async def test_a_spool_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    async with opened(tmp_path):
        pass
    connection = apsw.Connection(str(tmp_path / "spool.db"))
    connection.pragma("user_version", 99)
    connection.close()

    with pytest.raises(ConfigError, match="version 99"):
        async with opened(tmp_path):
            pass

    assert not list(tmp_path.glob("corrupt-*"))


@pytest.mark.parametrize("damage", ["not a database", "torn pages"])
async def test_a_damaged_file_is_moved_aside_and_a_fresh_one_is_begun(tmp_path: Path, damage: str) -> None:
    async with opened(tmp_path) as spool:
        await spool.commit(work(*map(str, range(2000)), size=100))
    path = tmp_path / "spool.db"
    connection = apsw.Connection(str(path))
    connection.execute("UPDATE meta SET value = 0 WHERE name = 'clean'")
    connection.close()
    content = bytearray(path.read_bytes())
    if damage == "not a database":
        content[:100] = b"?" * 100
    else:
        content[4096 * 20 : 4096 * 40] = b"\x5a" * (4096 * 20)
    path.write_bytes(content)
    events: list[tuple[str, Mapping[str, object]]] = []

    async with opened(tmp_path, events=events) as spool:
        await spool.commit(work("new"))
        assert "new" in await leased(spool, limit=9999)
        assert (await spool.books()).balanced

    assert [name for name, _ in events][:1] == ["damaged"]
    assert (tmp_path / "corrupt-1" / "spool.db").stat().st_size == len(content)


async def test_the_reader_sees_books_and_pending_results_while_the_daemon_runs(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.commit(work(*map(str, range(600))))

        with SpoolReader.open(tmp_path / "spool.db") as reader:
            assert [stored.key for stored in reader.pending("cloud", "r")] == [str(n) for n in range(600)]
            assert reader.books() == await spool.books()
            assert reader.status().oldest_time == 1.0


async def test_reasons_are_bounded(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        for n in range(100):
            await spool.commit(Work(route="r", received=1, dropped={f"reason-{n}": 1}))

        books = await spool.books()
        assert books.messages["r"]["dropped"] == 100
        assert len(books.reasons["messages/r/dropped"]) == 65


async def test_after_close_nothing_is_taken(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        pass

    with pytest.raises(FatalError, match="closed"):
        await spool.commit(work("1"))


async def test_many_works_share_a_commit(tmp_path: Path) -> None:
    events: list[tuple[str, Mapping[str, object]]] = []
    async with opened(tmp_path, events=events) as spool:
        await asyncio.gather(*[spool.commit(work(str(n))) for n in range(500)])

    groups = [fields["works"] for name, fields in events if name == "commit"]
    assert sum(groups) == 500  # type: ignore[arg-type]
    assert len(groups) < 100


async def test_a_lease_of_a_spool_that_was_open_before_answers_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.commit(work("1"))
        old = await spool.lease("cloud", "r", limit=9, max_bytes=1000)
    async with opened(tmp_path) as spool:
        await spool.lease("cloud", "r", limit=9, max_bytes=1000)

        await spool.ack(old, refused={})

        assert (await spool.books()).results["r"]["cloud"]["pending"] == 1
