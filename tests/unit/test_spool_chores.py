"""The writer's upkeep on a disk that fails."""

import asyncio
from pathlib import Path

import apsw

from tests.sim.real_spool import opened, work


class Unreadable:
    """A chore that has to read before it knows whether there is something to do."""

    def __init__(self) -> None:
        self.n_looks = 0

    def is_due(self, now_s: float) -> bool:
        self.n_looks += 1
        raise apsw.IOError("fault: read")

    def run(self) -> None:
        raise AssertionError("it is never due")


async def test_a_chore_that_cannot_look_keeps_nobody_from_committing(tmp_path: Path) -> None:
    chore = Unreadable()
    async with opened(tmp_path) as spool:
        spool._store.chores.insert(0, chore)
        async with asyncio.timeout(60):
            while chore.n_looks < 2:
                await asyncio.sleep(0.05)

        await spool.commit(work("a"))

        assert (await spool.books()).balanced
