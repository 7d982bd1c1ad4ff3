"""Damaged spools: each must open, with books that balance and with what could still be read.

python -m benchmarks.faults.spool_damage [--images 500] [--seed 1]
"""

import argparse
import asyncio
import hashlib
import json
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.faults.bench import Part, Run
from benchmarks.faults.here import figures
from gatewayd.config import schema
from gatewayd.errors import FatalError
from gatewayd.ports import DeadLetter, NewResult, RawMessage, Work
from gatewayd.spool import SqliteSpool
from gatewayd.spool.books import Books
from tests.sim.oracle import Line, judge
from tests.sim.real_spool import MIB, FakeClock

ROUTES = {"direct": ("cloud", "file"), "slow": ("cloud",)}
PAGE = 4096
TEST = "11 damaged databases"
# Of these nobody can tell from the files alone how much is missing: what they lack, their counters lack too.
UNKNOWABLE = {"WAL lost", "WAL garbled"}
_LEAST_BACK = {"bit flips": 0.95, "zeroed pages": 0.95, "header": 0.99, "WAL lost": 0.9, "WAL garbled": 0.9}
_CONFIG = schema.Spool(max_bytes=16 * MIB)


@dataclass
class Found:
    """What the images showed. Rows: results of each route, and messages of the journal."""

    n_images: int = 0
    n_opened: int = 0
    n_damaged: int = 0  # noticed, moved aside
    n_rows: int = 0  # there were, over all images
    n_back: int = 0  # of them came back as they were
    n_corrupt: int = 0  # came back with another content
    n_phantom: int = 0  # came back and had never been there
    n_again: int = 0  # came back and had been delivered
    n_counted: int = 0  # did not come back, and the books say so
    n_uncounted: int = 0  # did not come back, and the books do not know of it
    n_fresh: int = 0  # images in which a fresh result got through
    slowest_s: float = 0.0  # to open and read
    kinds: dict[str, list[int]] = field(default_factory=dict)  # kind -> [images, rows, back, counted, uncounted]
    problems: list[str] = field(default_factory=list)


def run_damage(folder: Path, *, n_images: int, seed: int) -> Found:
    """Make a spool, damage `n_images` copies of it and open each."""
    asyncio.run(_make(folder / "old", 40))
    shutil.copytree(folder / "old", folder / "whole")
    promised = asyncio.run(_make(folder / "whole", 120))
    found = Found()
    kinds = list(DAMAGES)
    for n in range(n_images):
        draw = random.Random(f"{seed}-{n}")
        kind = kinds[n % len(kinds)]
        image = folder / f"image-{n}"
        shutil.copytree(folder / "whole" / "crashed", image)
        DAMAGES[kind](image / "spool.db", draw, folder / "old" / "crashed" / "spool.db")
        began_s = time.monotonic()
        try:
            n_back, n_counted = asyncio.run(_look(image, promised, found))
        except Exception as error:
            found.problems.append(f"{n} {kind}: {error!r}")
            n_back = n_counted = 0
        else:
            found.n_opened += 1
        found.slowest_s = max(found.slowest_s, time.monotonic() - began_s)
        _tally(found, kind, len(promised), n_back, n_counted)
        shutil.rmtree(image)
    return found


def _tally(found: Found, kind: str, n_rows: int, n_back: int, n_counted: int) -> None:
    n_missing = n_rows - n_back
    n_uncounted = max(0, n_missing - n_counted)
    tally = found.kinds.setdefault(kind, [0, 0, 0, 0, 0])
    for place, amount in enumerate((1, n_rows, n_back, n_missing - n_uncounted, n_uncounted)):
        tally[place] += amount
    found.n_images += 1
    found.n_rows += n_rows
    found.n_back += n_back
    found.n_counted += n_missing - n_uncounted
    found.n_uncounted += n_uncounted


def parts(run: Run) -> list[Part]:
    """Case 11: each kind of damage to as many copies as any other."""
    play = partial(_damage, seed=run.seed, n_images=run.size(500, 5000))
    return [Part(TEST, "gatewayd's spool", play, seconds=run.size(50, 500))]


