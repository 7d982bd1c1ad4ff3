"""The spool: what is acknowledged is there, in order, once, for each sink."""

import asyncio
from pathlib import Path

import pytest

from gatewayd.errors import FatalError
from gatewayd.ports import NewResult, Work
from gatewayd.spool import SpoolReader
from tests.sim.real_spool import MIB, FakeClock, leased, opened, raw, result, work


async def test_results_come_back_in_order_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.commit(work("1", "2"))
        await spool.commit(work("3"))

    async with opened(tmp_path) as spool:
        assert await leased(spool) == ["1", "2", "3"]


async def test_work_that_does_not_balance_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        with pytest.raises(FatalError, match="balance"):
            await spool.commit(Work(route="r", received=2, handled=1, results=[result("1")]))

        assert await leased(spool) == []


async def test_one_operation_that_cannot_be_stored_fails_alone(tmp_path: Path) -> None:
    bad = NewResult(key="bad", kind="k", subject="t", time=1.0, data="not bytes")  # type: ignore[arg-type]
    async with opened(tmp_path) as spool:
        futures = [spool.submit(work("1")), spool.submit(Work(route="r", results=[bad])), spool.submit(work("2"))]
        answers = await asyncio.gather(*futures, return_exceptions=True)

        assert [type(answer) for answer in answers] == [list, FatalError, list]
        assert await leased(spool) == ["1", "2"]
        assert spool.is_healthy
        assert (await spool.books()).balanced


async def test_a_key_that_is_stored_is_not_stored_twice_even_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.commit(work("1", "1"))
    async with opened(tmp_path) as spool:
        await spool.commit(work("1", "2"))

        assert await leased(spool) == ["1", "2"]
        assert (await spool.books()).results["r"]["cloud"]["produced"] == 2


async def test_each_sink_gets_everything_and_rows_go_when_the_last_has_acked(tmp_path: Path) -> None:
    async with opened(tmp_path, routes={"r": ["cloud", "file"]}) as spool:
        await spool.commit(work("1"))
        for sink in ("cloud", "file"):
            lease = await spool.lease(sink, "r", limit=9, max_bytes=MIB)
            with SpoolReader.open(tmp_path / "spool.db") as reader:
                assert reader.status().results == 1
            await spool.ack(lease, refused={})

        with SpoolReader.open(tmp_path / "spool.db") as reader:
            assert reader.status().results == 0


async def test_a_refused_result_is_buried_and_counted(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.commit(work("1", "2"))
        lease = await spool.lease("cloud", "r", limit=9, max_bytes=MIB)

        await spool.ack(lease, refused={"2": "bad field"})

        lines = (await spool.books()).results["r"]["cloud"]
        assert (lines["delivered"], lines["refused"], lines["pending"]) == (1, 1, 0)
        with SpoolReader.open(tmp_path / "spool.db") as reader:
            (letter,) = reader.dead_letters()
        assert (letter.key, letter.sink, letter.detail, letter.payload) == ("2", "cloud", "bad field", b"x" * 10)


async def test_a_lease_waits_for_results(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool, asyncio.timeout(20):
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(spool.lease("cloud", "r", limit=9, max_bytes=MIB))
            await asyncio.sleep(0)
            await spool.commit(work("1"))

        assert [stored.key for stored in waiting.result().results] == ["1"]


async def test_a_lease_that_lapses_is_offered_again_and_its_late_ack_is_ignored(tmp_path: Path) -> None:
    clock = FakeClock()
    async with opened(tmp_path, clock=clock, lease_s=60.0) as spool, asyncio.timeout(20):
        await spool.commit(work("1"))
        first = await spool.lease("cloud", "r", limit=9, max_bytes=MIB)
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(spool.lease("cloud", "r", limit=9, max_bytes=MIB))
            while not clock.sleepers:
                await asyncio.sleep(0)
            clock.advance(60.0)
        second = waiting.result()

        await spool.ack(first, refused={})

        assert (second.attempt, second.results) == (2, first.results)
        assert (await spool.books()).results["r"]["cloud"]["pending"] == 1


async def test_nacked_results_are_due_after_their_delay(tmp_path: Path) -> None:
    clock = FakeClock()
    async with opened(tmp_path, clock=clock) as spool:
        await spool.commit(work("1"))
        await spool.nack(await spool.lease("cloud", "r", limit=9, max_bytes=MIB), delay_s=5.0)

        assert await leased(spool) == []
        clock.advance(5.0)
        assert await leased(spool) == ["1"]


async def test_a_lease_is_bounded_in_bytes_and_has_one_result_at_least(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.commit(work("1", "2", "3", size=1000))

        small = await spool.lease("cloud", "r", limit=9, max_bytes=10)
        await spool.nack(small, delay_s=0)
        larger = await spool.lease("cloud", "r", limit=9, max_bytes=2000)

        assert (len(small.results), len(larger.results)) == (1, 2)


async def test_the_journal_gives_back_what_came_in_and_counts_attempts(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        ids = await spool.commit(Work(route="r", received=2, journal=[raw("1"), raw("2")]))
        await spool.begin("r", ids[:1])
    async with opened(tmp_path) as spool:
        entries = await spool.journal("r", after=0, limit=9)
        await spool.commit(Work(route="r", handled=1, done=ids[:1], results=[result("x")]))

        assert [entry.message for entry in entries] == [raw("1"), raw("2")]
        assert [(entry.id, entry.attempts) for entry in entries] == [(ids[0], 1), (ids[1], 0)]
        assert [entry.id for entry in await spool.journal_get("r", [ids[1], ids[0]])] == [ids[1]]
        assert (await spool.books()).balanced


async def test_a_journal_entry_that_was_never_there_cannot_be_done(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        with pytest.raises(FatalError, match="never there"):
            await spool.commit(Work(route="r", handled=1, done=[12345]))

        assert (await spool.books()).balanced


async def test_identities_are_remembered_over_a_restart_and_bounded(tmp_path: Path) -> None:
    async with opened(tmp_path, seen_messages=2) as spool:
        for n in range(4):
            await spool.commit(Work(route="r", received=1, handled=1, seen=[b"%d" % n]))
    async with opened(tmp_path, seen_messages=2) as spool:
        assert [spool.was_seen(b"%d" % n) for n in range(4)] == [False, False, True, True]


async def test_attempts_are_counted_over_restarts_until_the_message_is_received(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        assert await spool.attempt(b"id") == 1
    async with opened(tmp_path) as spool:
        assert await spool.attempt(b"id") == 2
        await spool.commit(Work(route="r", received=1, handled=1, seen=[b"id"]))
        assert await spool.attempt(b"id") == 1
