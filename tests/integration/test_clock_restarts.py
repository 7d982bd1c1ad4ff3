"""TTLs, corrected times and pauses over real starts of a spool: each life is a process of its own, some are killed."""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

from gatewayd.clock import SystemClock
from gatewayd.config import schema
from gatewayd.ports import NewResult, Work
from gatewayd.spool.policy import RoutePolicy
from gatewayd.spool.spool import SqliteSpool

TTL_S = 2.0


def open_spool(folder: Path, *, ttl_s: float = 3600.0) -> SqliteSpool:
    return SqliteSpool.open(
        folder / "spool.db",
        routes={"r": ["cloud"]},
        policies={"r": RoutePolicy(ttl_s=ttl_s)},
        config=schema.Spool(),
        clock=SystemClock(sync_file=folder / "synced"),
    )


async def live(folder: Path, n: int, hold_s: float) -> None:
    """The child: stores, says so, and waits to be killed."""
    async with open_spool(folder) as spool:
        now = spool._clock.now()
        results = [NewResult(key=f"{n}-{i}", kind="k", subject="t", time=now, data=b"{}") for i in range(n)]
        await spool.commit(Work(route="r", received=n, handled=n, results=results))
        if hold_s:
            spool.hold("cloud", hold_s)
            await spool.ping()
        print(json.dumps({"now": now}), flush=True)
        await asyncio.sleep(600)


def a_life_that_is_killed(folder: Path, *, n: int, hold_s: float = 0.0) -> float:
    """When its results were stored, by its clock."""
    with subprocess.Popen(
        [sys.executable, __file__, str(folder), str(n), str(hold_s)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        said = json.loads(child.stdout.readline())
        child.kill()
    return float(said["now"])


async def keys_of(spool: SqliteSpool) -> list[str]:
    lease = await spool.try_lease("cloud", "r", limit=100, max_bytes=1 << 20)
    if lease is None:
        return []
    await spool.nack(lease, delay_s=0.0)
    return [stored.key for stored in lease.results]


async def test_what_a_killed_life_stored_expires_in_the_next_one_by_the_time_between(tmp_path: Path) -> None:
    stored_s = time.monotonic()
    a_life_that_is_killed(tmp_path, n=3)

    async with open_spool(tmp_path, ttl_s=TTL_S) as spool:
        while await keys_of(spool):
            await asyncio.sleep(0.05)
        gone_s = time.monotonic()
        books = await spool.books()

    assert gone_s - stored_s >= TTL_S
    assert books.balanced
    assert books.reasons["results/r/cloud/expired"] == {"ttl": 3}


async def test_a_later_life_of_the_same_boot_corrects_what_an_earlier_one_stored(tmp_path: Path) -> None:
    stored = a_life_that_is_killed(tmp_path, n=3)

    async with open_spool(tmp_path) as spool:
        before = await spool.lease("cloud", "r", limit=100, max_bytes=1 << 20)
        (tmp_path / "synced").touch()
        after = before
        while after.results[0].clock != "corrected":
            await spool.nack(after, delay_s=0.0)
            await asyncio.sleep(0.1)
            after = await spool.lease("cloud", "r", limit=100, max_bytes=1 << 20)

    assert {one.clock for one in before.results} == {"unsynced"}
    assert {one.clock for one in after.results} == {"corrected"}
    assert abs(after.results[0].time - stored) < 1.0  # the clock was right all along, and nobody had said so


async def test_a_pause_that_was_asked_for_outlasts_a_kill(tmp_path: Path) -> None:
    asked_s = time.monotonic()
    a_life_that_is_killed(tmp_path, n=1, hold_s=600.0)

    async with open_spool(tmp_path) as spool:
        rest_s = spool.held_s("cloud")
        passed_s = time.monotonic() - asked_s

    assert 600.0 - passed_s <= rest_s + 0.1
    assert rest_s < 600.0


if __name__ == "__main__":
    asyncio.run(live(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
