"""Orders that a command gives: dead letters come back, rows are given up, and the books go along."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import apsw
import pytest

from gatewayd.errors import GatewaydError
from gatewayd.events import event_json
from gatewayd.ports import DeadLetter, NewResult, Work
from gatewayd.results import MAX_DEAD_PAYLOAD
from gatewayd.spool import SqliteSpool
from gatewayd.spool.browse import Browser, Pick, Row
from gatewayd.spool.orders import Answer, Desk, Orders, OrderUnansweredError, write_order
from gatewayd.spool.policy import RoutePolicy
from gatewayd.spool.reader import SpoolReader
from gatewayd.spool.store import Store
from tests.sim.real_spool import MIB, leased, opened, raw, work

ROUTES = {"r": ["cloud", "backup"], "s": ["cloud"]}


def letter(key: str, route: str = "r", **more: object) -> DeadLetter:
    fields = {"reason": "decode", "detail": "d", "topic": "t", "payload": b"91", "time": 2.0, **more}
    return DeadLetter(route=route, key=key, properties=(("a", "b"),), **fields)  # type: ignore[arg-type]


async def bury(spool: SqliteSpool, *letters: DeadLetter) -> None:
    for one in letters:
        await spool.commit(Work(route=one.route, received=1, dead=[one]))


def answered(*keys: str, route: str = "r") -> Work:
    results = [NewResult(key=key, kind="k", subject="t", time=1.0625, data=b'{"label":"hot"}') for key in keys]
    return Work(route=route, received=len(keys), handled=len(keys), results=results)


async def refuse(spool: SqliteSpool, sink: str, *keys: str, route: str = "r") -> None:
    """The sink takes what it is offered, but for these."""
    spool._refused_payload = partial(event_json, gateway="g")
    lease = await spool.try_lease(sink, route, limit=100, max_bytes=MIB)
    assert lease is not None
    await spool.ack(lease, refused=dict.fromkeys(keys, "no"))


async def give(spool: SqliteSpool, folder: Path, what: str, pick: Pick) -> Answer:
    """As a command in another process does."""
    desk = Desk(folder / "spool.db")
    try:
        give_it = partial(desk.give, what, pick, wait_s=20, progress=lambda _: None)  # type: ignore[arg-type]
        answer: Answer = await asyncio.to_thread(give_it)
        return answer
    finally:
        desk.close()


def rows(folder: Path, **pick: object) -> list[Row]:
    with SpoolReader.open(folder / "spool.db") as reader:
        return list(Browser(reader.connection).rows(Pick(**pick)))  # type: ignore[arg-type]


async def test_a_message_comes_back_into_the_journal_as_it_was(tmp_path: Path) -> None:
    events: list[tuple[str, Mapping[str, object]]] = []
    async with opened(tmp_path, routes=ROUTES, events=events) as spool:
        await bury(spool, letter("1"), letter("2", content_type="text/plain"), letter("3", "s"))

        answer = await give(spool, tmp_path, "requeue", Pick(table="dead", route="r"))

        assert answer == Answer(n=2)
        one, two = await spool.journal("r", after=0, limit=10)
        assert (one.message.key, one.message.payload, one.message.properties) == ("1", b"91", (("a", "b"),))
        assert (two.message.content_type, two.message.time, two.attempts) == ("text/plain", 2.0, 0)
        books = await spool.books()
        assert books.balanced
        assert (books.messages["r"]["journaled"], books.messages["r"]["dead"], books.messages["s"]["dead"]) == (2, 0, 1)
        assert ("requeued", {"route": "r", "n": 2}) in events


async def test_a_refused_result_goes_to_that_sink_alone_and_keeps_its_key(tmp_path: Path) -> None:
    async with opened(tmp_path, routes=ROUTES) as spool:
        await spool.commit(answered("1", "2", "3"))
        await refuse(spool, "cloud", "2")
        before = await spool.try_lease("backup", "r", limit=2, max_bytes=MIB)
        assert before is not None
        await spool.ack(before, refused={})

        answer = await give(spool, tmp_path, "requeue", Pick(table="dead", sink="cloud"))

        assert answer == Answer(n=1)
        lease = await spool.try_lease("cloud", "r", limit=10, max_bytes=MIB)
        assert lease is not None
        (again,) = lease.results
        assert (again.key, again.kind, again.subject, again.time, again.data) == (
            "2",
            "k",
            "t",
            1.0625,
            b'{"label":"hot"}',
        )
        assert await leased(spool, "backup") == ["3"]
        books = await spool.books()
        assert books.balanced
        assert (books.results["r"]["cloud"]["refused"], books.results["r"]["cloud"]["pending"]) == (0, 1)
        assert books.results["r"]["backup"]["produced"] == 3


async def test_a_result_may_be_refused_and_brought_back_again(tmp_path: Path) -> None:
    async with opened(tmp_path, routes=ROUTES) as spool:
        await spool.commit(answered("1", route="s"))
        for _ in range(2):
            await refuse(spool, "cloud", "1", route="s")
            assert (await give(spool, tmp_path, "requeue", Pick(table="dead"))).n == 1
        await refuse(spool, "cloud", route="s")

        books = await spool.books()
        assert (books.balanced, books.results["s"]["cloud"]["delivered"]) == (True, 1)
        assert rows(tmp_path, table="results") == []


@pytest.mark.parametrize(
    ("left", "why"),
    [
        (letter("1", payload=b"x" * MAX_DEAD_PAYLOAD), "its payload is cut: a dead letter keeps 65,536 bytes at most"),
        (letter("1", reason="damaged"), "it is damaged: what the disk gave back is not what was written"),
        (letter("1", "gone"), "there is no route gone in the config any more"),
        (letter("1", sink="gone"), "route r does not go to sink gone any more"),
        (letter("1", sink="cloud", payload=b"{}"), "it does not hold the result as it was sent"),
    ],
)
async def test_what_cannot_be_brought_back_stays_and_is_said(tmp_path: Path, left: DeadLetter, why: str) -> None:
    async with opened(tmp_path, routes={**ROUTES, "gone": ["cloud"]}) as spool:
        await bury(spool, left)
    async with opened(tmp_path, routes=ROUTES, sinks=["cloud", "backup"]) as spool:
        answer = await give(spool, tmp_path, "requeue", Pick(table="dead", ids=(1, 7)))

        assert answer == Answer(n=0, left={why: 1}, examples={why: "d:1"})
        assert len(rows(tmp_path, table="dead")) == 1
        assert (await spool.books()).balanced


async def test_a_flood_of_letters_is_brought_back_in_order_over_many_steps(tmp_path: Path) -> None:
    keys = [str(n) for n in range(2500)]
    async with opened(tmp_path, routes=ROUTES) as spool:
        await spool.commit(Work(route="r", received=2500, dead=[letter(key) for key in keys]))

        answer = await give(spool, tmp_path, "requeue", Pick(table="dead"))

        assert answer == Answer(n=2500)
        assert [entry.message.key for entry in await spool.journal("r", after=0, limit=3000)] == keys
        assert (await spool.books()).balanced


async def test_dead_letters_are_purged_and_stay_counted(tmp_path: Path) -> None:
    async with opened(tmp_path, routes=ROUTES) as spool:
        await bury(spool, letter("old", time=5.0), letter("new", time=50.0), letter("other", reason="late", time=5.0))

        answer = await give(spool, tmp_path, "purge", Pick(table="dead", reason="decode", before=10.0))

        assert answer == Answer(n=1)
        assert [row.id for row in rows(tmp_path, table="dead")] == ["d:2", "d:3"]
        books = await spool.books()
        assert (books.balanced, books.messages["r"]["dead"], books.n_purged) == (True, 3, 1)


async def test_results_are_given_up_for_one_sink(tmp_path: Path) -> None:
    async with opened(tmp_path, routes=ROUTES) as spool:
        await spool.commit(work("1", "2", "3"))

        answer = await give(spool, tmp_path, "purge", Pick(table="results", route="r", sink="backup"))

        assert answer == Answer(n=3)
        assert await leased(spool, "backup") == []
        assert await leased(spool, "cloud") == ["1", "2", "3"]
        books = await spool.books()
        assert books.balanced
        assert books.reasons["results/r/backup/evicted"] == {"purged": 3}


async def test_what_is_being_sent_is_not_given_up(tmp_path: Path) -> None:
    async with opened(tmp_path, routes=ROUTES) as spool:
        await spool.commit(work("1", "2", "3", "4", route="s"))
        lease = await spool.try_lease("cloud", "s", limit=2, max_bytes=MIB)
        assert lease is not None

        bulk = await give(spool, tmp_path, "purge", Pick(table="results", route="s"))
        single = await give(spool, tmp_path, "purge", Pick(table="results", ids=(1,)))

        assert bulk == Answer(n=2, left={"being sent now": 2})
        assert single == Answer(n=0, left={"being sent now": 1}, examples={"being sent now": "r:1"})
        await spool.ack(lease, refused={})
        lines = (await spool.books()).results["s"]["cloud"]
        assert (lines["delivered"], lines["evicted"], lines["pending"]) == (2, 2, 0)
        assert rows(tmp_path, table="results") == []


async def test_single_results_are_given_up_for_all_sinks_or_one(tmp_path: Path) -> None:
    async with opened(tmp_path, routes=ROUTES) as spool:
        await spool.commit(work("1", "2", "3"))

        everywhere = await give(spool, tmp_path, "purge", Pick(table="results", ids=(2, 99)))
        for_one = await give(spool, tmp_path, "purge", Pick(table="results", ids=(1,), sink="cloud"))

        assert (everywhere, for_one) == (Answer(n=1), Answer(n=1))
        assert await leased(spool, "cloud") == ["3"]
        assert await leased(spool, "backup") == ["1", "3"]
        assert (await spool.books()).balanced


async def test_a_message_that_was_given_up_while_it_was_handled_counts_as_handled(tmp_path: Path) -> None:
    async with opened(tmp_path, routes=ROUTES) as spool:
        one, _ = await spool.commit(Work(route="r", received=2, journal=[raw("1"), raw("2")]))

        assert await give(spool, tmp_path, "purge", Pick(table="journal", ids=(1, 2))) == Answer(n=2)
        assert (await spool.books()).reasons["messages/r/evicted"] == {"purged": 2}
        await spool.commit(Work(route="r", handled=1, done=[one]))

        books = await spool.books()
        assert books.balanced
        assert (books.messages["r"]["handled"], books.messages["r"]["evicted"]) == (1, 1)


async def test_the_messages_of_one_route_are_given_up(tmp_path: Path) -> None:
    async with opened(tmp_path, routes=ROUTES) as spool:
        for route in ROUTES:
            journal = [raw(f"{route}-{n}") for n in range(1100)]
            await spool.commit(Work(route=route, received=1100, journal=journal))

        answer = await give(spool, tmp_path, "purge", Pick(table="journal", route="r"))

        assert answer == Answer(n=1100)
        assert (rows(tmp_path, table="journal", route="r"), len(rows(tmp_path, table="journal"))) == ([], 1100)
        books = await spool.books()
        assert (books.balanced, books.reasons["messages/r/evicted"]) == (True, {"purged": 1100})


async def test_a_full_spool_that_says_block_answers_in_words_and_changes_nothing(tmp_path: Path) -> None:
    policies = {"r": RoutePolicy(when_full="block")}
    async with opened(tmp_path, routes=ROUTES, policies=policies, max_bytes=16 * MIB, ballast_bytes=0) as spool:
        await bury(spool, letter("dead", payload=b"x" * 60000))
        await fill(spool)

        answer = await give(spool, tmp_path, "requeue", Pick(table="dead"))

        assert (answer.n, "leaves no room" in answer.error) == (0, True)
        books = await spool.books()
        assert (books.balanced, books.messages["r"]["dead"]) == (True, 1)


async def fill(spool: SqliteSpool) -> None:
    for n in range(1000):
        try:
            await spool.commit(work(f"fill-{n}", size=30000))
        except GatewaydError:
            return
    raise AssertionError("it is not full")


def in_words(path: Path) -> list[tuple[str, str | None]]:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return connection.execute("SELECT what, answer FROM orders ORDER BY id").fetchall()
    finally:
        connection.close()


async def test_an_order_that_nobody_has_carried_out_is_there_at_the_next_start(tmp_path: Path) -> None:
    async with opened(tmp_path, routes=ROUTES) as spool:
        await bury(spool, letter("1"))
    desk = Desk(tmp_path / "spool.db")
    with pytest.raises(OrderUnansweredError, match="the daemon has done nothing about the order for 0 s"):
        desk.give("requeue", Pick(table="dead"), wait_s=0, progress=lambda _: None)
    desk.close()

    async with opened(tmp_path, routes=ROUTES) as spool:
        await eventually(lambda: in_words(tmp_path / "spool.db")[0][1] is not None)

        assert len(await spool.journal("r", after=0, limit=10)) == 1


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.05)


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[apsw.Connection]:
    """A connection of its own to a spool that nobody else has open."""
    async with opened(tmp_path, routes=ROUTES):
        pass
    connection = apsw.Connection(str(tmp_path / "spool.db"))
    yield connection
    connection.close()


def test_finished_orders_are_forgotten_and_their_ids_are_not_used_again(connection: apsw.Connection) -> None:
    chore = Orders(cast("Store", SimpleNamespace(connection=connection)), {}, ROUTES)
    for _ in range(100):
        write_order(connection, "purge", Pick(table="dead"))
        assert chore.is_due(0.0)
        chore.run()

    ids = [row for (row,) in connection.execute("SELECT id FROM orders ORDER BY id")]
    assert (len(ids), ids[-1]) == (64, 100)


def test_too_many_orders_are_turned_away(connection: apsw.Connection) -> None:
    for _ in range(64):
        write_order(connection, "purge", Pick(table="dead"))

    with pytest.raises(GatewaydError, match="64 orders wait in the spool already: does the daemon run"):
        write_order(connection, "purge", Pick(table="dead"))


async def test_a_refused_result_comes_back_to_a_route_that_spares_flash(tmp_path: Path) -> None:
    policies = {"s": RoutePolicy(write="when_offline")}
    async with opened(tmp_path, routes=ROUTES, policies=policies) as spool:
        await spool.commit(answered("1", "2", route="s"))
        await refuse(spool, "cloud", "1", route="s")
        await eventually(lambda: len(rows(tmp_path, table="dead")) == 1)

        answer = await give(spool, tmp_path, "requeue", Pick(table="dead"))

        assert answer == Answer(n=1)
        async with asyncio.timeout(20):
            lease = await spool.lease("cloud", "s", limit=10, max_bytes=MIB)
        assert [result.key for result in lease.results] == ["1"]
        await spool.ack(lease, refused={})
        books = await spool.books()
        assert (books.balanced, books.results["s"]["cloud"]["delivered"]) == (True, 2)


async def test_a_waiting_sink_hears_of_what_was_brought_back(tmp_path: Path) -> None:
    async with opened(tmp_path, routes=ROUTES) as spool:
        await spool.commit(answered("1", route="s"))
        await refuse(spool, "cloud", "1", route="s")
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(spool.lease("cloud", "s", limit=10, max_bytes=MIB), name="waiting")
            await give(spool, tmp_path, "requeue", Pick(table="dead"))
            async with asyncio.timeout(20):
                lease = await waiting

        assert [result.key for result in lease.results] == ["1"]
