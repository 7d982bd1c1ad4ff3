"""What is being sent now is known, and only that."""

import asyncio
from pathlib import Path

from tests.sim.real_spool import MIB, FakeClock, opened, work


async def test_the_rows_of_a_lease_are_in_flight_until_it_is_acked(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.commit(work("a", "b", "c"))
        before = spool._store.in_flight("r")

        lease = await spool.lease("cloud", "r", limit=2, max_bytes=MIB)
        held = spool._store.in_flight("r")
        spans = spool._store.leased.spans("r")
        await spool.ack(lease, refused={})

        assert before == 0
        assert held == lease.results[-1].row
        assert spans == [(lease.results[0].row, lease.results[-1].row)]
        assert spool._store.in_flight("r") == 0


async def test_a_nack_ends_it_too(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.commit(work("a"))
        lease = await spool.lease("cloud", "r", limit=2, max_bytes=MIB)

        await spool.nack(lease, delay_s=5.0)

        assert spool._store.in_flight("r") == 0


async def test_a_lease_that_lapsed_and_is_not_there_any_more_is_not_in_flight(tmp_path: Path) -> None:
    clock = FakeClock()
    async with opened(tmp_path, clock=clock, lease_s=100.0) as spool:
        await spool.commit(work("a", "b"))
        await spool.lease("cloud", "r", limit=2, max_bytes=MIB)
        clock.advance(101.0)

        again = await spool.lease("cloud", "r", limit=1, max_bytes=MIB)

        assert spool._store.leased.spans("r") == [(again.results[0].row, again.results[0].row)]


async def test_of_several_sinks_the_highest_row_counts(tmp_path: Path) -> None:
    async with opened(tmp_path, routes={"r": ["cloud", "archive"]}) as spool:
        await spool.commit(work("a", "b", "c"))

        await spool.lease("cloud", "r", limit=1, max_bytes=MIB)
        far = await spool.lease("archive", "r", limit=3, max_bytes=MIB)

        assert spool._store.in_flight("r") == far.results[-1].row


async def test_a_lease_that_nobody_waits_for_any_more_is_not_in_flight(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.commit(work("a"))
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(spool.lease("cloud", "r", limit=1, max_bytes=MIB))
            await asyncio.sleep(0)  # the read is on its way

            waiting.cancel()

        await spool.ping()
        assert spool._store.in_flight("r") == 0
