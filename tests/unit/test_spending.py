"""What tiers cost, in the spool: on disk before a request is made, and still there after a crash."""

import subprocess
import sys
import textwrap
from pathlib import Path

import apsw
import pytest

from gatewayd.cascade.budgets import Spending
from gatewayd.spool.database import open_database
from gatewayd.spool.spending import SpendingBook
from tests.sim.real_spool import opened

DAY = "2026-11-21"
SPENT = Spending(n_calls=2, n_tokens=300, n_bytes=4000, n_nanos=50_000)


def on_disk(folder: Path) -> list[tuple[object, ...]]:
    reader = apsw.Connection(str(folder / "spool.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return list(reader.execute("SELECT * FROM spending ORDER BY tier, day"))
    finally:
        reader.close()


async def test_what_is_kept_is_on_disk(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        spool.spending.add("cloud", DAY, SPENT)

        await spool.spending.keep()

        assert on_disk(tmp_path) == [("cloud", DAY, 2, 300, 4000, 50_000)]


async def test_keeping_what_is_kept_already_commits_nothing(tmp_path: Path) -> None:
    events: list[tuple[str, object]] = []
    async with opened(tmp_path, events=events) as spool:  # type: ignore[arg-type]
        await spool.spending.keep()

        assert [name for name, _ in events if name == "commit"] == []


async def test_less_than_was_reserved_is_less_on_disk_at_the_end(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        spool.spending.add("cloud", DAY, SPENT)
        await spool.spending.keep()
        spool.spending.add("cloud", DAY, Spending(n_calls=-1, n_bytes=-1000))

    async with opened(tmp_path) as spool:
        assert spool.spending.days("cloud") == {DAY: Spending(n_calls=1, n_tokens=300, n_bytes=3000, n_nanos=50_000)}
        assert spool.spending.days("another") == {}


async def test_spending_without_a_day_gets_one(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        spool.spending.add("cloud", "", SPENT)
        spool.spending.date("cloud", DAY)
        spool.spending.date("cloud", DAY)

    async with opened(tmp_path) as spool:
        assert spool.spending.days("cloud") == {DAY: SPENT}


async def test_sinks_and_tiers_of_the_same_name_are_counted_apart(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        spool.spending.add("cloud", DAY, SPENT)
        spool.usage.add("cloud", DAY, 7)

    async with opened(tmp_path) as spool:
        assert spool.usage.days("cloud") == {DAY: 7}
        assert spool.spending.days("cloud") == {DAY: SPENT}


@pytest.mark.parametrize("row", [("2026-13-45", 7, 1, 1, 1), (DAY, -7, 1, 1, 1), (DAY, 7, 1, 1, 2**62)])
def test_what_nobody_can_have_counted_is_left_out(tmp_path: Path, row: tuple[object, ...]) -> None:
    connection = open_database(tmp_path / "spool.db", wal_pages=32)
    connection.execute("INSERT INTO spending VALUES ('cloud', ?, ?, ?, ?, ?)", row)
    connection.execute("INSERT INTO spending VALUES ('cloud', '2026-11-20', 5, 1, 1, 1)")

    days = SpendingBook(connection).days("cloud")

    assert days == {"2026-11-20": Spending(n_calls=5, n_tokens=1, n_bytes=1, n_nanos=1)}


def test_a_process_that_is_killed_after_a_reservation_has_spent_it(tmp_path: Path) -> None:
    """A reservation is durable before the request it is for: what dies between the two has spent, not saved."""
    code = """
        import asyncio, os, signal, sys
        from pathlib import Path
        from gatewayd.cascade.budgets import Budget, Limits, Prices, Spending
        from tests.sim.clock import ManualClock
        from tests.sim.real_spool import opened

        async def main():
            async with opened(Path(sys.argv[1])) as spool:
                limits = Limits(n_calls=10)
                budget = Budget("cloud", limits=limits, prices=Prices(), book=spool.spending, clock=ManualClock())
                amount = Spending(n_calls=4, n_bytes=1000)
                assert await budget.reserve(amount, most=amount) is not None
                os.kill(os.getpid(), signal.SIGKILL)

        asyncio.run(main())
    """
    for _ in range(2):
        root = Path(__file__).parents[2]
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], cwd=root, capture_output=True, check=False
        )
        assert done.returncode == -9, done.stderr.decode()

    assert on_disk(tmp_path) == [("cloud", "2025-11-21", 8, 0, 2000, 0)]


async def test_totals_are_of_a_day_and_later_ones_and_of_what_has_none(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        book = spool.spending
        assert (book.newest("cloud"), book.total("cloud", since="")) == ("", Spending())
        for day, n in (("2026-11-20", 1), (DAY, 10), ("2026-11-22", 100), ("", 1000)):
            book.add("cloud", day, Spending(n_calls=n))

        assert book.newest("cloud") == "2026-11-22"
        assert book.total("cloud", since=DAY) == Spending(n_calls=1110)
        assert book.total("cloud", since="2026-11-23") == Spending(n_calls=1000)
