"""A daemon that dies in the middle of an order goes on with it: every letter is brought back once, or given up once."""

import asyncio
import subprocess
import sys
from functools import partial
from pathlib import Path

import apsw
import pytest

from gatewayd.clock import SystemClock
from gatewayd.config import schema
from gatewayd.events import event_json
from gatewayd.ports import DeadLetter, NewResult, Work
from gatewayd.spool import SqliteSpool
from gatewayd.spool.browse import Pick
from gatewayd.spool.orders import write_order

ROUTES = {"r": ("cloud", "backup")}
N = 1500  # letters of each kind: more than a step takes


def open_spool(folder: Path, crash: str = "") -> SqliteSpool:
    return SqliteSpool.open(
        folder / "spool.db",
        routes=ROUTES,
        policies={},
        config=schema.Spool(),
        clock=SystemClock(),
        crash=crash,
        refused_payload=partial(event_json, gateway="g"),
    )


async def live(folder: Path, crash: str) -> None:
    """The child: a daemon with nothing to do but orders."""
    async with open_spool(folder, crash):
        while not all(answer for _, answer in orders(folder)):
            await asyncio.sleep(0.05)


def orders(folder: Path) -> list[tuple[str, str | None]]:
    connection = apsw.Connection(str(folder / "spool.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return connection.execute("SELECT what, answer FROM orders").fetchall()
    finally:
        connection.close()


async def fill(folder: Path) -> None:
    async with open_spool(folder) as spool:
        fields = {"route": "r", "detail": "d", "topic": "t", "payload": b"p", "time": 1.0}
        letters = [DeadLetter(key=f"m-{n}", reason="decode", **fields) for n in range(N)]  # type: ignore[arg-type]
        late = [DeadLetter(key=f"late-{n}", reason="late", **fields) for n in range(N)]  # type: ignore[arg-type]
        results = [NewResult(key=f"r-{n}", kind="k", subject="t", time=1.0, data=b"{}") for n in range(N)]
        await spool.commit(Work(route="r", received=N, handled=N, results=results))
        await spool.commit(Work(route="r", received=2 * N, dead=[*letters, *late]))
        for sink in ROUTES["r"]:
            lease = await spool.try_lease(sink, "r", limit=N, max_bytes=1 << 30)
            assert lease is not None
            await spool.ack(lease, refused={result.key: "no" for result in results} if sink == "cloud" else {})


@pytest.mark.slow
async def test_orders_are_carried_out_once_however_often_the_daemon_dies(tmp_path: Path) -> None:
    await fill(tmp_path)
    connection = apsw.Connection(str(tmp_path / "spool.db"))
    write_order(connection, "requeue", Pick(table="dead", reason="decode"))
    write_order(connection, "purge", Pick(table="dead", reason="late"))
    write_order(connection, "requeue", Pick(table="dead", sink="cloud"))
    connection.close()
    n_deaths = 0
    for life in range(40):
        crash = ("spool.before_chore:2", "spool.after_chore:2", "spool.before_chore:3")[life % 3]
        command = [sys.executable, "-m", "tests.fault.test_spool_orders_crash", str(tmp_path), crash]
        status = subprocess.run(command, check=False, cwd=Path(__file__).parents[2], timeout=120).returncode
        assert status in (0, 137)
        n_deaths += status == 137
        if status == 0:
            break

    assert n_deaths >= 3
    async with open_spool(tmp_path) as spool:
        entries = await spool.journal("r", after=0, limit=10 * N)
        assert [entry.message.key for entry in entries] == [f"m-{n}" for n in range(N)]
        lease = await spool.try_lease("cloud", "r", limit=10 * N, max_bytes=1 << 30)
        assert lease is not None
        assert [result.key for result in lease.results] == [f"r-{n}" for n in range(N)]
        assert await spool.try_lease("backup", "r", limit=1, max_bytes=1 << 30) is None
        books = await spool.books()
        assert books.balanced
        assert (books.n_purged, books.messages["r"]["dead"], books.messages["r"]["journaled"]) == (N, N, N)
        assert all(answer and f'"n":{N}' in answer for _, answer in orders(tmp_path))


if __name__ == "__main__":
    asyncio.run(live(Path(sys.argv[1]), sys.argv[2]))
