"""A full disk: nothing is taken in, everything can be drained, and it goes on by itself. A real, small file system."""

import asyncio
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from gatewayd.clock import SystemClock
from gatewayd.config import schema
from gatewayd.errors import SpoolFull
from gatewayd.spool import SqliteSpool
from tests.sim.real_spool import MIB, opened, outcome, work

Events = list[tuple[str, Mapping[str, object]]]


def mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or not mount("-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)):
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def open_spool(disk: Path, events: Events, ballast_bytes: int = MIB, max_bytes: int = 16 * MIB) -> SqliteSpool:
    config = schema.Spool(max_bytes=max_bytes, ballast_bytes=ballast_bytes)
    return SqliteSpool.open(
        disk / "state" / "spool.db",
        routes={"r": ["cloud"]},
        policies={},
        config=config,
        clock=SystemClock(),
        on_event=lambda name, fields: events.append((name, fields)),
    )


def fill(disk: Path) -> None:
    """Somebody else takes all there is."""
    with (disk / "filler").open("ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


async def produce_until_full(spool: SqliteSpool, name: str) -> list[str]:
    stored = []
    for n in range(2000):
        if await outcome(spool.commit(work(f"{name}-{n}", size=3000))) == "full":
            return stored
        stored.append(f"{name}-{n}")
    raise AssertionError("the disk never got full")


async def drain(spool: SqliteSpool) -> list[str]:
    keys: list[str] = []
    while lease := await spool.try_lease("cloud", "r", limit=50, max_bytes=MIB):
        keys += [result.key for result in lease.results]
        await spool.ack(lease, refused={})
    return keys


async def resume(spool: SqliteSpool) -> None:
    while await outcome(spool.commit(work("again"))) == "full":
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("who", ["the spool itself", "somebody else"])
async def test_a_full_disk_is_drained_and_then_things_are_taken_in_again(disk: Path, who: str) -> None:
    events: Events = []
    async with open_spool(disk, events) as spool, asyncio.timeout(40):
        stored = [f"first-{n}" for n in range(300)]
        for key in stored:
            await spool.commit(work(key, size=3000))
        if who == "somebody else":
            fill(disk)

        stored += await produce_until_full(spool, "more")
        assert await outcome(spool.commit(work("refused"))) == "full"
        assert await drain(spool) == stored
        (disk / "filler").unlink(missing_ok=True)
        await resume(spool)

        assert spool.is_healthy
        assert (await spool.books()).balanced
        assert [fields["is_there"] for name, fields in events if name == "ballast"][:2] == [False, True]


async def test_a_spool_is_opened_and_drained_on_a_full_disk(disk: Path) -> None:
    async with open_spool(disk, []) as spool:
        await spool.commit(work(*map(str, range(200)), size=3000))
    fill(disk)

    async with open_spool(disk, []) as spool, asyncio.timeout(20):
        assert await outcome(spool.commit(work("refused"))) == "full"
        assert await drain(spool) == list(map(str, range(200)))


async def test_no_spool_on_a_full_disk_is_said_in_words_and_later_there_is_one(disk: Path) -> None:
    (disk / "state").mkdir()
    fill(disk)
    with pytest.raises(SpoolFull, match="disk is full"):
        open_spool(disk, [])
    (disk / "filler").unlink()

    async with open_spool(disk, []) as spool:
        await spool.commit(work("1"))


async def test_a_read_only_file_system_is_said_in_words_and_later_the_spool_opens(disk: Path) -> None:
    async with open_spool(disk, []) as spool:
        await spool.commit(work("1"))
    assert mount("-o", "remount,ro", str(disk))
    with pytest.raises(SpoolFull, match="read-only"):
        open_spool(disk, [])
    assert mount("-o", "remount,rw", str(disk))

    async with open_spool(disk, []) as spool:
        assert await drain(spool) == ["1"]


async def test_a_cap_lowered_between_two_starts_evicts_the_oldest_and_the_file_gets_smaller(tmp_path: Path) -> None:
    async with opened(tmp_path, max_bytes=64 * MIB) as spool:
        for n in range(1200):
            await spool.commit(work(str(n), size=20_000))
    assert (tmp_path / "spool.db").stat().st_size > 20 * MIB

    async with opened(tmp_path, max_bytes=16 * MIB) as spool, asyncio.timeout(40):
        lines = (await spool.books()).results["r"]["cloud"]
        assert lines["evicted"] > 0
        assert lines["pending"] > 500
        while sum(file.stat().st_size for file in tmp_path.glob("spool.*")) > 16 * MIB:
            await asyncio.sleep(0.05)
        assert (await drain(spool))[-1] == "1199"
