"""Thinning in the database: the newest stay raw, the oldest become aggregates, and the books say so."""

import json
from collections.abc import Sequence
from pathlib import Path

import apsw
import pytest

from gatewayd.ports import NewResult, StoredResult, Work
from gatewayd.spool import SqliteSpool
from gatewayd.spool.aggregates import KIND, read_aggregate
from gatewayd.spool.policy import RoutePolicy
from gatewayd.spool.sums import result_sum
from tests.sim.real_spool import MIB, opened

THIN = RoutePolicy(when_full="thin")


def results(first: int, n: int, *, size: int = 200, kind: str = "k") -> list[NewResult]:
    return [
        NewResult(
            key=f"key-{i}",
            kind=kind,
            subject="s",
            time=float(i),
            data=json.dumps({"label": f"l{i % 2}", "score": i, "pad": "x" * size}).encode(),
            traceparent="00-0-0-00",
        )
        for i in range(first, first + n)
    ]


async def fill(
    spool: SqliteSpool, n_works: int, *, first: int = 0, n: int = 500, size: int = 200, route: str = "r"
) -> int:
    for i in range(n_works):
        new = results(first + i * n, n, size=size)
        await spool.commit(Work(route=route, received=n, handled=n, results=new))
    return first + n_works * n


async def drained(spool: SqliteSpool, sink: str = "cloud", route: str = "r") -> list[StoredResult]:
    came: list[StoredResult] = []
    while lease := await spool.try_lease(sink, route, limit=500, max_bytes=MIB):
        came += lease.results
        await spool.ack(lease, refused={})
    return came


def count(result: StoredResult) -> int:
    if result.kind != KIND:
        return 1
    found = read_aggregate(result.data)
    assert found is not None
    return found.count


async def test_the_oldest_become_aggregates_and_the_newest_stay_as_they_are(tmp_path: Path) -> None:
    async with opened(tmp_path, max_bytes=4 * MIB, policies={"r": THIN}) as spool:
        n = await fill(spool, 60)

        books = await spool.books()
        came = await drained(spool)

        raw = [one for one in came if one.kind == "k"]
        old = came[: len(came) - len(raw)]
        assert {one.kind for one in old} == {KIND}
        assert [one.key for one in raw] == [f"key-{i}" for i in range(n - len(raw), n)]
        assert sum(map(count, came)) == n
        assert len(raw) > 2000
        windows = [read_aggregate(one.data) for one in old]
        assert [window.window_start for window in windows if window] == sorted(
            window.window_start for window in windows if window
        )
        lines, reasons = books.results["r"]["cloud"], books.reasons["results/r/cloud/evicted"]
        assert books.balanced
        assert reasons.keys() == {"thinned"}
        assert lines["produced"] - reasons["thinned"] == lines["pending"] == len(came)


async def test_the_past_gets_coarser_step_by_step(tmp_path: Path) -> None:
    async with opened(tmp_path, max_bytes=MIB, ballast_bytes=0, policies={"r": THIN}) as spool:
        n = await fill(spool, 320, n=250)

        came = await drained(spool)

    assert sum(map(count, came)) == n == 80_000
    counts = [count(one) for one in came if one.kind == KIND]
    assert counts[0] > counts[-1] >= 200  # merged again and again, and made of one chunk
    assert len(counts) < 600


async def test_a_rows_checksum_is_right_and_its_trace_is_gone(tmp_path: Path) -> None:
    async with opened(tmp_path, max_bytes=4 * MIB, policies={"r": THIN}) as spool:
        await fill(spool, 40)

        with apsw.Connection(str(tmp_path / "spool.db"), flags=apsw.SQLITE_OPEN_READONLY) as connection:
            rows = list(connection.execute("SELECT id, key, kind, subject, time, data, traceparent, sum FROM results"))

    aggregates = [row for row in rows if row[2] == KIND]
    assert aggregates
    assert all(result_sum(*row[:-1]) == row[-1] for row in rows)
    assert {row[6] for row in aggregates} == {""}


