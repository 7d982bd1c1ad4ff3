"""Power cuts: crash images of a spool in use, each opened again; nothing that was promised may be missing.

python -m benchmarks.faults.spool_images [--images 200] [--seed 1] [--synchronous FULL|NORMAL]

`synchronous=NORMAL` is there to show that the test bites: it must lose something.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import apsw

from benchmarks.faults.bench import Part, Run
from gatewayd.config import schema
from gatewayd.ports import DeadLetter, NewResult, RawMessage, Work
from gatewayd.spool import SqliteSpool, database
from tests.sim.oracle import Line, judge
from tests.sim.real_spool import MIB, FakeClock
from tests.sim.rig import status_kb
from tests.sim.vfs import Op, Platter, RecordingDisk, recording

ROUTES = {"direct": ("cloud", "file"), "slow": ("cloud",)}
TEST = "3 power cuts"
_CONFIG = schema.Spool(max_bytes=8 * MIB, max_dead_letters=1000)


@dataclass
class Found:
    """What the images showed."""

    n_images: int = 0
    n_checkpoints: int = 0  # in the life that was recorded
    n_tried: int = 0  # begun before the cut, over all images
    n_promises: int = 0  # of them answered
    n_kept: int = 0  # of the answered there as they were, or acked by the cloud
    n_lost: int = 0
    n_phantom: int = 0  # there, and nobody had tried
    n_corrupt: int = 0  # there with another content than was tried
    n_fresh: int = 0  # images in which a fresh result got through
    slowest_s: float = 0.0  # to open and read
    n_bytes_written: int = 0  # in the life that was recorded
    n_works: int = 0
    max_wal_bytes: int = 0
    n_again: int = 0  # results that were acked and are offered again
    n_unbalanced: int = 0
    n_damaged: int = 0  # moved aside, or integrity_check has something to say

    @property
    def is_good(self) -> bool:
        """Whether every promise held."""
        bad = self.n_lost or self.n_again or self.n_unbalanced or self.n_damaged or self.n_phantom or self.n_corrupt
        return self.n_promises > 0 and self.n_checkpoints >= 5 and not bad


def run_images(folder: Path, *, n_images: int, seed: int, synchronous: str = "FULL") -> Found:
    """Use a spool once, on record, and open `n_images` of what power cuts would have left of it."""
    with _synchronous(synchronous), recording() as disk:
        asyncio.run(_use(folder / "life", disk, random.Random(seed)))
    draw = random.Random(seed)
    found = _found_in(disk.log)
    # The moments right after a promise are the ones that matter most: half of the cuts are there.
    marks = [at for at, op in enumerate(disk.log) if op.kind == "mark" and not _is_try(op.mark)]
    cuts = sorted(draw.choice(marks) if n % 2 else draw.randrange(len(disk.log)) for n in range(n_images))
    platter, done = Platter(), 0
    for n, cut in enumerate(cuts):
        for op in disk.log[done : cut + 1]:
            platter.apply(op)
        done = max(done, cut + 1)
        image = folder / f"image-{n}"
        image.mkdir()
        for name, content in platter.image(draw).items():
            (image / name).write_bytes(content)
        began_s = time.monotonic()
        asyncio.run(_look(image, platter.marks, found))
        found.slowest_s = max(found.slowest_s, time.monotonic() - began_s)
        shutil.rmtree(image)
    return found


def _found_in(log: Sequence[Op]) -> Found:
    writes = [op for op in log if op.kind == "write"]
    return Found(
        n_checkpoints=sum(op.kind == "sync" and op.file == "spool.db" for op in log),
        n_bytes_written=sum(len(op.data) for op in writes),
        n_works=sum(op.kind == "mark" and not _is_try(op.mark) for op in log),
        max_wal_bytes=max((op.at + len(op.data) for op in writes if op.file.endswith("-wal")), default=0),
    )


def _is_try(mark: object) -> bool:
    return isinstance(mark, tuple) and mark[0] == "try"


def parts(run: Run) -> list[Part]:
    """Case 3: with synchronous=FULL nothing is lost; with NORMAL something is, or the test would not bite."""
    n_images = run.size(200, 5000)
    return [
        Part(TEST, _subject(level), partial(_cut, seed=run.seed, n_images=n_images, level=level), seconds=n_images / 30)
        for level in ("FULL", "NORMAL")
    ]


def _subject(level: str) -> str:
    return "gatewayd's spool" if level == "FULL" else f"the same with {level}, to show that the test bites"


def _cut(folder: Path, seed: int, n_images: int, level: str) -> Line:
    folder.mkdir(parents=True)
    found = run_images(folder, n_images=n_images, seed=seed, synchronous=level)
    line = Line(test=TEST, subject=_subject(level), seed=seed)
    line.faults = found.n_images
    line.sent, line.acked, line.delivered_unique = found.n_tried, found.n_promises, found.n_kept
    line.lost, line.phantom, line.corrupt, line.resent = found.n_lost, found.n_phantom, found.n_corrupt, found.n_again
    line.fresh_event_ok = found.n_fresh == found.n_images
    line.recovery_s = round(found.slowest_s, 2)
    line.peak_rss_mb = round(status_kb(os.getpid(), "VmHWM") / 1024, 1)
    line.max_wal_mb = round(found.max_wal_bytes / MIB, 2)
    line.bytes_written_per_msg = round(found.n_bytes_written / max(1, found.n_works), 1)
    line.more |= {"synchronous": level, "checkpoints": found.n_checkpoints, "damaged": found.n_damaged}
    line.more["simulated"] = "unsynced writes dropped, reordered and torn by a VFS below SQLite"
    if level == "NORMAL":
        if not found.n_lost:
            line.problems.append("vacuous: nothing was lost without full sync")
        return line
    judge(line, min_acked=n_images * 100, min_faults=n_images)
    for name in ("n_again", "n_unbalanced", "n_damaged"):
        if getattr(found, name):
            line.problems.append(f"{name}: {getattr(found, name)}")
    if found.n_checkpoints < 5:
        line.problems.append(f"vacuous: {found.n_checkpoints} checkpoints")
    return line


def _open(folder: Path) -> SqliteSpool:
    return SqliteSpool.open(folder / "spool.db", routes=ROUTES, policies={}, config=_CONFIG, clock=FakeClock())


async def _use(folder: Path, disk: RecordingDisk, draw: random.Random) -> None:
    for life in range(3):
        async with _open(folder) as spool, asyncio.TaskGroup() as tasks:
            for lane in range(3):
                name = f"{life}-{lane}"
                tasks.create_task(_produce(spool, disk, random.Random(f"{draw.random()}"), name), name=f"lane[{name}]")
            tasks.create_task(_deliver(spool, disk, random.Random(f"{draw.random()}")), name="deliver")


async def _produce(spool: SqliteSpool, disk: RecordingDisk, draw: random.Random, lane: str) -> None:
    for n in range(40):
        key = f"{lane}-{n}"
        data = draw.randbytes(draw.choice((20, 300, 9000)))
        disk.mark(("try", key, data))
        await spool.commit(Work(route="direct", received=1, handled=1, results=[_result(key, data)]))
        disk.mark(("result", key, data))
        raw = RawMessage(topic="t", payload=data, time=1.0, key=key)
        (row,) = await spool.commit(Work(route="slow", received=1, journal=[raw]))
        disk.mark(("journal", row, data))
        if n % 3 == 0:
            await spool.commit(Work(route="slow", handled=1, done=[row], results=[_result("s" + key, data)]))
            disk.mark(("done", row, data))
            disk.mark(("slow", "s" + key, data))
        if n % 7 == 0:
            letter = DeadLetter(route="slow", reason="decode", detail="", topic="t", payload=data, time=1.0, key=key)
            await spool.commit(Work(route="slow", received=1, dead=[letter]))
            disk.mark(("dead", key, data))


async def _deliver(spool: SqliteSpool, disk: RecordingDisk, draw: random.Random) -> None:
    for _ in range(15):
        await asyncio.sleep(0.002)
        lease = await spool.try_lease("cloud", "direct", limit=draw.randrange(1, 8), max_bytes=MIB)
        if lease is not None:
            await spool.ack(lease, refused={})
            for result in lease.results:
                disk.mark(("acked", result.key, b""))


def _result(key: str, data: bytes) -> NewResult:
    return NewResult(key=key, kind="k", subject="t", time=1.0, data=data)


async def _look(image: Path, marks: list[object], found: Found) -> None:
    async with _open(image) as spool:
        books = await spool.books()
        there: dict[str, dict[object, bytes]] = {}
        for kind, sink, route in (("result", "cloud", "direct"), ("file", "file", "direct"), ("slow", "cloud", "slow")):
            lease = await spool.try_lease(sink, route, limit=100_000, max_bytes=1 << 30)
            there[kind] = {result.key: result.data for result in lease.results} if lease else {}
            if lease is not None:
                await spool.ack(lease, refused={})
        entries = await spool.journal("slow", after=0, limit=100_000)
        there["journal"] = {entry.id: entry.message.payload for entry in entries}
        await spool.commit(Work(route="direct", received=1, handled=1, results=[_result("fresh", b"")]))
        fresh = await spool.try_lease("cloud", "direct", limit=100_000, max_bytes=1 << 30)
    there["dead"] = _dead(image)
    tried: dict[object, bytes] = {mark[1]: mark[2] for mark in marks if isinstance(mark, tuple) and mark[0] == "try"}
    promises = [mark for mark in marks if not _is_try(mark)]
    lost, again = _missing(promises, there)
    found.n_images += 1
    found.n_fresh += fresh is not None and any(result.key == "fresh" for result in fresh.results)
    found.n_tried += len(promises) + sum(_n_unanswered(tried, promises).values())
    found.n_promises += len(promises)
    found.n_kept += len(promises) - lost
    found.n_lost += lost
    _compare(tried, there, found)
    found.n_again += again
    found.n_unbalanced += not books.balanced
    connection = apsw.Connection(str(image / "spool.db"))
    is_whole = connection.pragma("integrity_check") == "ok"
    connection.close()
    found.n_damaged += bool(not is_whole or list(image.glob("corrupt-*")))


def _n_unanswered(tried: Mapping[object, bytes], promises: Sequence[object]) -> dict[object, int]:
    """Keys whose first work was begun and not answered."""
    answered = {mark[1] for mark in promises if isinstance(mark, tuple) and mark[0] == "result"}
    return {key: 1 for key in tried if key not in answered}


def _compare(tried: Mapping[object, bytes], there: Mapping[str, Mapping[object, bytes]], found: Found) -> None:
    """Everything that is there, with what was tried."""
    contents = set(tried.values())
    for kind, rows in there.items():
        for key, data in rows.items():
            name = str(key).removeprefix("s") if kind == "slow" else key
            if kind == "journal":
                found.n_phantom += data not in contents
            elif name not in tried:
                found.n_phantom += 1
            else:
                found.n_corrupt += data != tried[name]


def _dead(image: Path) -> dict[object, bytes]:
    connection = apsw.Connection(str(image / "spool.db"))
    letters: dict[object, bytes] = dict(connection.execute("SELECT key, payload FROM dead"))
    connection.close()
    return letters


def _missing(marks: list[object], there: Mapping[str, Mapping[object, bytes]]) -> tuple[int, int]:
    """Promises not kept; results acked that are there again. A result that was done or acked need not be there."""
    promised: dict[tuple[str, object], bytes] = {mark[:2]: mark[2] for mark in marks if isinstance(mark, tuple)}
    lost = again = 0
    for (kind, key), data in promised.items():
        if kind == "result":
            lost += there["file"].get(key) != data  # nobody acks for this sink
            # What the cloud took in a moment that is not on record as acked yet may be gone already.
            later = there["result"].get(key)
            lost += later not in {data, None} or (later is None and not _may_be_gone(key, there, promised))
        elif kind == "acked":
            again += key in there["result"]
        elif kind == "journal":
            is_done = ("done", key) in promised
            kept = there["journal"].get(key)
            lost += not is_done and kept != data and not _is_answered(data, there)
            again += is_done and kept is not None
        elif kind in {"slow", "dead"}:
            lost += there[kind].get(key) != data
    return lost, again


def _may_be_gone(
    key: object, there: Mapping[str, Mapping[object, bytes]], promised: Mapping[tuple[str, object], bytes]
) -> bool:
    """Acked, or older than what is left: an ack that was on its way resolves a prefix."""
    if ("acked", key) in promised:
        return True
    order = list(there["file"])
    left = [place for place, known in enumerate(order) if known in there["result"]]
    return key in order and (not left or order.index(key) < left[0])


def _is_answered(data: bytes, there: Mapping[str, Mapping[object, bytes]]) -> bool:
    return data in there["slow"].values()  # done in a commit that nobody was told of


@contextmanager
def _synchronous(level: str) -> Iterator[None]:
    real = database._PRAGMAS
    database._PRAGMAS = {**real, "synchronous": level}  # type: ignore[assignment]
    try:
        yield
    finally:
        database._PRAGMAS = real


def main() -> None:
    """Print one line of JSON; the exit status says whether the promise held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--synchronous", choices=["FULL", "NORMAL"], default="FULL")
    args = parser.parse_args()
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = run_images(Path(folder), n_images=args.images, seed=args.seed, synchronous=args.synchronous)
    line = {"test": "power_cut", "subject": "gatewayd", "seed": args.seed, "synchronous": args.synchronous}
    print(json.dumps({**line, **vars(found), "seconds": round(time.monotonic() - started_s, 1)}))
    raise SystemExit(found.is_good != (args.synchronous == "FULL"))


if __name__ == "__main__":
    main()
