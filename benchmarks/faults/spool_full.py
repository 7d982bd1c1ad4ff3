"""Case 5: a full disk, one that turns read-only, the least cap, and a cap that is lowered between two starts.

The disk is a small tmpfs of its own where that may be mounted (by root); else the file system below SQLite says that it
is full, and the read-only one is left out with a line that says so.
"""

import asyncio
import os
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.faults.bench import Part, Run, say
from benchmarks.faults.here import figures
from gatewayd.clock import SystemClock
from gatewayd.config import schema
from gatewayd.errors import SpoolFull
from gatewayd.ports import NewResult, Work
from gatewayd.spool import SqliteSpool
from tests.sim.oracle import Line, judge, payload_of
from tests.sim.real_spool import MIB
from tests.sim.vfs import faulty

_N_PAD = 3000
_WITHIN_S = 60.0
_SHARE_LEFT = 0.1  # of the peak, a minute after a drain


class Book:
    """One run's oracle: what was tried, answered, refused and given out."""

    def __init__(self, folder: Path, line: Line, *, max_bytes: int) -> None:
        self.folder = folder
        self.line = line
        self.max_bytes = max_bytes
        self.tried = 0
        self.kept: set[int] = set()
        self.given: dict[int, bytes] = {}
        self.order: list[int] = []
        self.n_refused = 0
        self.peak_bytes = 0

    def open(self) -> SqliteSpool:
        """The spool, with the cap as it is now."""
        return SqliteSpool.open(
            self.folder / "spool.db",
            routes={"r": ("cloud",)},
            policies={},
            config=schema.Spool(max_bytes=self.max_bytes),
            clock=SystemClock(),
        )

    async def put(self, spool: SqliteSpool, n: int, n_at_once: int = 1) -> int:
        """Try `n` results, so many in a work, one work after the other; how many works were refused."""
        refused = 0
        for _ in range(n // n_at_once):
            numbers = range(self.tried, self.tried + n_at_once)
            self.tried += n_at_once
            try:
                await spool.commit(self._work(numbers))
            except SpoolFull:
                refused += 1
            else:
                self.kept |= set(numbers)
            self.look()
        self.n_refused += refused
        return refused

    def _work(self, numbers: range) -> Work:
        results = [
            NewResult(key=str(n), kind="k", subject="t", time=1.0, data=payload_of(self.line.seed, n, _N_PAD))
            for n in numbers
        ]
        return Work(route="r", received=len(results), handled=len(results), results=results)

    async def drain(self, spool: SqliteSpool) -> int:
        """Take all there is; how many that were."""
        n = 0
        while lease := await spool.try_lease("cloud", "r", limit=50, max_bytes=MIB):
            for result in lease.results:
                self.given[int(result.key)] = result.data
                self.order.append(int(result.key))
            n += len(lease.results)
            await spool.ack(lease, refused={})
        return n

    async def put_again(self, spool: SqliteSpool) -> float:
        """Seconds until something is taken in again."""
        began_s = time.monotonic()
        while time.monotonic() - began_s < _WITHIN_S and await self.put(spool, 1):
            await asyncio.sleep(0.02)
        return time.monotonic() - began_s

    def look(self) -> None:
        """How much is on disk now."""
        self.peak_bytes = max(self.peak_bytes, self.on_disk())

    def on_disk(self) -> int:
        """Database, WAL, index of the WAL, and the ballast."""
        return sum(file.stat().st_size for file in self.folder.glob("spool.*") if file.is_file())

    async def close(self, spool: SqliteSpool) -> None:
        """A fresh result gets through; the books."""
        await self.drain(spool)
        number = self.tried
        await self.put(spool, 1)
        await self.drain(spool)
        self.line.fresh_event_ok = number in self.given
        books = await spool.books()
        totals: Any = books.totals()
        self.line.evicted = totals["results"]["evicted"]
        self.line.more["balanced"] = books.balanced
        if not books.balanced:
            self.line.problems.append(f"the books do not balance: {totals}")

    def fill(self) -> None:
        """The line."""
        line = self.line
        line.sent, line.acked, line.delivered_unique = self.tried, len(self.kept), len(self.given)
        line.lost = max(0, len(self.kept - self.given.keys()) - line.evicted)
        line.phantom = sum(number >= self.tried for number in self.given)
        line.corrupt = sum(data != payload_of(line.seed, n, _N_PAD) for n, data in self.given.items())
        line.resent = len(self.order) - len(self.given)
        line.out_of_order = sum(later < sooner for sooner, later in zip(self.order, self.order[1:], strict=False))
        line.more |= {"refused": self.n_refused, "peak_disk_mb": round(self.peak_bytes / MIB, 2)}


async def _full(book: Book, fill: Callable[[], None], empty: Callable[[], None]) -> None:
    """The disk fills up under a spool in use; it is drained while full, opened while full, and then goes on."""
    async with asyncio.timeout(_WITHIN_S):
        spool = book.open()
        await book.put(spool, 300)
        fill()
        for _ in range(50):
            book.line.faults += await book.put(spool, 40)
            if book.line.faults >= 100:
                break
        await spool.close()
        spool = book.open()  # on the full disk
        book.line.more["drained_while_full"] = await book.drain(spool)
        empty()
        book.line.recovery_s = round(await book.put_again(spool), 2)
        await book.put(spool, 300)
        await book.close(spool)
        await spool.close()
    if not book.line.more["drained_while_full"]:
        book.line.problems.append("vacuous: nothing was drained while the disk was full")


async def _read_only(book: Book, remount: Callable[[str], None]) -> None:
    """The file system is read-only at the start, as ext4 is after an error, and is mended."""
    async with asyncio.timeout(_WITHIN_S):
        spool = book.open()
        await book.put(spool, 300)
        await spool.close()
        remount("ro")
        try:
            book.open()
        except SpoolFull as error:
            book.line.faults += 1
            book.line.more["said"] = str(error)[:200]
        remount("rw")
        began_s = time.monotonic()
        spool = book.open()
        book.line.recovery_s = round(time.monotonic() - began_s, 2)
        await book.put(spool, 300)
        await book.close(spool)
        await spool.close()


async def _least_cap(book: Book) -> None:
    """Five times as much as the cap holds: the cap is kept at every moment, the oldest go, and space is given back."""
    spool = book.open()
    await book.put(spool, 5 * book.max_bytes // _N_PAD, n_at_once=10)
    book.line.faults = (await spool.books()).results["r"]["cloud"]["evicted"]
    if book.peak_bytes > book.max_bytes:
        book.line.problems.append(f"{book.peak_bytes} bytes were on disk, the cap is {book.max_bytes}")
    await book.close(spool)
    began_s = time.monotonic()
    while book.on_disk() > _SHARE_LEFT * book.peak_bytes and time.monotonic() - began_s < _WITHIN_S:
        await asyncio.sleep(0.2)
    book.line.recovery_s = round(time.monotonic() - began_s, 2)
    book.line.more["disk_after_drain_share"] = round(book.on_disk() / book.peak_bytes, 3)
    if book.on_disk() > _SHARE_LEFT * book.peak_bytes:
        book.line.problems.append(f"{book.on_disk()} of {book.peak_bytes} bytes are left a minute after the drain")
    await spool.close()


async def _lower_cap(book: Book) -> None:
    """64 MiB in the first life, 16 in the second: the oldest go, counted, and the newest are there."""
    spool = book.open()
    await book.put(spool, 12_000, n_at_once=10)
    await spool.close()
    before, book.max_bytes = book.on_disk(), 16 * MIB
    async with asyncio.timeout(_WITHIN_S):
        spool = book.open()
        began_s = time.monotonic()
        while book.on_disk() > book.max_bytes:
            await asyncio.sleep(0.05)
        book.line.recovery_s = round(time.monotonic() - began_s, 2)
        await book.close(spool)
        await spool.close()
    book.line.faults = book.line.evicted
    if before <= 16 * MIB or not book.kept & book.given.keys():
        book.line.problems.append("vacuous: the lower cap took nothing away, or everything")
    if max(book.kept) not in book.given or book.order[-2] != max(book.kept - {max(book.kept)}):
        book.line.problems.append("the newest are not there")


TESTS = ("5 full disk", "5 read-only disk", "5 cap of 16 MiB", "5 cap lowered from 64 to 16 MiB")


def parts(run: Run) -> list[Part]:
    """Each on a spool of its own."""
    tests = [test for test in TESTS if test != TESTS[1] or _may_mount()]
    if len(tests) < len(TESTS):
        say(f"{TESTS[1]}: left out, only root may mount")
    return [Part(test, "gatewayd's spool", partial(_play, seed=run.seed, test=test), seconds=20) for test in tests]


def _play(folder: Path, seed: int, test: str) -> Line:
    line = Line(test=test, subject="gatewayd's spool", seed=seed)
    max_bytes = (64 if test == TESTS[3] else 16) * MIB
    with _disk(folder, is_small=test in TESTS[:2]) as (place, is_mounted):
        book = Book(place, line, max_bytes=max_bytes)
        with figures(place, line):
            asyncio.run(_story(book, test, is_mounted))
            line.acked = len(book.kept)
        book.fill()
    line.more["disk"] = "tmpfs of 8 MiB" if is_mounted else "the file system, or a VFS that says it is full"
    judge(line, min_acked=300, min_faults=1)
    return line


def _story(book: Book, test: str, is_mounted: bool) -> Coroutine[Any, Any, None]:
    if test == TESTS[1]:
        return _read_only(book, lambda how: _mount("-o", f"remount,{how}", str(book.folder)))
    if test == TESTS[2]:
        return _least_cap(book)
    if test == TESTS[3]:
        return _lower_cap(book)
    filler = book.folder / "filler"
    if is_mounted:
        return _full(book, lambda: _take_all(filler), filler.unlink)
    return _full_below(book)


async def _full_below(book: Book) -> None:
    """Without a mount: from the 400th write on there is no space, until it is mended."""
    with faulty("write", 10**9, for_ever=True, is_full=True) as disk:

        def fill() -> None:
            disk._n = 1

        def empty() -> None:
            disk.is_mended = True

        await _full(book, fill, empty)


@contextmanager
def _disk(folder: Path, *, is_small: bool) -> Iterator[tuple[Path, bool]]:
    folder.mkdir(parents=True)
    if not (is_small and _may_mount()):
        yield folder, False
        return
    _mount("-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder))
    try:
        yield folder, True
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _may_mount() -> bool:
    return os.geteuid() == 0


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


def _take_all(filler: Path) -> None:
    """Somebody else takes all the space there is."""
    with filler.open("ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
