"""A spool that an earlier gatewayd has written is taken over as it is: nothing of it is lost, and its books balance."""

from pathlib import Path

import apsw
import msgspec

from gatewayd.ports import Work
from gatewayd.spool.migrations import MIGRATIONS, route_range
from gatewayd.spool.rows import encode_props
from tests.sim.real_spool import leased, opened, raw, work

N_ROWS = 300


def written_by_version_1(folder: Path) -> None:
    connection = apsw.Connection(str(folder / "spool.db"))
    connection.pragma("auto_vacuum", 2)
    connection.pragma("journal_mode", "WAL")
    connection.execute(f"{MIGRATIONS[0]} PRAGMA user_version = 1")
    base = route_range(1)[0]
    with connection:
        connection.execute("INSERT INTO routes VALUES (1, 'r')")
        connection.execute("UPDATE meta SET value = ? WHERE name = 'seq'", (2 * N_ROWS,))
        connection.execute("INSERT INTO cursors VALUES ('cloud', 1, ?)", (base,))
        for number in range(1, N_ROWS + 1):
            row = (base | number, f"key-{number}", "k", "t", 1.0, b'{"n":1}', "")
            connection.execute("INSERT INTO results VALUES (?,?,?,?,?,?,?)", row)
            message = raw(f"m-{number}")
            entry = (base | N_ROWS + number, message.payload, encode_props(message), number % 2)
            connection.execute("INSERT INTO journal VALUES (?,?,?,?)", entry)
        lines = {"received": 2 * N_ROWS, "handled": N_ROWS}
        for line, n in lines.items():
            connection.execute("INSERT INTO counters VALUES ('messages', 'r', '', ?, '', ?)", (line, n))
        connection.execute("INSERT INTO counters VALUES ('results', 'r', 'cloud', 'produced', '', ?)", (N_ROWS,))
        connection.execute("INSERT INTO seen VALUES (1, ?)", (msgspec.msgpack.encode([b"identity"]),))
    connection.close()


async def test_a_spool_of_version_1_is_delivered_and_handled_to_the_end(tmp_path: Path) -> None:
    written_by_version_1(tmp_path)

    async with opened(tmp_path) as spool:
        assert (await spool.books()).balanced
        assert await leased(spool, limit=1000) == [f"key-{number}" for number in range(1, N_ROWS + 1)]
        entries = await spool.journal("r", after=0, limit=1000)
        assert [entry.message.key for entry in entries] == [f"m-{number}" for number in range(1, N_ROWS + 1)]
        assert [entry.attempts for entry in entries[:2]] == [1, 0]
        assert spool.was_seen(b"identity")


async def test_after_the_upgrade_old_and_new_rows_go_on_together(tmp_path: Path) -> None:
    written_by_version_1(tmp_path)

    async with opened(tmp_path) as spool:
        await spool.commit(work("new"))
        entries = await spool.journal("r", after=0, limit=1000)
        await spool.commit(Work(route="r", handled=N_ROWS, done=[entry.id for entry in entries]))
        lease = await spool.try_lease("cloud", "r", limit=1000, max_bytes=1 << 20)
        assert lease is not None
        assert (len(lease.results), lease.results[-1].key) == (N_ROWS + 1, "new")
        await spool.ack(lease, refused={})

        books = await spool.books()
        assert (books.balanced, books.results["r"]["cloud"]["delivered"]) == (True, N_ROWS + 1)
        assert books.messages["r"]["handled"] == 2 * N_ROWS + 1
