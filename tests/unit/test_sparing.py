"""`write = "when_offline"`: what stays in memory, what is written, when, and in which order."""

import asyncio
from pathlib import Path

from gatewayd.ports import DeadLetter, Lease, Work
from gatewayd.spool import SqliteSpool
from gatewayd.spool.policy import RoutePolicy
from tests.sim.real_spool import MIB, FakeClock, opened, work
from tests.sim.sparing import SPARING, deliver, lent, lines, on_disk, settled, sparing


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


async def test_a_work_that_is_written_first_stays_before_those_that_waited_with_it(tmp_path: Path) -> None:
    letter = DeadLetter(route="r", reason="decode", detail="?", topic="t", payload=b"x", time=1.0, key="bad")
    async with sparing(tmp_path) as spool:
        futures = [
            spool.submit(Work(route="r", received=1, dead=[letter])),
            spool.submit(work(*[f"b{n}" for n in range(8)])),
            spool.submit(work("c0", "c1", "c2")),
            spool.submit(work("d")),
        ]
        for future in futures:
            await future

        assert await deliver(spool) == [*[f"b{n}" for n in range(8)], "c0", "c1", "c2", "d"]


async def test_what_is_written_while_it_is_being_sent_is_known_to_be_on_its_way(tmp_path: Path) -> None:
    clock = FakeClock()
    async with sparing(tmp_path, clock=clock) as spool:
        await spool.commit(work("a", "b", "c"))
        lease = await lent(spool, limit=2)
        clock.advance(6.0)
        spool.rings.look()
        await settled(spool)

        (span,) = spool._store.leased.spans("r")  # so that the cap does not take it meanwhile
        assert span[1] - span[0] == 1
        await spool.ack(lease, refused={})
        assert spool._store.leased.spans("r") == []


async def test_one_sink_that_confirms_does_not_stand_for_another_that_is_away(tmp_path: Path) -> None:
    routes = {"r": ["archive", "cloud"], "s": ["cloud"]}
    async with sparing(tmp_path, routes=routes) as spool:
        await spool.commit(work("a", route="s"))
        await spool.nack(await lent(spool, route="s"), delay_s=60.0)
        await spool.commit(work("b"))
        assert await deliver(spool, "archive") == ["b"]
        await settled(spool)

        await spool.commit(work("c"))

        assert spool.rings.sizes() == {"r": 0, "s": 0}
        assert await deliver(spool, "cloud") == ["b", "c"]
        await settled(spool)
        await spool.commit(work("d"))
        assert spool.rings.sizes() == {"r": 1, "s": 0}


async def test_what_is_in_memory_is_of_the_live_share(tmp_path: Path) -> None:
    async with sparing(tmp_path) as spool:
        await spool.commit(work("a"))

        assert await spool.try_lease("cloud", "r", limit=9, max_bytes=MIB, share="older") is None
        lease = await spool.try_lease("cloud", "r", limit=9, max_bytes=MIB, share="live")
        assert lease is not None
        await spool.nack(lease, delay_s=0.0)
        again = await spool.try_lease("cloud", "r", limit=9, max_bytes=MIB, share="live")

        assert again is not None
        assert [stored.key for stored in again.results] == ["a"]
        await spool.ack(again, refused={})
        assert (await spool.books()).balanced
