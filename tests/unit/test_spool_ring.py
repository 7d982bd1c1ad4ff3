"""`write = "when_offline"`: the books, dead letters, duplicates, a clean stop and a power cut."""

import asyncio
from pathlib import Path

import pytest

from gatewayd.ports import DeadLetter, StoredResult, Work
from gatewayd.spool.policy import RoutePolicy
from gatewayd.spool.reader import SpoolReader
from tests.sim.real_spool import MIB, FakeClock, opened, outcome, raw, result, work
from tests.sim.sparing import SPARING, after_power_cut, deliver, lent, lines, on_disk, settled, sparing


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


async def test_a_route_that_blocks_takes_into_memory_what_the_file_has_room_for_and_writes_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocking = RoutePolicy(write="when_offline", when_full="block")
    async with sparing(tmp_path, policies={"r": blocking}) as spool:
        monkeypatch.setattr(spool._store.cap, "room_bytes", lambda: 300_000)
        taken = [n for n in range(20) if await outcome(spool.commit(work(f"r{n}", size=50_000))) == "stored"]
        assert taken == [0, 1, 2]
        monkeypatch.setattr(spool._store.cap, "room_bytes", lambda: 0)

        await spool.nack(await lent(spool), delay_s=0.0)
        await settled(spool)

        assert (lines(on_disk(tmp_path))["pending"], lines(on_disk(tmp_path))["evicted"]) == (3, 0)


async def test_rows_that_others_put_into_the_file_are_offered(tmp_path: Path) -> None:
    async with sparing(tmp_path) as spool:
        assert await deliver(spool) == []  # so it has looked into the file
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


async def test_rows_that_come_while_the_file_is_read_are_not_missed(tmp_path: Path) -> None:
    async with sparing(tmp_path) as spool:
        route, n_looks = spool.rings.of("r"), 0
        assert route is not None

        async def read_just_before_they_came() -> tuple[StoredResult, ...]:
            nonlocal n_looks
            n_looks += 1
            if n_looks == 1:
                spool.rings.grown("r")
            return ()

        for _ in range(3):
            await route.next_results("cloud", "all", 9, MIB, read_just_before_they_came)

        assert n_looks == 2


async def test_a_message_is_in_the_books_on_disk_when_its_results_have_left_memory(tmp_path: Path) -> None:
    clock = FakeClock()
    patient = RoutePolicy(write="when_offline", write_max_s=3600.0)
    async with sparing(tmp_path, clock=clock, policies={"r": patient}) as spool:
        await spool.commit(work("a", "b"))
        await spool.ack(await lent(spool, limit=1), refused={})
        clock.advance(61.0)
        spool.rings.look()
        await settled(spool)

        assert (on_disk(tmp_path).messages["r"]["received"], lines(on_disk(tmp_path))["delivered"]) == (1, 2)
        assert (await spool.books()).messages["r"]["received"] == 3


async def test_no_more_bytes_are_in_memory_than_one_transaction_may_bring(tmp_path: Path) -> None:
    many = RoutePolicy(write="when_offline", write_max_results=100_000)
    async with sparing(tmp_path, policies={"r": many}, max_bytes=16 * MIB, ballast_bytes=0) as spool:
        for n in range(30):
            await spool.commit(work(f"a{n}", size=100_000))
            assert 100_000 * spool.rings.sizes()["r"] < MIB

        assert await deliver(spool) == [f"a{n}" for n in range(30)]
