"""What is lost is told to the far side as a result of kind `loss`: once for a burst, one at a time, superseding."""

import json
from pathlib import Path
from typing import Any

import pytest

from gatewayd.ports import DeadLetter, Lease, Work
from gatewayd.spool import SqliteSpool, writer
from gatewayd.spool.policy import RoutePolicy
from tests.sim.real_spool import MIB, FakeClock, opened, work


@pytest.fixture(autouse=True)
def chores_at_every_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not once a second, on the real clock."""
    monkeypatch.setattr(writer, "CHORES_EVERY_S", 0.0)


async def tick(clock: FakeClock, spool: SqliteSpool) -> None:
    """Let the spool notice, wait until what it noticed has settled, and act on it."""
    for _ in range(3):
        await spool.ping()  # answered before the chores of its turn
        await spool.ping()
        clock.advance(2.0)


async def lease_all(spool: SqliteSpool, sink: str = "cloud") -> Lease | None:
    return await spool.try_lease(sink, "r", limit=1000, max_bytes=MIB)


async def taken(spool: SqliteSpool, sink: str = "cloud") -> list[dict[str, Any]]:
    """Deliver everything; the data of the reports among it."""
    lease = await lease_all(spool, sink)
    if lease is None:
        return []
    await spool.ack(lease, refused={})
    return [json.loads(result.data) for result in lease.results if result.kind == "loss"]


def dropped(n: int) -> Work:
    return Work(route="r", received=n, dropped={"queue_full": n})


async def test_messages_that_were_dropped_are_told_with_their_reason(tmp_path: Path) -> None:
    clock = FakeClock()
    async with opened(tmp_path, clock=clock) as spool:
        await spool.commit(dropped(3))
        await spool.commit(
            Work(
                route="r",
                received=1,
                dead=[DeadLetter(route="r", reason="decode", detail="", topic="t", payload=b"", time=1.0, key="k")],
            )
        )

        await tick(clock, spool)
        [report] = await taken(spool)

    assert report == {
        "route": "r",
        "since": "1970-01-01T00:16:40.000Z",
        "messages": {"dropped": {"queue_full": 3}, "evicted": {}, "expired": {}, "dead": {"decode": 1}},
        "results": {"cloud": {"evicted": {}, "expired": {}, "refused": {}}},
    }


async def test_nothing_is_told_when_nothing_is_lost(tmp_path: Path) -> None:
    clock = FakeClock()
    async with opened(tmp_path, clock=clock) as spool:
        await spool.commit(work("a"))

        await tick(clock, spool)

        assert await taken(spool) == []


async def test_while_a_report_waits_there_is_no_other_and_the_next_one_tells_all(tmp_path: Path) -> None:
    clock = FakeClock()
    async with opened(tmp_path, clock=clock, loss_report_s=1.0) as spool:
        for _ in range(3):
            await spool.commit(dropped(1))
            await tick(clock, spool)

        assert [report["messages"]["dropped"] for report in await taken(spool)] == [{"queue_full": 1}]
        await tick(clock, spool)
        assert [report["messages"]["dropped"] for report in await taken(spool)] == [{"queue_full": 3}]
        await tick(clock, spool)
        assert await taken(spool) == []


async def test_reports_keep_their_distance(tmp_path: Path) -> None:
    clock = FakeClock()
    async with opened(tmp_path, clock=clock, loss_report_s=600.0) as spool:
        await spool.commit(dropped(1))
        await tick(clock, spool)
        assert len(await taken(spool)) == 1

        await spool.commit(dropped(1))
        await tick(clock, spool)
        assert await taken(spool) == []

        clock.advance(600)
        await tick(clock, spool)
        assert [report["messages"]["dropped"] for report in await taken(spool)] == [{"queue_full": 2}]


async def test_a_report_is_not_told_again_after_a_restart(tmp_path: Path) -> None:
    clock = FakeClock()
    async with opened(tmp_path, clock=clock) as spool:
        await spool.commit(dropped(1))
        await tick(clock, spool)
        assert len(await taken(spool)) == 1

    async with opened(tmp_path, clock=clock) as spool:
        await spool.commit(work("a"))
        await tick(clock, spool)

        assert await taken(spool) == []


async def test_a_report_that_expired_with_everything_else_is_made_anew(tmp_path: Path) -> None:
    clock = FakeClock()
    policies = {"r": RoutePolicy(ttl_s=3600)}
    async with opened(tmp_path, clock=clock, policies=policies, loss_report_s=1.0) as spool:
        await spool.commit(dropped(1))
        await tick(clock, spool)
        clock.advance(3700)
        await tick(clock, spool)  # expires, and is missed

        [report] = await taken(spool)
        books = await spool.books()

    assert report["messages"]["dropped"] == {"queue_full": 1}
    assert report["results"]["cloud"]["expired"] == {"ttl": 1}
    assert books.balanced


@pytest.mark.parametrize("n_sinks", [0, 2])
async def test_every_sink_of_the_route_hears_of_it(tmp_path: Path, n_sinks: int) -> None:
    clock = FakeClock()
    sinks = [f"sink{n}" for n in range(n_sinks)]
    async with opened(tmp_path, clock=clock, routes={"r": sinks}) as spool:
        await spool.commit(dropped(1))
        await tick(clock, spool)

        assert [len(await taken(spool, sink)) for sink in sinks] == [1] * n_sinks
        assert (await spool.books()).balanced
