"""The spool is bounded: dead letters, the byte cap, what is evicted and given back."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from gatewayd.errors import SpoolFull
from gatewayd.ports import DeadLetter, NewResult, Work
from gatewayd.spool import SpoolReader, SqliteSpool
from gatewayd.spool.policy import RoutePolicy
from tests.sim.real_spool import MIB, leased, opened, outcome, raw, result, work


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


async def fill(spool: SqliteSpool, route: str, n: int, size: int = 20_000) -> None:
    first = (await spool.books()).results.get(route, {}).get("cloud", {}).get("produced", 0)
    for i in range(first, first + n):
        await spool.commit(work(f"{route}-{i}", route=route, size=size))


async def evicted(spool: SqliteSpool) -> dict[str, int]:
    books = await spool.books()
    assert books.balanced
    return {route: lines["cloud"]["evicted"] for route, lines in books.results.items()}


async def journaled_until_full(spool: SqliteSpool) -> list[int]:
    entries: list[int] = []
    try:
        while True:
            entries += await spool.commit(Work(route="r", received=50, journal=[raw("j")] * 50))
    except SpoolFull:
        return entries


def taken(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("spool.*"))


async def test_a_route_takes_room_from_its_own_priority_or_a_lower_one_alone(tmp_path: Path) -> None:
    routes = {"low": ["cloud"], "high": ["cloud"]}
    policies = {"low": RoutePolicy(priority=2), "high": RoutePolicy(priority=3)}
    async with opened(tmp_path, max_bytes=4 * MIB, routes=routes, policies=policies) as spool:
        await fill(spool, "high", 80)
        await fill(spool, "low", 200)
        lost = await evicted(spool)
        assert lost["high"] == 0
        assert lost["low"] > 0

        await fill(spool, "high", 20)
        assert (await evicted(spool))["high"] > 0  # its own are the oldest, and it says evict_oldest


async def test_where_only_a_higher_priority_is_left_what_is_new_is_lost_and_counted(tmp_path: Path) -> None:
    routes = {"low": ["cloud"], "high": ["cloud"]}
    policies = {"low": RoutePolicy(priority=2), "high": RoutePolicy(priority=3)}
    async with opened(tmp_path, max_bytes=4 * MIB, routes=routes, policies=policies) as spool:
        await fill(spool, "high", 300)
        before = await evicted(spool)

        await spool.commit(work(*(f"low-{i}" for i in range(40)), route="low", size=20_000))

        lost = await evicted(spool)
        assert lost["high"] == before["high"]
        assert lost["low"] >= 38
        assert taken(tmp_path) <= 4 * MIB


async def test_the_lowest_priority_goes_first_when_the_route_says_so(tmp_path: Path) -> None:
    routes = {"low": ["cloud"], "mid": ["cloud"], "high": ["cloud"]}
    policies = {
        "low": RoutePolicy(priority=0),
        "mid": RoutePolicy(priority=4),
        "high": RoutePolicy(priority=9, when_full="evict_lowest_priority"),
    }
    async with opened(tmp_path, max_bytes=4 * MIB, routes=routes, policies=policies) as spool:
        await fill(spool, "mid", 60)
        await fill(spool, "low", 60)
        await fill(spool, "high", 70)
        first = await evicted(spool)

        await fill(spool, "high", 70)

        assert first["low"] > 0
        assert first["mid"] == first["high"] == 0
        lost = await evicted(spool)
        assert (lost["low"], lost["high"]) == (60, 0)
        assert lost["mid"] > 0


async def test_a_lowered_cap_takes_the_lowest_priority_first_and_leaves_what_blocks(tmp_path: Path) -> None:
    routes = {"low": ["cloud"], "mid": ["cloud"], "blocks": ["cloud"]}
    policies = {"low": RoutePolicy(priority=0), "mid": RoutePolicy(), "blocks": RoutePolicy(when_full="block")}
    async with opened(tmp_path, max_bytes=16 * MIB, routes=routes, policies=policies) as spool:
        for route in ("blocks", "mid", "low"):
            await fill(spool, route, 100, size=30_000)

    async with opened(tmp_path, max_bytes=6 * MIB, routes=routes, policies=policies) as spool:
        assert taken(tmp_path) <= 6 * MIB
        lost = await evicted(spool)
        assert (lost["low"], lost["blocks"]) == (100, 0)
        assert 0 < lost["mid"] < 100


async def test_what_is_being_sent_is_spared_while_anything_else_can_go(tmp_path: Path) -> None:
    async with opened(tmp_path, max_bytes=4 * MIB) as spool:
        await fill(spool, "r", 30)
        lease = await spool.lease("cloud", "r", limit=20, max_bytes=MIB)

        await fill(spool, "r", 300)
        assert await evicted(spool) != {"r": 0}
        await spool.ack(lease, refused={})

        lines = (await spool.books()).results["r"]["cloud"]
        assert lines["delivered"] == 20
        assert lines["evicted"] + lines["pending"] == lines["produced"] - 20


async def test_what_is_being_sent_goes_when_nothing_else_is_left(tmp_path: Path) -> None:
    async with opened(tmp_path, max_bytes=4 * MIB) as spool:
        await fill(spool, "r", 140)
        lease = await spool.lease("cloud", "r", limit=1000, max_bytes=64 * MIB)
        assert len(lease.results) > 100

        await spool.commit(work(*map(str, range(60)), size=20_000))

        await spool.ack(lease, refused={})
        books = await spool.books()
        lines = books.results["r"]["cloud"]
        assert books.balanced
        assert lines["delivered"] < len(lease.results)
        assert lines["pending"] == 60


@pytest.mark.parametrize("mib", [4, 16])
@pytest.mark.parametrize("when_full", ["evict_oldest", "evict_lowest_priority", "thin", "block"])
async def test_the_cap_holds_to_the_byte_after_every_commit(tmp_path: Path, mib: int, when_full: str) -> None:
    routes = {"a": ["cloud"], "b": ["cloud"]}
    policies = {"a": RoutePolicy(when_full=when_full, priority=5), "b": RoutePolicy(when_full="thin", priority=3)}
    async with opened(tmp_path, max_bytes=mib * MIB, routes=routes, policies=policies) as spool:
        entries: list[int] = []
        for i in range(20 + 8 * mib):
            size = (50, 700, 3000)[i % 3]
            new = [
                NewResult(
                    key=f"{i}-{n}",
                    kind="k",
                    subject=f"s{n % 5}",
                    time=1.0,
                    data=b'{"n":%d,"p":"%s"}' % (n, b"x" * size),
                )
                for n in range(100)
            ]
            for route in routes:
                await outcome(spool.commit(Work(route=route, received=100, handled=100, results=new)))
                assert taken(tmp_path) <= mib * MIB
            try:
                entries += await spool.commit(Work(route="b", received=5, journal=[raw("j", 2000)] * 5))
            except SpoolFull:
                continue
            if len(entries) >= 20:
                await spool.commit(
                    Work(route="b", handled=len(entries), done=entries, results=[result(f"d-{i}", 90_000)])
                )
                entries = []
            assert taken(tmp_path) <= mib * MIB

        assert (await spool.books()).balanced


async def test_a_full_route_that_blocks_takes_answers_only_within_the_cap_and_goes_on_when_drained(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, max_bytes=4 * MIB, policies={"r": RoutePolicy(when_full="block")}) as spool:
        entries = await journaled_until_full(spool)
        answers = [
            Work(route="r", handled=1, done=[entry], results=[result(f"answer-{entry}", 20_000)])
            for entry in entries[:100]
        ]

        outcomes = [await outcome(spool.commit(answer)) for answer in answers]
        assert taken(tmp_path) <= 4 * MIB
        n_stored = outcomes.index("full")
        assert n_stored > 0
        assert set(outcomes[n_stored:]) == {"full"}
        lease = await spool.lease("cloud", "r", limit=100, max_bytes=4 * MIB)
        await spool.ack(lease, refused={})

        assert [await outcome(spool.commit(answer)) for answer in answers[n_stored : n_stored + 5]] == ["stored"] * 5
        books = await spool.books()
        assert (books.messages["r"]["handled"], books.balanced) == (n_stored + 5, True)


async def test_within_a_group_too_a_lower_priority_goes_first(tmp_path: Path) -> None:
    routes = {"low": ["cloud"], "high": ["cloud"]}
    policies = {"low": RoutePolicy(priority=0), "high": RoutePolicy(priority=9, when_full="evict_lowest_priority")}
    n_rounds_with_losses, n_high = 0, 0
    async with opened(tmp_path, max_bytes=4 * MIB, routes=routes, policies=policies, commit_window_ms=20) as spool:
        await fill(spool, "high", 125)
        for n in range(30):
            low = work(*(f"low-{n}-{i}" for i in range(2)), route="low", size=8_000)
            high = work(*(f"high-{n}-{i}" for i in range(4)), route="high", size=20_000)
            await asyncio.gather(spool.commit(low), spool.commit(high))

            lost = (await evicted(spool))["high"]
            if lost > n_high:
                assert (await spool.books()).results["low"]["cloud"]["pending"] == 0
            n_rounds_with_losses += lost > n_high
            n_high = lost

    assert n_rounds_with_losses > 5
