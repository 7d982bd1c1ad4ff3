"""Damaged spools open, keep what can be read, and may be killed while they are mended: see benchmarks.faults."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import apsw
import pytest

from benchmarks.faults.spool_damage import run_damage
from gatewayd.ports import NewResult, Work
from gatewayd.spool import aside
from tests.sim.real_spool import opened

Events = list[tuple[str, Mapping[str, object]]]


def test_a_hundred_damaged_spools_open_and_give_back_most_of_what_was_in_them(tmp_path: Path) -> None:
    found = run_damage(tmp_path, n_images=100, seed=1)

    assert found.problems == []
    assert (found.n_corrupt, found.n_phantom) == (0, 0)
    assert (found.n_opened, found.n_images) == (100, 100)
    assert found.n_damaged > 30
    for kind, least in (("bit flips", 0.9), ("zeroed pages", 0.5), ("header", 0.99), ("WAL lost", 0.9)):
        _, n_rows, n_back, *_ = found.kinds[kind]
        assert n_back > least * n_rows, kind


def json_work(*keys: str) -> Work:
    results = [NewResult(key=key, kind="k", subject="t", time=1.0, data=b'{"n":"' + b"x" * 200 + b'"}') for key in keys]
    return Work(route="r", received=len(keys), handled=len(keys), results=results)


async def damaged(folder: Path) -> None:
    """400 results, and some pages in the middle of them zeroed."""
    async with opened(folder) as spool:
        await spool.commit(json_work(*map(str, range(400))))
    path = folder / "spool.db"
    connection = apsw.Connection(str(path))
    connection.execute("UPDATE meta SET value = 0 WHERE name = 'clean'")
    connection.close()
    content = bytearray(path.read_bytes())
    content[4096 * 20 : 4096 * 23] = bytes(3 * 4096)
    path.write_bytes(content)


async def test_what_was_not_found_stands_in_the_books(tmp_path: Path) -> None:
    await damaged(tmp_path)
    events: Events = []

    async with opened(tmp_path, events=events) as spool:
        books = await spool.books()

    lines = books.results["r"]["cloud"]
    assert books.balanced
    assert lines["produced"] == 400
    assert 300 < lines["pending"] < 400
    assert books.reasons["results/r/cloud/evicted"] == {"damaged": 400 - lines["pending"]}
    name, fields = events[0]
    assert (name, fields["n_salvaged"], fields["n_unknown"]) == ("damaged", lines["pending"], 400 - lines["pending"])


async def test_damaged_spools_are_kept_up_to_a_number_and_a_removal_is_told(tmp_path: Path) -> None:
    events: Events = []
    for _ in range(4):
        await damaged(tmp_path)
        async with opened(tmp_path, max_corrupt_kept=2, events=events):
            pass

    assert [folder.name for folder in aside.kept(tmp_path / "spool.db")] == ["corrupt-3", "corrupt-4"]
    assert [name for name, _ in events].count("corrupt_removed") == 2


@pytest.mark.slow
def test_a_kill_at_any_step_of_the_salvage_loses_nothing_of_it(tmp_path: Path) -> None:
    """Every file operation of `aside`, and every transaction of the salvage, is a moment to die at."""
    whole = tmp_path / "whole"
    asyncio.run(damaged(whole))
    (tmp_path / "clean").mkdir()
    (tmp_path / "clean" / "spool.db").write_bytes((whole / "spool.db").read_bytes())
    expected = asyncio.run(salvaged(tmp_path / "clean"))
    n, status = 0, 137
    while status == 137:
        n += 1
        folder = tmp_path / f"killed-{n}"
        folder.mkdir()
        (folder / "spool.db").write_bytes((whole / "spool.db").read_bytes())

        command = [sys.executable, "-m", "tests.fault.test_spool_damage", str(folder), str(n)]
        status = subprocess.run(command, check=False, cwd=Path(__file__).parents[2]).returncode

        assert asyncio.run(salvaged(folder)) == expected, n
        assert len(aside.kept(folder / "spool.db")) == 1
    assert status == 0
    assert n > 8


async def salvaged(folder: Path) -> list[str]:
    async with opened(folder) as spool:
        assert (await spool.books()).balanced
        lease = await spool.try_lease("cloud", "r", limit=1000, max_bytes=1 << 30)
        assert lease is not None
        return [result.key for result in lease.results]


def die_at(n: int) -> None:
    """End this process, as kill -9 would, at the n-th step."""
    left = n

    def step(real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os._exit(137)
            return real(*args, **more)

        return counted

    for name in ("rename", "unlink", "mkdir", "hardlink_to"):
        setattr(Path, name, step(getattr(Path, name)))
    aside.sync = step(aside.sync)
    from gatewayd.spool import salvage

    for name in ("_put_routes", "_put_counters", "_put_cursors", "_settle", "close_database"):
        setattr(salvage, name, step(getattr(salvage, name)))


if __name__ == "__main__":
    die_at(int(sys.argv[2]))
    asyncio.run(salvaged(Path(sys.argv[1])))
