"""Dead letters are bounded fairly, and an id is never given out twice."""

from pathlib import Path

from gatewayd.ports import DeadLetter, Work
from gatewayd.spool import SqliteSpool
from gatewayd.spool.reader import SpoolReader
from tests.sim.real_spool import MIB, opened, work

ROUTES = {"quiet": ["cloud"], "loud": ["cloud", "backup"]}


def letter(key: str, route: str, size: int = 1) -> DeadLetter:
    return DeadLetter(route=route, reason="decode", detail="d", topic="t", payload=b"x" * size, time=1.0, key=key)


async def bury(spool: SqliteSpool, route: str, *keys: str, size: int = 1) -> None:
    for key in keys:
        await spool.commit(Work(route=route, received=1, dead=[letter(key, route, size)]))


async def refuse(spool: SqliteSpool, sink: str, *keys: str) -> None:
    await spool.commit(work(*keys, route="loud"))
    lease = await spool.try_lease(sink, "loud", limit=100, max_bytes=MIB)
    assert lease is not None
    await spool.ack(lease, refused={result.key: "no" for result in lease.results})


def kept(folder: Path) -> list[tuple[str, str]]:
    with SpoolReader.open(folder / "spool.db") as reader:
        return [(letter.sink or letter.route, letter.key) for letter in reversed(reader.dead_letters())]


async def test_a_flood_of_one_route_pushes_out_its_own_letters(tmp_path: Path) -> None:
    async with opened(tmp_path, routes=ROUTES, max_dead_letters=5) as spool:
        await bury(spool, "quiet", "a", "b")
        await bury(spool, "loud", *map(str, range(10)))

        assert kept(tmp_path) == [("quiet", "a"), ("quiet", "b"), ("loud", "7"), ("loud", "8"), ("loud", "9")]
        books = await spool.books()
        assert (books.balanced, books.n_purged, books.messages["loud"]["dead"]) == (True, 7, 10)


async def test_a_flood_of_one_sink_pushes_out_its_own_letters(tmp_path: Path) -> None:
    async with opened(tmp_path, routes=ROUTES, max_dead_letters=5) as spool:
        await refuse(spool, "backup", "a", "b")
        await refuse(spool, "cloud", *map(str, range(10)))

        assert kept(tmp_path) == [("backup", "a"), ("backup", "b"), *[("cloud", key) for key in "789"]]


async def test_who_takes_most_bytes_loses_first(tmp_path: Path) -> None:
    async with opened(tmp_path, routes=ROUTES, max_dead_bytes=7000) as spool:
        await bury(spool, "loud", "1", "2", size=3000)
        await bury(spool, "quiet", *"abcd")

        assert kept(tmp_path) == [("loud", "2"), *[("quiet", key) for key in "abcd"]]


async def test_the_shares_are_known_again_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path, routes=ROUTES, max_dead_letters=4) as spool:
        await bury(spool, "loud", "1", "2", "3")
        await bury(spool, "quiet", "a")
    async with opened(tmp_path, routes=ROUTES, max_dead_letters=4) as spool:
        await bury(spool, "quiet", "b")

        assert kept(tmp_path) == [("loud", "2"), ("loud", "3"), ("quiet", "a"), ("quiet", "b")]


async def test_an_id_is_not_given_out_again_after_its_letter_has_gone(tmp_path: Path) -> None:
    async with opened(tmp_path, routes=ROUTES, max_dead_letters=0) as spool:
        await bury(spool, "loud", "1", "2", "3")
    async with opened(tmp_path, routes=ROUTES) as spool:
        await bury(spool, "loud", "4")
        with SpoolReader.open(tmp_path / "spool.db") as reader:
            ids = reader.connection.execute("SELECT id FROM dead").fetchall()

    assert ids == [(4,)]
