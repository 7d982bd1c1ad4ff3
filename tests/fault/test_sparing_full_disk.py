"""A full disk while results stay in memory: they go on, and what has to be written takes the place of the ballast."""

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gatewayd.spool import SqliteSpool
from gatewayd.spool.policy import RoutePolicy
from tests.sim.real_spool import MIB, opened, outcome, work


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> None:
    """Somebody else takes all there is."""
    with (disk / "filler").open("ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


@asynccontextmanager
async def in_memory(disk: Path) -> AsyncIterator[SqliteSpool]:
    """A spool with a ballast, whose route has gone to memory."""
    policies = {"r": RoutePolicy(write="when_offline")}
    async with opened(disk / "state", policies=policies, max_bytes=16 * MIB, ballast_bytes=MIB) as spool:
        await spool.commit(work("first"))
        assert await drain(spool) == ["first"]
        for _ in range(3):
            await spool.ping()
        yield spool


async def drain(spool: SqliteSpool) -> list[str]:
    keys: list[str] = []
    while lease := await spool.try_lease("cloud", "r", limit=50, max_bytes=MIB):
        keys += [result.key for result in lease.results]
        await spool.ack(lease, refused={})
    return keys


async def test_what_goes_through_memory_does_not_notice(disk: Path) -> None:
    async with in_memory(disk) as spool:
        fill(disk)

        for n in range(300):
            assert await outcome(spool.commit(work(f"r-{n}", size=5000))) == "stored"
            assert await drain(spool) == [f"r-{n}"]

        assert (await spool.books()).balanced


async def test_when_the_cloud_goes_too_what_was_taken_is_written(disk: Path) -> None:
    async with in_memory(disk) as spool:
        await spool.commit(work("a", "b", size=5000))
        fill(disk)
        lease = await spool.try_lease("cloud", "r", limit=1, max_bytes=MIB)
        assert lease is not None

        await spool.nack(lease, delay_s=0.0)
        lease = await spool.lease("cloud", "r", limit=9, max_bytes=MIB)  # as soon as the ballast has made room

        assert [stored.key for stored in lease.results] == ["a", "b"]
        await spool.ack(lease, refused={})
        assert (await spool.books()).balanced


async def test_a_clean_stop_writes_what_is_in_memory(disk: Path) -> None:
    async with in_memory(disk) as spool:
        await spool.commit(work("a", "b", size=5000))
        fill(disk)

    (disk / "filler").unlink()
    async with opened(disk / "state", max_bytes=16 * MIB, ballast_bytes=MIB) as spool:
        assert await drain(spool) == ["a", "b"]
        books = await spool.books()
        assert books.balanced
        assert books.results["r"]["cloud"]["produced"] == 3
