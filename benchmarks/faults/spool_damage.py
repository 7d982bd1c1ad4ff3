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
from pathlib import Path

from gatewayd.config import schema
from gatewayd.errors import FatalError
from gatewayd.ports import DeadLetter, NewResult, RawMessage, Work
from gatewayd.spool import SqliteSpool
from tests.sim.real_spool import MIB, FakeClock

ROUTES = {"direct": ("cloud", "file"), "slow": ("cloud",)}
PAGE = 4096
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
    n_phantom: int = 0  # came back and had never been pending
    kinds: dict[str, list[int]] = field(default_factory=dict)  # kind -> [images, rows, rows that came back]
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
        try:
            n_back = asyncio.run(_look(image, promised, found))
        except Exception as error:
            found.problems.append(f"{n} {kind}: {error!r}")
            n_back = 0
        else:
            found.n_opened += 1
        tally = found.kinds.setdefault(kind, [0, 0, 0])
        for place, amount in enumerate((1, len(promised), n_back)):
            tally[place] += amount
        found.n_images += 1
        found.n_rows += len(promised)
        found.n_back += n_back
        shutil.rmtree(image)
    return found


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


async def _look(image: Path, promised: dict[tuple[str, str], str], found: Found) -> int:
    try:
        return await _look_once(image, promised, found)
    except FatalError:  # noticed while it ran: the process ends, and the next start mends it
        return await _look_once(image, promised, found)


async def _look_once(image: Path, promised: dict[tuple[str, str], str], found: Found) -> int:
    async with _open(image) as spool:
        await spool.commit(Work(route="direct", received=1, handled=1, results=[_result("fresh")]))
        there = await _all(spool)
        if not (await spool.books()).balanced:
            found.problems.append(f"{image.name}: the books do not balance")
    if there.pop(("direct", "fresh"), None) is None:
        found.problems.append(f"{image.name}: a fresh result did not get through")
    found.n_damaged += bool(list(image.glob("corrupt-*")))
    back = sum(promised.get(place) == _digest(data) for place, data in there.items())
    for place, data in there.items():
        key = place[1]
        found.n_corrupt += data != _data(key) and place in promised
        found.n_phantom += place not in promised and data != _data(key)
    return back


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