def _damage(folder: Path, seed: int, n_images: int) -> Line:
    line = Line(test=TEST, subject="gatewayd's spool", seed=seed)
    with figures(folder, line):
        found = run_damage(folder, n_images=n_images, seed=seed)
        line.sent = line.acked = found.n_rows
    fill(line, found)
    return line


def fill(line: Line, found: Found) -> None:
    """What the images showed, and what of it does not hold."""
    gone = [tally for kind, tally in found.kinds.items() if kind not in UNKNOWABLE]
    line.faults = found.n_images
    line.sent = line.acked = found.n_rows
    line.delivered_unique = found.n_back
    line.lost = sum(n_uncounted for *_, n_uncounted in gone)
    line.resent = found.n_again
    line.phantom, line.corrupt = found.n_phantom, found.n_corrupt
    line.evicted = found.n_counted
    line.recovery_s = round(found.slowest_s, 2)
    line.fresh_event_ok = found.n_fresh == found.n_images
    line.problems += found.problems
    line.more |= {
        "opened": f"{found.n_opened} of {found.n_images}",
        "noticed": found.n_damaged,
        "salvaged_share": round(found.n_back / max(1, found.n_rows), 4),
        "salvaged_share_by_kind": {kind: round(back / rows, 4) for kind, (_, rows, back, _, _) in found.kinds.items()},
        "counted_as_damaged": found.n_counted,
        "could_not_be_known": found.n_uncounted - line.lost,  # the newest commits, or the books, were in what is gone
        "uncounted_by_kind": {kind: tally[-1] for kind, tally in found.kinds.items()},
    }
    judge(line, min_acked=found.n_images * 100, min_faults=found.n_images)
    if found.n_opened != found.n_images:
        line.problems.append(f"opened: {line.more['opened']}")
    if found.n_damaged < found.n_images // 4 or not found.n_counted:
        line.problems.append(f"vacuous: {found.n_damaged} images found damaged, {found.n_counted} rows missed")
    for kind, least in _LEAST_BACK.items():
        if line.more["salvaged_share_by_kind"][kind] < least:
            line.problems.append(f"{kind}: {line.more['salvaged_share_by_kind'][kind]} came back, {least} is the least")


def _open(folder: Path) -> SqliteSpool:
    return SqliteSpool.open(folder / "spool.db", routes=ROUTES, policies={}, config=_CONFIG, clock=FakeClock())


def _data(key: str) -> bytes:
    draw = random.Random(key)
    return json.dumps({"key": key, "noise": draw.randbytes(draw.choice((20, 200, 3000))).hex()}).encode()


async def _make(folder: Path, n_works: int) -> dict[tuple[str, str], str]:
    """Use a spool and copy it as a crash would leave it; (kind, key) -> digest of what is in it."""
    async with _open(folder) as spool:
        for n in range(n_works):
            keys = [f"{n_works}-{n}-{i}" for i in range(4)]
            for route, kind in (("direct", "d"), ("slow", "s")):
                results = [_result(kind + key) for key in keys]
                await spool.commit(
                    Work(
                        route=route,
                        received=4,
                        handled=4,
                        results=results,
                        seen=[kind.encode() + k.encode() for k in keys],
                    )
                )
            raws = [RawMessage(topic="t", payload=_data("j" + key), time=1.0, key="j" + key) for key in keys]
            await spool.commit(Work(route="slow", received=4, journal=raws))
            letter = DeadLetter(
                route="slow", reason="decode", detail="", topic="t", payload=b"p", time=1.0, key=keys[0]
            )
            await spool.commit(Work(route="slow", received=1, dead=[letter]))
        for sink in ("cloud", "file"):
            lease = await spool.try_lease(sink, "direct", limit=30, max_bytes=MIB)
            if lease is not None:
                await spool.ack(lease, refused={})
        (folder / "crashed").mkdir(exist_ok=True)
        for name in ("spool.db", "spool.db-wal"):
            shutil.copy(folder / name, folder / "crashed" / name)
        return {place: _digest(data) for place, data in (await _all(spool)).items()}


