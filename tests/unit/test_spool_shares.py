"""Two shares of a route: what is delivered out of order is remembered, over restarts and for each sink."""

from pathlib import Path

import apsw

from gatewayd.ports import Share
from gatewayd.spool.ranges import MAX_RANGES
from gatewayd.spool.spool import SqliteSpool
from tests.sim.real_spool import MIB, opened, work


async def keys(spool: SqliteSpool, share: Share, *, limit: int = 100, sink: str = "cloud") -> list[str]:
    """Lease and give back."""
    lease = await spool.try_lease(sink, "r", limit=limit, max_bytes=MIB, share=share)
    if lease is None:
        return []
    await spool.nack(lease, delay_s=0.0)
    return [result.key for result in lease.results]


async def deliver(
    spool: SqliteSpool, share: Share, *, limit: int = 100, sink: str = "cloud", refuse: str = ""
) -> list[str]:
    """Lease and ack."""
    lease = await spool.lease(sink, "r", limit=limit, max_bytes=MIB, share=share)
    await spool.ack(lease, refused={refuse: "no"} if refuse else {})
    return [result.key for result in lease.results]


def on_disk(folder: Path) -> list[str]:
    connection = apsw.Connection(str(folder / "spool.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return [key for (key,) in connection.execute("SELECT key FROM results ORDER BY id")]
    finally:
        connection.close()


async def test_live_results_that_were_delivered_leave_the_disk_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.commit(work("old-1", "old-2"))
        spool.divide("cloud", "r")
        await spool.commit(work("new-1", "new-2"))

        delivered = await deliver(spool, "live")

        assert delivered == ["new-1", "new-2"]
        assert on_disk(tmp_path) == ["old-1", "old-2"]
        assert (await spool.books()).results["r"]["cloud"]["pending"] == 2


async def test_what_was_delivered_out_of_order_is_not_offered_again_after_a_restart(tmp_path: Path) -> None:
    routes = {"r": ["cloud", "archive"]}
    async with opened(tmp_path, routes=routes) as spool:
        await spool.commit(work("old"))
        spool.divide("cloud", "r")
        await spool.commit(work("new"))
        await deliver(spool, "live")
        await spool.commit(work("later"))

    async with opened(tmp_path, routes=routes) as spool:
        assert on_disk(tmp_path) == ["old", "new", "later"]  # the archive waits for them
        assert await keys(spool, "all", sink="archive") == ["old", "new", "later"]
        assert await keys(spool, "older") == ["old", "later"]
        assert await keys(spool, "live") == []


async def test_a_row_leaves_when_every_sink_has_had_it_in_whatever_order(tmp_path: Path) -> None:
    async with opened(tmp_path, routes={"r": ["cloud", "archive"]}) as spool:
        await spool.commit(work("old"))
        spool.divide("cloud", "r")
        await spool.commit(work("new"))

        await deliver(spool, "live")
        before = on_disk(tmp_path)
        await deliver(spool, "all", sink="archive")

        assert before == ["old", "new"]
        assert on_disk(tmp_path) == ["old"]


async def test_the_position_takes_in_the_ranges_once_the_older_share_is_delivered(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.commit(work("old"))
        spool.divide("cloud", "r")
        await spool.commit(work("new-1"))
        await deliver(spool, "live")
        await spool.commit(work("new-2"))
        await deliver(spool, "live")
        ranges = spool._store.positions._ranges["r", "cloud"]

        await deliver(spool, "older")

        assert len(ranges) == 1
        assert spool._store.positions._ranges["r", "cloud"] == ()
        assert spool._store.positions.get("r", "cloud") == ranges[0][1]


async def test_a_boundary_moves_when_the_live_lease_has_ended(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.commit(work("a", "b"))
        held = await spool.lease("cloud", "r", limit=1, max_bytes=MIB, share="live")
        spool.divide("cloud", "r")

        meanwhile = await keys(spool, "older")
        await spool.nack(held, delay_s=0.0)

        assert meanwhile == []
        assert await keys(spool, "older") == ["a", "b"]


async def test_a_refused_live_result_is_buried_and_the_books_balance(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.commit(work("old"))
        spool.divide("cloud", "r")
        await spool.commit(work("new-1", "new-2"))

        await deliver(spool, "live", refuse="new-2")

        books = await spool.books()
        lines = books.results["r"]["cloud"]
        assert (lines["delivered"], lines["refused"], lines["pending"]) == (1, 1, 1)
        assert books.balanced


async def test_with_many_ranges_apart_the_live_share_goes_on_in_order(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        for n in range(MAX_RANGES + 10):
            await spool.commit(work(f"stays-{n}"))
            spool.divide("cloud", "r")
            await spool.commit(work(f"goes-{n}"))
            if n < MAX_RANGES:
                await deliver(spool, "live")

        live = await keys(spool, "live")

        assert len(spool._store.positions._ranges["r", "cloud"]) == MAX_RANGES
        assert live[:4] == [f"stays-{MAX_RANGES}", f"goes-{MAX_RANGES}", f"stays-{MAX_RANGES + 1}", "goes-65"]


async def test_a_damaged_range_costs_a_second_sending_and_no_result(tmp_path: Path) -> None:
    routes = {"r": ["cloud", "archive"]}
    async with opened(tmp_path, routes=routes) as spool:
        await spool.commit(work("old"))
        spool.divide("cloud", "r")
        await spool.commit(work("new"))
        await deliver(spool, "live")
    connection = apsw.Connection(str(tmp_path / "spool.db"))
    connection.execute("UPDATE ranges SET first = first - 1")
    connection.close()

    async with opened(tmp_path, routes=routes) as spool:
        assert await keys(spool, "older") == ["old", "new"]
        assert (await spool.books()).balanced


async def test_a_sink_that_is_taken_off_a_route_leaves_no_ranges(tmp_path: Path) -> None:
    routes = {"r": ["cloud", "archive"]}
    async with opened(tmp_path, routes=routes) as spool:
        await spool.commit(work("old"))
        spool.divide("cloud", "r")
        await spool.commit(work("new"))
        await deliver(spool, "live")

    async with opened(tmp_path, routes={"r": ["archive"]}, sinks=["archive"]):
        pass

    async with opened(tmp_path, routes=routes) as spool:
        await spool.commit(work("after"))
        assert await keys(spool, "older") == []
        assert await keys(spool, "live") == ["after"]
        assert (await spool.books()).balanced
