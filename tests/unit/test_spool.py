"""The promises of the spool, one by one, on a real file."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import apsw
import pytest

from gatewayd.config import schema
from gatewayd.errors import ConfigError, FatalError, SpoolFull
from gatewayd.ports import DeadLetter, NewResult, RawMessage, Work
from gatewayd.spool import SpoolReader, SqliteSpool

MIB = 1024 * 1024


class FakeClock:
    def __init__(self) -> None:
        self.at = 1000.0
        self.sleepers: list[tuple[float, asyncio.Event]] = []

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        event = asyncio.Event()
        self.sleepers.append((self.at + seconds, event))
        await event.wait()

    def advance(self, seconds: float) -> None:
        self.at += seconds
        for due, event in self.sleepers:
            if due <= self.at:
                event.set()


@asynccontextmanager
async def opened(
    folder: Path,
    *,
    routes: Mapping[str, Sequence[str]] | None = None,
    sinks: Sequence[str] | None = None,
    when_full: Mapping[str, str] | None = None,
    clock: FakeClock | None = None,
    events: list[tuple[str, Mapping[str, object]]] | None = None,
    **config: object,
) -> AsyncIterator[SqliteSpool]:
    heard: list[tuple[str, Mapping[str, object]]] = [] if events is None else events
    async with SqliteSpool.open(
        folder / "spool.db",
        routes={"r": ["cloud"]} if routes is None else routes,
        sinks=sinks,
        when_full=when_full or {},
        config=schema.Spool(**config),  # type: ignore[arg-type]
        clock=clock or FakeClock(),
        on_event=lambda name, fields: heard.append((name, fields)),
    ) as spool:
        yield spool


def result(key: str, size: int = 10) -> NewResult:
    return NewResult(key=key, kind="k", subject="t", time=1.0, data=b"x" * size)


def work(*keys: str, route: str = "r", size: int = 10) -> Work:
    n = len(keys)
    return Work(route=route, received=n, handled=n, results=[result(key, size) for key in keys])


def raw(key: str, size: int = 1) -> RawMessage:
    return RawMessage(topic="t", payload=b"p" * size, time=2.0, key=key, qos=1, properties=(("a", "b"),))


async def leased(spool: SqliteSpool, sink: str = "cloud", route: str = "r", limit: int = 100) -> list[str]:
    lease = await spool.try_lease(sink, route, limit=limit, max_bytes=MIB)
    return [] if lease is None else [stored.key for stored in lease.results]


async def _outcome(commit: Awaitable[object]) -> str:
    try:
        await commit
    except SpoolFull:
        return "full"
    return "stored"


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
    async with opened(tmp_path, max_bytes=4 * MIB, when_full={"r": "block"}) as spool:
        answers = [await _outcome(spool.commit(work(str(n), size=20_000))) for n in range(400)]
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
        assert await leased(spool) == ["new"]

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