def _result(key: str) -> NewResult:
    return NewResult(key=key, kind="k", subject="t", time=1.0, data=_data(key))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def _all(spool: SqliteSpool) -> dict[tuple[str, str], bytes]:
    there: dict[tuple[str, str], bytes] = {}
    for route in ROUTES:
        lease = await spool.try_lease("cloud", route, limit=100_000, max_bytes=1 << 30)
        there |= {(route, result.key): result.data for result in lease.results} if lease else {}
    entries = await spool.journal("slow", after=0, limit=100_000)
    return there | {("journal", entry.message.key): entry.message.payload for entry in entries}


async def _look(image: Path, promised: dict[tuple[str, str], str], found: Found) -> tuple[int, int]:
    try:
        return await _look_once(image, promised, found)
    except FatalError:  # noticed while it ran: the process ends, and the next start mends it
        return await _look_once(image, promised, found)


async def _look_once(image: Path, promised: dict[tuple[str, str], str], found: Found) -> tuple[int, int]:
    """Of what was promised: how much came back as it was, and how much the books count as damaged."""
    async with _open(image) as spool:
        await spool.commit(Work(route="direct", received=1, handled=1, results=[_result("fresh")]))
        there = await _all(spool)
        books = await spool.books()
        if not books.balanced:
            found.problems.append(f"{image.name}: the books do not balance")
    is_fresh = there.pop(("direct", "fresh"), None) is not None
    found.n_fresh += is_fresh
    if not is_fresh:
        found.problems.append(f"{image.name}: a fresh result did not get through")
    found.n_damaged += bool(list(image.glob("corrupt-*")))
    back = sum(promised.get(place) == _digest(data) for place, data in there.items())
    for place, data in there.items():
        is_ours = data == _data(place[1])
        found.n_corrupt += not is_ours and place in promised
        found.n_phantom += not is_ours and place not in promised
        found.n_again += is_ours and place not in promised
    return back, _counted(books)


def _counted(books: Books) -> int:
    """What the books call damaged, for the sink and the journal that `_all` reads."""
    places = [f"results/{route}/cloud/evicted" for route in ROUTES] + ["messages/slow/evicted", "messages/slow/dead"]
    return sum(books.reasons.get(place, {}).get("damaged", 0) for place in places)


def _flip(path: Path, draw: random.Random, _old: Path) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(draw.choice((1, 8, 64))):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def _cut(path: Path, draw: random.Random, _old: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(draw.randrange(path.stat().st_size))


def _zero(path: Path, draw: random.Random, _old: Path) -> None:
    n_pages = path.stat().st_size // PAGE
    with path.open("r+b") as file:
        for _ in range(draw.choice((1, 4, 16))):
            file.seek(PAGE * draw.randrange(n_pages))
            file.write(bytes(PAGE))


def _head(path: Path, draw: random.Random, _old: Path) -> None:
    with path.open("r+b") as file:
        file.write(draw.randbytes(draw.choice((16, 100, PAGE))))


def _lose_wal(path: Path, _draw: random.Random, _old: Path) -> None:
    path.with_name("spool.db-wal").unlink()


def _garble_wal(path: Path, draw: random.Random, old: Path) -> None:
    draw.choice((_flip, _cut, _zero))(path.with_name("spool.db-wal"), draw, old)


def _swap(path: Path, _draw: random.Random, old: Path) -> None:
    shutil.copy(old, path)


def _noise(path: Path, draw: random.Random, _old: Path) -> None:
    path.write_bytes(draw.randbytes(path.stat().st_size))


DAMAGES: dict[str, Callable[[Path, random.Random, Path], None]] = {
    "bit flips": _flip,
    "cut off": _cut,
    "zeroed pages": _zero,
    "header": _head,
    "WAL lost": _lose_wal,
    "WAL garbled": _garble_wal,
    "old copy": _swap,
    "bit flips, again": _flip,
    "zeroed pages, again": _zero,
    "noise": _noise,
}


def main() -> None:
    """Print one line of JSON; the exit status says whether every image opened in good order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = run_damage(Path(folder), n_images=args.images, seed=args.seed)
    line = {"test": "damage", "subject": "gatewayd", "seed": args.seed, **vars(found)}
    print(json.dumps({**line, "seconds": round(time.monotonic() - started_s, 1)}))
    raise SystemExit(bool(found.problems) or found.n_opened != found.n_images)


if __name__ == "__main__":
    main()
