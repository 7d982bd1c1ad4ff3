"""Rows read from the pages as they lie: all that are there, none that were deleted, whatever else is broken."""

import random
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from gatewayd.ports import Work
from gatewayd.spool.pages import Pages
from gatewayd.spool.sums import result_sum
from gatewayd.spool.wal import PAGE_BYTES, Wal
from tests.sim.real_spool import opened, raw, result, work

N_ROWS = 2000  # enough for a tree of three levels of pages


async def filled(folder: Path) -> Path:
    async with opened(folder) as spool:
        draw = random.Random(1)
        sizes = [draw.choice((10, 300, 1500, 4070, 9000, 30_000)) if n % 50 == 0 else 100 for n in range(N_ROWS)]
        for begin in range(0, N_ROWS, 100):
            results = [result(f"k{n}", sizes[n]) for n in range(begin, begin + 100)]
            await spool.commit(Work(route="r", received=100, handled=100, results=results))
        await spool.commit(Work(route="r", received=1, journal=[raw("j", 5000)]))
    return folder / "spool.db"


def whole_results(path: Path) -> set[str]:
    """Keys of the results whose checksums are right."""
    pages = Pages(path, Wal())
    try:
        return {
            values[1]
            for row, values in pages.rows()
            if len(values) == 8 and isinstance(values[3], str) and result_sum(row, *values[1:7]) == values[7]
        }
    finally:
        pages.close()


def page_types(path: Path) -> dict[int, int]:
    content = path.read_bytes()
    return {at // PAGE_BYTES + 1: content[at] for at in range(0, len(content), PAGE_BYTES)}


def overwrite(path: Path, numbers: list[int], content: Callable[[], bytes]) -> None:
    with path.open("r+b") as file:
        for number in numbers:
            file.seek((number - 1) * PAGE_BYTES)
            file.write(content())


async def test_every_row_is_found_long_ones_too(tmp_path: Path) -> None:
    path = await filled(tmp_path)

    assert whole_results(path) == {f"k{n}" for n in range(N_ROWS)}


async def test_a_tree_without_its_inner_pages_and_the_first_page_has_all_its_rows(tmp_path: Path) -> None:
    path = await filled(tmp_path)
    inner = [number for number, kind in page_types(path).items() if kind == 0x05]
    assert inner

    overwrite(path, [1, *inner], lambda: bytes(PAGE_BYTES))

    assert whole_results(path) == {f"k{n}" for n in range(N_ROWS)}
    async with opened(tmp_path) as spool:
        lease = await spool.try_lease("cloud", "r", limit=N_ROWS, max_bytes=1 << 30)
        assert lease is not None
        assert [stored.key for stored in lease.results] == [f"k{n}" for n in range(N_ROWS)]
        [entry] = await spool.journal("r", after=0, limit=10)
        assert entry.message == raw("j", 5000)
        books = await spool.books()
    assert books.balanced
    assert books.results["r"]["cloud"]["evicted"] == 0


async def test_rows_that_were_deleted_do_not_come_back(tmp_path: Path) -> None:
    path = await filled(tmp_path)
    connection = apsw.Connection(str(path))
    connection.execute("DELETE FROM results WHERE id & 1048575 <= 1500 OR id % 7 = 0")
    left = {key for (key,) in connection.execute("SELECT key FROM results")}
    connection.close()
    assert 300 < len(left) < 500

    assert whole_results(path) == left


@pytest.mark.parametrize("head", [b"\0", b"\x0d\0\0\0\0", b"\x0d\0\0\xff\xff", b"\x0a"])
async def test_a_page_that_does_not_say_where_its_rows_are_is_searched(tmp_path: Path, head: bytes) -> None:
    path = await filled(tmp_path)
    leaves = [number for number, kind in page_types(path).items() if kind == 0x0D]
    content = path.read_bytes()
    number = leaves[len(leaves) // 2]
    page = content[(number - 1) * PAGE_BYTES : number * PAGE_BYTES]

    overwrite(path, [number], lambda: head + page[len(head) :])
    expected = set() if head == b"\x0d\0\0\0\0" else {f"k{n}" for n in range(N_ROWS)}

    assert whole_results(path) >= expected


async def test_noise_is_no_row_and_comes_to_an_end(tmp_path: Path) -> None:
    draw = random.Random(2)
    path = tmp_path / "spool.db"
    path.write_bytes(draw.randbytes(40 * PAGE_BYTES))

    assert whole_results(path) == set()
    async with opened(tmp_path) as spool:
        await spool.commit(work("fresh"))
