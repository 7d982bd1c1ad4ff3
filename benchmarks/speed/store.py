"""Figure 6: the spool alone, beside what apsw itself does with the same rows: same table, same settings, FULL.

Both are given what they store ready made: the spool its works, apsw its rows, their checksums in them. The spool has
four works under way, as its stages do, and may put them into one transaction; apsw's rows go in 256 a transaction.
"""

import asyncio
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.speed.rows import Row, rounds
from gatewayd.clock import SystemClock
from gatewayd.config import schema
from gatewayd.ports import NewResult, Work
from gatewayd.spool import SqliteSpool
from gatewayd.spool.database import open_database
from gatewayd.spool.rows import result_columns

_BATCH = 256
_N_BATCHES = 300
_DATA = b'{"label":"normal","score":0.9312,"scores":{"normal":0.9312,"worn":0.0688},"model":"pumps","latency_ms":0.812}'
_IN_FLIGHT = 4
_N_ROUNDS = 9  # of less than a second: what the disk does at the time differs more than what we do
_FOLD_PAGES = 1000  # SQLite's own: a checkpoint after so many pages of the WAL


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
    mine, its = rounds([ours, lambda: _apsw(folder)], _N_ROUNDS)
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
        NewResult(key=f"{number * _BATCH + index:032x}", kind="classification", subject="bench/1", time=at, data=_DATA)
        for index in range(_BATCH)
    ]
    return Work(route="r", received=_BATCH, handled=_BATCH, results=results)


def _apsw(folder: Path) -> float:
    works = [_work(number) for number in range(_N_BATCHES)]
    batches = [_rows(work, 1 + number * _BATCH) for number, work in enumerate(works)]
    with tempfile.TemporaryDirectory(dir=folder) as inner:
        connection = open_database(Path(inner) / "bare.db", wal_pages=_FOLD_PAGES)
        connection.wal_autocheckpoint(_FOLD_PAGES)
        began_s = time.perf_counter()
        for rows in batches:
            with connection:
                connection.executemany("INSERT INTO results VALUES (?,?,?,?,?,?,?,?)", rows)
        passed_s = time.perf_counter() - began_s
        connection.close()
    return _N_BATCHES * _BATCH / passed_s


def _rows(work: Work, first: int) -> list[tuple[Any, ...]]:
    flat = result_columns(work.results, first)
    return [tuple(flat[at : at + 8]) for at in range(0, len(flat), 8)]
