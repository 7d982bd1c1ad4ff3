"""`write = "when_offline"`: what stays in memory, what is written and when, and that nothing else is lost."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gatewayd.errors import SpoolFull
from gatewayd.ports import DeadLetter, Lease, Work
from gatewayd.spool import SqliteSpool
from gatewayd.spool.books import Books
from gatewayd.spool.policy import RoutePolicy
from gatewayd.spool.reader import SpoolReader
from tests.sim.real_spool import MIB, FakeClock, opened, outcome, raw, result, work

SPARING = RoutePolicy(write="when_offline", write_max_s=5.0, write_max_results=10)


@asynccontextmanager
async def sparing(folder: Path, **wishes: Any) -> AsyncIterator[SqliteSpool]:
    """A spool whose route `r` spares flash and whose sinks have confirmed one result."""
    wishes.setdefault("routes", {"r": ["cloud"]})
    wishes.setdefault("policies", dict.fromkeys(wishes["routes"], SPARING))
    async with opened(folder, **wishes) as spool:
        for route, sinks in wishes["routes"].items():
            await spool.commit(work(f"first-{route}", route=route))
            for sink in sinks:
                await deliver(spool, sink, route)
        await settled(spool)
        yield spool


async def settled(spool: SqliteSpool) -> None:
    """What the last call has set off is done."""
    for _ in range(3):
        await spool.ping()


async def lent(spool: SqliteSpool, sink: str = "cloud", route: str = "r", limit: int = 100) -> Lease:
    lease = await spool.try_lease(sink, route, limit=limit, max_bytes=MIB)
    assert lease is not None
    return lease


async def deliver(spool: SqliteSpool, sink: str = "cloud", route: str = "r", limit: int = 100) -> list[str]:
    """All that the sink is offered until nothing is left."""
    keys = []
    while lease := await spool.try_lease(sink, route, limit=limit, max_bytes=MIB):
        keys += [stored.key for stored in lease.results]
        await spool.ack(lease, refused={})
    return keys


def on_disk(folder: Path) -> Books:
    with SpoolReader.open(folder / "spool.db") as reader:
        return reader.books()


def lines(books: Books, sink: str = "cloud", route: str = "r") -> Mapping[str, int]:
    return books.results[route][sink]


@asynccontextmanager
async def after_power_cut(folder: Path) -> AsyncIterator[SqliteSpool]:
    """The same spool as it would be found now, had the power been cut."""
    there = folder / "cut"
    there.mkdir()
    for name in ("spool.db", "spool.db-wal"):
        if (folder / name).exists():
            shutil.copy(folder / name, there / name)
    async with opened(there, policies={"r": SPARING}) as spool:
        yield spool


async def test_results_stay_off_the_disk_while_the_sink_confirms(tmp_path: Path) -> None:
    async with sparing(tmp_path) as spool:
        before = on_disk(tmp_path)

        await spool.commit(work("a", "b"))
        await spool.commit(work("c"))
        keys = await deliver(spool, limit=2)

        assert keys == ["a", "b", "c"]
        assert on_disk(tmp_path) == before
        books = await spool.books()
        assert (books.messages["r"]["received"], lines(books)["delivered"]) == (4, 4)
        assert books.balanced


async def test_at_the_start_results_are_written(tmp_path: Path) -> None:
    async with opened(tmp_path, policies={"r": SPARING}) as spool:
        await spool.commit(work("a"))

        assert lines(on_disk(tmp_path))["pending"] == 1


async def test_a_sink_that_is_away_makes_it_write_all_in_order(tmp_path: Path) -> None:
    async with sparing(tmp_path) as spool:
        await spool.commit(work("a", "b"))
        lease = await lent(spool, limit=1)
        await spool.commit(work("c"))

        await spool.nack(lease, delay_s=0.0)
        await spool.commit(work("d"))

        assert lines(on_disk(tmp_path))["pending"] == 4
        assert await deliver(spool) == ["a", "b", "c", "d"]
        assert (await spool.books()).balanced


async def test_it_goes_back_to_memory_when_the_sink_has_caught_up(tmp_path: Path) -> None:
    async with sparing(tmp_path) as spool:
        await spool.commit(work("a"))
        await spool.nack(await lent(spool), delay_s=0.0)
        assert await deliver(spool) == ["a"]
        await settled(spool)

        await spool.commit(work("b"))

        assert lines(on_disk(tmp_path))["pending"] == 0
        assert spool.rings.sizes() == {"r": 1}
        assert await deliver(spool) == ["b"]


async def test_new_results_stay_in_memory_behind_the_last_rows_of_the_file(tmp_path: Path) -> None:
    async with sparing(tmp_path) as spool:
        await spool.commit(work("a", "b", "c"))
        await spool.nack(await lent(spool), delay_s=0.0)
        await spool.ack(await lent(spool, limit=1), refused={})
        await settled(spool)

        await spool.commit(work("d"))

        assert spool.rings.sizes() == {"r": 1}
        assert await deliver(spool, limit=2) == ["b", "c", "d"]


async def test_a_route_far_behind_writes_on(tmp_path: Path) -> None:
    async with sparing(tmp_path) as spool:
        await spool.nack(await lent_after(spool, "a"), delay_s=0.0)
        await spool.commit(work(*[f"b{n}" for n in range(300)]))
        await spool.ack(await lent(spool, limit=1), refused={})
        await settled(spool)

        await spool.commit(work("c"))

        assert spool.rings.sizes() == {"r": 0}


async def lent_after(spool: SqliteSpool, *keys: str) -> Lease:
    await spool.commit(work(*keys))
    return await lent(spool)


async def test_a_result_is_written_before_its_time_is_over(tmp_path: Path) -> None:
    clock = FakeClock()
    async with sparing(tmp_path, clock=clock) as spool:
        await spool.commit(work("a"))
        clock.advance(3.9)
        spool.rings.look()
        assert lines(on_disk(tmp_path))["pending"] == 0

        clock.advance(0.2)
        spool.rings.look()
        await settled(spool)

        assert lines(on_disk(tmp_path))["pending"] == 1


async def test_the_alarm_rings_by_itself(tmp_path: Path) -> None:
    clock = FakeClock()
    quick = RoutePolicy(write="when_offline", write_max_s=0.05)
    async with sparing(tmp_path, clock=clock, policies={"r": quick}) as spool:
        await spool.commit(work("a"))
        clock.advance(1.0)

        while spool.rings.sizes() != {"r": 0}:
            await asyncio.sleep(0.01)

        assert lines(on_disk(tmp_path))["pending"] == 1


async def test_no_more_results_than_allowed_are_in_memory(tmp_path: Path) -> None:
    async with sparing(tmp_path) as spool:
        await spool.commit(work(*[f"a{n}" for n in range(10)]))
        assert spool.rings.sizes() == {"r": 10}

        await spool.commit(work("b"))

        assert spool.rings.sizes() == {"r": 0}
        assert lines(on_disk(tmp_path))["pending"] == 11
        assert await deliver(spool) == [*[f"a{n}" for n in range(10)], "b"]


async def test_works_that_come_while_it_is_written_keep_their_order(tmp_path: Path) -> None:
    async with sparing(tmp_path) as spool:
        await spool.commit(work("a"))
        lease = await lent(spool)
        await spool.nack(lease, delay_s=0.0)

        futures = [spool.submit(work(key)) for key in "bcd"]
        for future in futures:
            await future

        assert await deliver(spool) == ["a", "b", "c", "d"]
        assert (await spool.books()).balanced


async def test_what_was_written_while_it_was_being_sent_is_not_sent_again(tmp_path: Path) -> None:
    clock = FakeClock()
    async with sparing(tmp_path, clock=clock) as spool:
        await spool.commit(work("a", "b", "c"))
        lease = await lent(spool, limit=2)
        clock.advance(6.0)
        spool.rings.look()
        await settled(spool)

        await spool.ack(lease, refused={})

        assert await deliver(spool) == ["c"]
        assert lines(on_disk(tmp_path))["delivered"] == 4
        assert on_disk(tmp_path).balanced


async def test_an_ack_in_the_middle_of_a_spill_waits_for_it(tmp_path: Path) -> None:
    clock = FakeClock()
    async with sparing(tmp_path, clock=clock) as spool:
        await spool.commit(work("a", "b"))
        lease = await lent(spool, limit=1)
        clock.advance(6.0)
        spool.rings.look()

        await spool.ack(lease, refused={})

        assert await deliver(spool) == ["b"]
        assert (await spool.books()).balanced


async def test_a_lease_that_lapses_is_offered_again_from_the_file(tmp_path: Path) -> None:
    clock = FakeClock()
    async with sparing(tmp_path, clock=clock, lease_s=2.0) as spool:
        await spool.commit(work("a"))
        old = await lent(spool)
        clock.advance(2.5)

        new = await lent(spool)

        assert [stored.key for stored in new.results] == ["a"]
        assert new.attempt == 2
        await spool.ack(old, refused={})
        assert lines(on_disk(tmp_path))["pending"] == 1
        await spool.ack(new, refused={})
        assert (await spool.books()).balanced


async def test_a_result_is_kept_until_every_sink_has_it(tmp_path: Path) -> None:
    async with sparing(tmp_path, routes={"r": ["archive", "cloud"]}) as spool:
        await spool.commit(work("a", "b"))

        assert await deliver(spool, "cloud") == ["a", "b"]
        assert spool.rings.sizes() == {"r": 2}
        assert spool.rings.pending() == {"archive": 2, "cloud": 0}
        assert await deliver(spool, "archive") == ["a", "b"]
        assert spool.rings.sizes() == {"r": 0}
        assert (await spool.books()).balanced


async def test_a_sink_is_not_offered_again_what_is_written_for_another(tmp_path: Path) -> None:
    async with sparing(tmp_path, routes={"r": ["archive", "cloud"]}) as spool:
        await spool.commit(work("a", "b", "c"))
        await spool.ack(await lent(spool, "cloud", limit=2), refused={})
        await spool.nack(await lent(spool, "archive"), delay_s=0.0)
        await settled(spool)

        assert lines(on_disk(tmp_path), "archive")["pending"] == 3
        assert lines(on_disk(tmp_path), "cloud")["pending"] == 1
        assert on_disk(tmp_path).balanced
        assert await deliver(spool, "cloud") == ["c"]
        assert await deliver(spool, "archive") == ["a", "b", "c"]


async def test_a_sink_that_fails_another_route_makes_this_one_write_too(tmp_path: Path) -> None:
    routes = {"r": ["cloud"], "s": ["cloud"]}
    async with sparing(tmp_path, routes=routes) as spool:
        await spool.commit(work("a"))
        await spool.commit(work("b", route="s"))

        await spool.nack(await lent(spool, route="s"), delay_s=0.0)
        await settled(spool)

        assert spool.rings.sizes() == {"r": 0, "s": 0}
        assert lines(on_disk(tmp_path))["pending"] == 1


async def test_what_a_sink_refuses_is_a_dead_letter_on_disk(tmp_path: Path) -> None:
    async with sparing(tmp_path) as spool:
        await spool.commit(work("a", "b", "c"))

        await spool.ack(await lent(spool), refused={"b": "no such field"})

        with SpoolReader.open(tmp_path / "spool.db") as reader:
            assert [letter.key for letter in reader.dead_letters()] == ["b"]
        assert (lines(on_disk(tmp_path))["refused"], lines(on_disk(tmp_path))["delivered"]) == (1, 3)
        assert on_disk(tmp_path).balanced


async def test_a_dead_letter_goes_to_disk_and_the_results_beside_it_stay(tmp_path: Path) -> None:
    letter = DeadLetter(route="r", reason="decode", detail="?", topic="t", payload=b"x", time=1.0, key="bad")
    async with sparing(tmp_path) as spool:
        await spool.commit(Work(route="r", received=2, handled=1, results=[result("a")], dead=[letter]))

        assert spool.rings.sizes() == {"r": 1}
        assert on_disk(tmp_path).messages["r"]["dead"] == 1
        assert on_disk(tmp_path).messages["r"]["received"] == 2
        assert on_disk(tmp_path).balanced
        assert (await spool.books()).messages["r"]["received"] == 3


async def test_a_raw_message_for_the_journal_is_written_with_all_before_it(tmp_path: Path) -> None:
    async with sparing(tmp_path) as spool:
        await spool.commit(work("a"))

        ids = await spool.commit(Work(route="r", received=1, journal=[raw("m")]))

        assert len(ids) == 1
        assert lines(on_disk(tmp_path))["pending"] == 1
        assert on_disk(tmp_path).messages["r"]["journaled"] == 1


@pytest.mark.parametrize("is_written", [False, True])
@pytest.mark.parametrize("is_delivered", [False, True])
async def test_a_key_that_was_there_is_not_taken_twice(tmp_path: Path, is_written: bool, is_delivered: bool) -> None:
    async with sparing(tmp_path) as spool:
        await spool.commit(work("a"))
        if is_delivered:
            await deliver(spool)
        if is_written:
            await spool.commit(work("b"))
            await spool.nack(await lent(spool), delay_s=0.0)

        await spool.commit(Work(route="r", results=[result("a"), result("first-r")]))

        keys = await deliver(spool)
        assert keys.count("a") == (not is_delivered)
        assert "first-r" not in keys


async def test_an_identity_is_known_at_once_and_after_a_clean_stop(tmp_path: Path) -> None:
    async with sparing(tmp_path) as spool:
        await spool.commit(Work(route="r", received=1, handled=1, results=[result("a")], seen=[b"id"]))
        assert spool.was_seen(b"id")

    async with opened(tmp_path, policies={"r": SPARING}) as spool:
        assert spool.was_seen(b"id")


async def test_a_clean_stop_writes_everything(tmp_path: Path) -> None:
    async with sparing(tmp_path) as spool:
        await spool.commit(work("a", "b"))
        await spool.ack(await lent(spool, limit=1), refused={})

    books = on_disk(tmp_path)
    assert (lines(books)["produced"], lines(books)["delivered"], lines(books)["pending"]) == (3, 2, 1)
    assert books.messages["r"]["received"] == 3
    assert books.balanced
    async with opened(tmp_path, policies={"r": SPARING}) as spool:
        assert await deliver(spool) == ["b"]


async def test_a_power_cut_takes_the_ring_from_both_sides_of_the_books(tmp_path: Path) -> None:
    async with sparing(tmp_path) as spool:
        await spool.commit(work("a"))
        await deliver(spool)
        await spool.commit(work("b"))

        async with after_power_cut(tmp_path) as other:
            books = await other.books()
            assert books.balanced
            assert (books.messages["r"]["received"], lines(books)["produced"]) == (1, 1)
            assert await deliver(other) == []


async def test_what_was_written_survives_a_power_cut_in_order(tmp_path: Path) -> None:
    async with sparing(tmp_path) as spool:
        await spool.commit(work("a", "b"))
        await spool.nack(await lent(spool), delay_s=60.0)
        await spool.commit(work("c"))

        async with after_power_cut(tmp_path) as other:
            assert await deliver(other) == ["a", "b", "c"]
            assert (await other.books()).balanced


async def test_the_books_on_disk_follow_every_minute(tmp_path: Path) -> None:
    clock = FakeClock()
    async with sparing(tmp_path, clock=clock) as spool:
        await spool.commit(work("a"))
        await deliver(spool)
        clock.advance(61.0)

        spool.rings.look()
        await settled(spool)

        assert lines(on_disk(tmp_path))["delivered"] == 2
        assert on_disk(tmp_path).messages["r"]["handled"] == 2
        assert (await spool.books()) == on_disk(tmp_path)


async def test_a_route_that_blocks_takes_no_more_into_memory_than_the_file_has_room_for(tmp_path: Path) -> None:
    policies = {"r": RoutePolicy(write="when_offline", when_full="block"), "s": RoutePolicy(when_full="block")}
    routes = {"r": ["cloud"], "s": ["cloud"]}
    async with sparing(tmp_path, routes=routes, policies=policies, max_bytes=16 * MIB, ballast_bytes=0) as spool:
        while await outcome(spool.commit(work(f"s{spool.used_bytes}", route="s", size=500_000))) == "stored":
            pass
        await spool.commit(work("small"))

        with pytest.raises(SpoolFull):
            await spool.commit(work("large", size=800_000))

        assert await deliver(spool) == ["small"]
        assert (await spool.books()).balanced


async def test_rows_that_others_put_into_the_file_are_offered(tmp_path: Path) -> None:
    async with sparing(tmp_path) as spool:
        await spool.commit(work("a"))
        late = Work(route="r", results=[result("late")])
        await spool._do(lambda: spool._store.apply(late))  # as a loss report or a requeued letter is

        assert sorted(await deliver(spool)) == ["a", "late"]
        assert (await spool.books()).balanced


async def test_who_waits_for_a_lease_is_woken_without_the_disk(tmp_path: Path) -> None:
    async with sparing(tmp_path) as spool:
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(spool.lease("cloud", "r", limit=9, max_bytes=MIB), name="waiting")
            await settled(spool)
            await spool.commit(work("a"))

        assert [stored.key for stored in waiting.result().results] == ["a"]
        assert lines(on_disk(tmp_path))["produced"] == 1