async def test_no_aggregate_mixes_what_a_sink_has_had_with_what_it_has_not(tmp_path: Path) -> None:
    routes = {"r": ["cloud", "archive"]}
    async with opened(tmp_path, max_bytes=4 * MIB, routes=routes, policies={"r": THIN}) as spool:
        n = await fill(spool, 6)
        lease = await spool.lease("archive", "r", limit=777, max_bytes=4 * MIB)
        await spool.ack(lease, refused={})
        had = lease.results[-1].row

        n = await fill(spool, 40, first=n)

        books = await spool.books()
        cloud, archive = await drained(spool), await drained(spool, "archive")
        assert books.balanced
        assert sum(map(count, cloud)) == n
        assert sum(map(count, archive)) == n - 777
        assert had in [one.row for one in cloud]
        assert [one.key for one in cloud if one.row > had] == [one.key for one in archive]
        thinned = {sink: books.reasons[f"results/r/{sink}/evicted"]["thinned"] for sink in ("cloud", "archive")}
        assert thinned["cloud"] == thinned["archive"] + 777


async def test_what_is_being_sent_is_neither_thinned_nor_evicted(tmp_path: Path) -> None:
    async with opened(tmp_path, max_bytes=4 * MIB, policies={"r": THIN}) as spool:
        n = await fill(spool, 2)
        lease = await spool.lease("cloud", "r", limit=300, max_bytes=4 * MIB)

        n = await fill(spool, 40, first=n)
        await spool.ack(lease, refused={})

        books = await spool.books()
        assert (books.results["r"]["cloud"]["delivered"], books.balanced) == (300, True)
        assert sum(map(count, await drained(spool))) == n - 300


@pytest.mark.parametrize("kind", ["loss", "k"])
async def test_what_cannot_be_thinned_is_evicted(tmp_path: Path, kind: str) -> None:
    async with opened(tmp_path, max_bytes=4 * MIB, policies={"r": THIN}) as spool:
        for i in range(40):
            new = results(i * 500, 500, kind=kind)
            if kind != "loss":
                new = [NewResult(key=one.key, kind=kind, subject="s", time=1.0, data=b"no JSON" * 30) for one in new]
            await spool.commit(Work(route="r", received=500, handled=500, results=new))

        books = await spool.books()
        came = await drained(spool)
        assert {one.kind for one in came} == {kind}
        assert books.reasons["results/r/cloud/evicted"] == {"cap": 20_000 - len(came)}
        assert came[-1].key == "key-19999"


async def test_a_damaged_row_is_not_summed_up(tmp_path: Path) -> None:
    async with opened(tmp_path, max_bytes=4 * MIB, policies={"r": THIN}) as spool:
        await fill(spool, 1)
    with apsw.Connection(str(tmp_path / "spool.db")) as connection:
        connection.execute("UPDATE results SET time = -5.0 WHERE key = 'key-7'")
    async with opened(tmp_path, max_bytes=4 * MIB, policies={"r": THIN}) as spool:
        await fill(spool, 40, first=500)

        with apsw.Connection(str(tmp_path / "spool.db"), flags=apsw.SQLITE_OPEN_READONLY) as connection:
            starts = [
                found.window_start
                for (data,) in connection.execute("SELECT data FROM results WHERE kind = ?", (KIND,))
                if (found := read_aggregate(data))
            ]

    assert starts
    assert min(starts) == 0.0


async def test_a_start_in_the_middle_of_a_pass_finds_its_place_again(tmp_path: Path) -> None:
    n = 0
    for _ in range(6):
        async with opened(tmp_path, max_bytes=4 * MIB, policies={"r": THIN}) as spool:
            n = await fill(spool, 10, first=n)
            assert (await spool.books()).balanced
    async with opened(tmp_path, max_bytes=4 * MIB, policies={"r": THIN}) as spool:
        came = await drained(spool)

    assert sum(map(count, came)) == n
    assert rows_in_order(came)


def rows_in_order(came: Sequence[StoredResult]) -> bool:
    return [one.row for one in came] == sorted(one.row for one in came)


@pytest.mark.parametrize("size", [200, 20_000])
async def test_two_routes_that_thin_and_evict_lose_what_is_of_the_same_age(tmp_path: Path, size: int) -> None:
    routes = {"thins": ["cloud"], "evicts": ["cloud"]}
    policies = {"thins": THIN, "evicts": RoutePolicy()}
    async with opened(tmp_path, max_bytes=4 * MIB, routes=routes, policies=policies) as spool:
        n_results = max(1, 40_000 // size)
        for i in range(120):
            await fill(spool, 1, first=i * n_results, n=n_results, size=size, route="thins")
            await fill(spool, 1, first=i * n_results, n=n_results, size=size, route="evicts")

        thins, evicts = await drained(spool, route="thins"), await drained(spool, route="evicts")

    assert sum(map(count, thins)) == 120 * n_results
    raw = [one for one in thins if one.kind == "k"]
    assert 0.5 < len(raw) / len(evicts) < 2
