"""The spool is bounded: dead letters, the byte cap, what is evicted and given back."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from gatewayd.ports import DeadLetter, Work
from gatewayd.spool import SpoolReader
from gatewayd.spool.policy import RoutePolicy
from tests.sim.real_spool import MIB, leased, opened, outcome, raw, work


async def test_dead_letters_are_bounded_and_the_books_still_count_them(tmp_path: Path) -> None:
    async with opened(tmp_path, max_dead_letters=2) as spool:
        for n in range(5):
            letter = DeadLetter(route="r", reason="decode", detail="d", topic="t", payload=b"p", time=1.0, key=str(n))
            await spool.commit(Work(route="r", received=1, dead=[letter]))

        books = await spool.books()
        assert (books.messages["r"]["dead"], books.n_purged, books.balanced) == (5, 3, True)
        with SpoolReader.open(tmp_path / "spool.db") as reader:
            assert [letter.key for letter in reader.dead_letters()] == ["4", "3"]


async def test_at_the_cap_the_oldest_results_are_evicted_and_counted(tmp_path: Path) -> None:
    events: list[tuple[str, Mapping[str, object]]] = []
    async with opened(tmp_path, max_bytes=4 * MIB, events=events) as spool:
        for n in range(400):
            await spool.commit(work(str(n), size=20_000))

        lines = (await spool.books()).results["r"]["cloud"]
        keys = await leased(spool, limit=1000)
        assert (await spool.books()).balanced
        assert lines["evicted"] > 0
        assert lines["evicted"] == sum(f["n"] for name, f in events if name == "evicted")  # type: ignore[misc]
        assert keys[0] == str(lines["evicted"])
        assert sum(file.stat().st_size for file in tmp_path.glob("spool.db*")) <= 4 * MIB + 64 * 1024


async def test_a_route_that_blocks_is_told_that_the_spool_is_full_and_goes_on_when_it_is_drained(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, max_bytes=4 * MIB, policies={"r": RoutePolicy(when_full="block")}) as spool:
        answers = [await outcome(spool.commit(work(str(n), size=20_000))) for n in range(400)]
        assert (answers[0], answers[-1]) == ("stored", "full")
        assert (await spool.books()).results["r"]["cloud"]["evicted"] == 0

        lease = await spool.lease("cloud", "r", limit=50, max_bytes=50 * MIB)
        await spool.ack(lease, refused={})

        await spool.commit(work("again", size=20_000))
        assert (await spool.books()).balanced


async def test_a_work_larger_than_the_cap_is_taken_and_what_does_not_fit_is_evicted(tmp_path: Path) -> None:
    async with opened(tmp_path, max_bytes=4 * MIB) as spool:
        await spool.commit(work(*map(str, range(50)), size=200_000))

        lines = (await spool.books()).results["r"]["cloud"]
        assert lines["evicted"] + lines["pending"] == 50
        lease = await spool.lease("cloud", "r", limit=100, max_bytes=64 * MIB)
        assert lease.results[-1].key == "49"


async def test_an_evicted_journal_entry_that_is_answered_after_all_counts_as_handled(tmp_path: Path) -> None:
    async with opened(tmp_path, max_bytes=4 * MIB) as spool:
        (first, *_) = await spool.commit(Work(route="r", received=1, journal=[raw("first", 20_000)]))
        for n in range(400):
            await spool.commit(Work(route="r", received=1, journal=[raw(str(n), 20_000)]))
        assert await spool.journal_get("r", [first]) == []

        await spool.commit(Work(route="r", handled=1, done=[first]))

        books = await spool.books()
        assert (books.messages["r"]["handled"], books.balanced) == (1, True)


async def test_a_file_gets_smaller_after_a_drain(tmp_path: Path) -> None:
    async with opened(tmp_path, max_bytes=64 * MIB) as spool, asyncio.timeout(30):
        for n in range(40):
            await spool.commit(work(*(f"{n}-{i}" for i in range(10)), size=20_000))
        lease = await spool.lease("cloud", "r", limit=1000, max_bytes=64 * MIB)
        await spool.ack(lease, refused={})

        while (tmp_path / "spool.db").stat().st_size > MIB:
            await asyncio.sleep(0.05)


async def test_a_work_larger_than_the_wals_reserve_does_not_overdraw_the_cap(tmp_path: Path) -> None:
    async with opened(tmp_path, max_bytes=4 * MIB) as spool:
        for n in range(200):
            await spool.commit(work(str(n), size=20_000))
        for n in range(3):
            await spool.commit(work(*(f"{n}-{i}" for i in range(80)), size=20_000))

            assert sum(file.stat().st_size for file in tmp_path.glob("spool.*")) <= 4 * MIB

        assert (await spool.books()).balanced
        lease = await spool.lease("cloud", "r", limit=1000, max_bytes=64 * MIB)
        assert lease.results[-1].key == "2-79"
