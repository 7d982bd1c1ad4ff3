"""Figure 6: the spool alone, beside what apsw itself does with the same rows."""

import asyncio
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import apsw

from benchmarks.speed.rows import Row, rounds
from gatewayd.clock import SystemClock
from gatewayd.config import schema
from gatewayd.ports import NewResult, Work
from gatewayd.spool import SqliteSpool

_BATCH = 256
_N_BATCHES = 300
_DATA = b'{"label":"normal","score":0.9312,"scores":{"normal":0.9312,"worn":0.0688},"model":"pumps","latency_ms":0.812}'
_IN_FLIGHT = 4
_SETTINGS = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL"
_TABLE = "CREATE TABLE results (id INTEGER PRIMARY KEY, key, kind, subject, time, data, traceparent)"


def spool(folder: Path) -> Iterator[Row]:
    """6: append, lease, ack at batches of 256."""
    appended: list[float] = []
    drained: list[float] = []

    def ours() -> float:
        with tempfile.TemporaryDirectory(dir=folder) as inner:
            append, drain = asyncio.run(_run(Path(inner)))
        appended.append(append)
        drained.append(drain)
        return append

    folder.mkdir(parents=True, exist_ok=True)
    mine, its = rounds([ours, lambda: _apsw(folder)])
    ratio = mine.over(its)
    yield Row(
        id="6",
        what="spool: append at batches of 256, FULL",
        value=mine.median,
        unit="results/s",
        baseline=f"apsw executemany, {its.median:,.0f} rows/s",
        ratio=ratio,
        reach=">= 0.5",
        ok=ratio >= 0.5,
        spread=mine.spread,
    )
    middle = sorted(drained)[len(drained) // 2]
    yield Row(id="6a", what="spool: lease and ack at batches of 256", value=middle, unit="results/s")


async def _run(folder: Path) -> tuple[float, float]:
    config = schema.Spool(max_bytes=1 << 30)
    async with SqliteSpool.open(
        folder / "spool.db", routes={"r": ["cloud"]}, policies={}, config=config, clock=SystemClock()
    ) as one:
        works = [_work(number) for number in range(_N_BATCHES)]  # made by the stages, and no part of the spool
        pending: set[asyncio.Future[object]] = set()
        began_s = time.perf_counter()
        for work in works:
            pending.add(asyncio.ensure_future(one.commit(work)))
            if len(pending) >= _IN_FLIGHT:
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        if pending:
            await asyncio.wait(pending)
        append = _N_BATCHES * _BATCH / (time.perf_counter() - began_s)
        began_s = time.perf_counter()
        for _ in range(_N_BATCHES):
            lease = await one.lease("cloud", "r", limit=_BATCH, max_bytes=1 << 20)
            await one.ack(lease, refused={})
        return append, _N_BATCHES * _BATCH / (time.perf_counter() - began_s)


def _work(number: int) -> Work:
    at = time.time()
    results = [
        NewResult(key=f"{number}-{index}", kind="classification", subject="bench/1", time=at, data=_DATA)
        for index in range(_BATCH)
    ]
    return Work(route="r", received=_BATCH, handled=_BATCH, results=results)


def _apsw(folder: Path) -> float:
    with tempfile.TemporaryDirectory(dir=folder) as inner:
        connection = apsw.Connection(str(Path(inner) / "bare.db"))
        connection.execute(f"{_SETTINGS}; {_TABLE}").fetchall()
        row = ("key", "classification", "bench/1", time.time(), _DATA, "")
        began_s = time.perf_counter()
        for number in range(_N_BATCHES):
            with connection:
                base = number * _BATCH
                rows = [(base + index, *row) for index in range(_BATCH)]
                connection.executemany("INSERT INTO results VALUES (?,?,?,?,?,?,?)", rows)
        passed_s = time.perf_counter() - began_s
        connection.close()
    return _N_BATCHES * _BATCH / passed_s
