"""`gatewayd spool fsck`, and what the other commands say of a spool that is damaged or of another version."""

import json
import os
import shutil
from pathlib import Path

import apsw
import pytest

from gatewayd.spool.migrations import MIGRATIONS
from tests.sim.real_spool import opened, work
from tests.unit.test_cli import Command, gatewayd  # noqa: F401 - a fixture
from tests.unit.test_cli_spool import plain, spool_command  # noqa: F401 - a fixture

CLEAN = """\
{path}
What was looked at

 what           looked at   damaged   without checksum
 ─────────────────────────────────────────────────────
 file                   1         0                  0
 pages                 {n}         0                  0
 routes                 1         0                  0
 results                3         0                  0
 journal                1         0                  0
 dead letters           2         0                  0
 positions              2         0                  0
 counters               7         0                  0
 books                  3         0                  0

"""


def test_a_clean_spool_is_clean_and_left_as_it_is(spool: Command, tmp_path: Path) -> None:
    path = tmp_path / "state" / "spool.db"
    before = path.read_bytes(), path.stat().st_mtime_ns, sorted(os.listdir(path.parent))

    answer, full = spool("fsck"), spool("fsck", "--full", "--json")

    assert answer.status == 0
    n = len(before[0]) // 4096
    table, free, verdict = plain(answer.out).rpartition("\n\n")[0] + "\n\n", *answer.out.splitlines()[-2:]
    assert table == CLEAN.format(path=path, n=n)
    assert (free.endswith("and a log of 0 B."), verdict) == (True, "Clean.")
    assert json.loads(full.out)["clean"]
    assert (path.read_bytes(), path.stat().st_mtime_ns, sorted(os.listdir(path.parent))) == before


def test_a_row_that_is_not_what_was_written_is_named(spool: Command, tmp_path: Path) -> None:
    connection = apsw.Connection(str(tmp_path / "state" / "spool.db"))
    connection.execute("UPDATE results SET data = ? WHERE key = 'k-0'", (b'{"label":"not","score":0.9}',))
    connection.close()

    answer, listed = spool("fsck"), spool("ls")

    assert answer.status == 1
    assert "results: r:1: is not what was written" in answer.out
    assert "DAMAGED. 5 rows can be read as they were written." in answer.out
    assert "DAMAGED" in listed.out
    assert spool("export", "--results", "-o", "x").err.endswith("1 damaged, left out: r:1 …\n")


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ("counters", "n = n + 1"),
        ("cursors", "pos = pos + 1"),
        ("routes", "name = 'heaters'"),
        ("dead", "payload = x'00'"),
    ],
)
def test_other_damage_is_named_and_is_no_traceback(spool: Command, tmp_path: Path, table: str, problem: str) -> None:
    connection = apsw.Connection(str(tmp_path / "state" / "spool.db"))
    connection.execute(f"UPDATE {table} SET {problem}")
    connection.close()

    answers = [spool(*what) for what in (["fsck"], ["ls"], ["ls", "--dead"], ["audit"], ["export", "--dead"])]

    assert answers[0].status == 1
    assert "DAMAGED" in answers[0].out
    assert all(answer.status in (0, 1) and "Traceback" not in answer.err for answer in answers)


def damage_nothing_at_all(content: bytearray) -> None:
    content[:] = b""


def zero_the_middle(content: bytearray) -> None:
    content[4096 * 5 : 4096 * 12] = bytes(7 * 4096)


def zero_the_header(content: bytearray) -> None:
    content[:100] = bytes(100)


def cut(content: bytearray) -> None:
    del content[len(content) // 2 :]


@pytest.fixture
async def copy(tmp_path: Path) -> Path:
    """A copy of a spool that was in use, as a power cut leaves one: much of it is in its log."""
    (tmp_path / "live").mkdir()
    (tmp_path / "copy").mkdir()
    async with opened(tmp_path / "live") as running:
        for n in range(20):
            await running.commit(work(f"k-{n}", size=300))
        for name in ("spool.db", "spool.db-wal"):
            shutil.copyfile(tmp_path / "live" / name, tmp_path / "copy" / name)
    return tmp_path / "copy" / "spool.db"


def test_a_copy_with_its_log_is_examined_and_nothing_is_left_beside_it(spool: Command, copy: Path) -> None:
    said = json.loads(spool("fsck", str(copy), "--json").out)

    assert (said["clean"], said["readable"], said["wal_bytes"] > 0) == (True, 20, True)
    assert sorted(os.listdir(copy.parent)) == ["spool.db", "spool.db-wal"]


def test_a_log_that_is_damaged_in_the_middle_is_damage(spool: Command, copy: Path) -> None:
    log = copy.with_name("spool.db-wal")
    content = bytearray(log.read_bytes())
    content[len(content) // 3] ^= 0xFF
    log.write_bytes(content)

    answer = spool("fsck", str(copy))

    assert (answer.status, "file: the log (-wal) is damaged" in answer.out) == (1, True)


async def test_a_spool_in_use_is_examined_and_not_salvaged(spool: Command, tmp_path: Path) -> None:
    async with opened(tmp_path / "state", routes={"ovens": ["file", "cloud"]}):
        examined, salvaged = spool("fsck"), spool("fsck", "--salvage-to", "new.db")

    assert (examined.status, examined.out.splitlines()[-1]) == (0, "Clean.")
    assert (salvaged.status, "is in use" in salvaged.err) == (1, True)
    assert not (tmp_path / "new.db").exists()


@pytest.mark.parametrize("damage", [zero_the_middle, zero_the_header, cut, damage_nothing_at_all])
def test_a_damaged_copy_is_examined_and_salvaged(spool: Command, tmp_path: Path, damage: object) -> None:
    copy = tmp_path / "copy.db"
    content = bytearray((tmp_path / "state" / "spool.db").read_bytes())
    damage(content)  # type: ignore[operator]
    copy.write_bytes(content)

    answer = spool("fsck", str(copy), "--salvage-to", str(tmp_path / "new.db"))

    assert "Traceback" not in answer.out + answer.err
    assert "rows are in " in answer.out
    assert answer.status == (0 if damage is damage_nothing_at_all else 1)
    assert ("DAMAGED" in answer.out) == (damage is not damage_nothing_at_all)
    assert copy.read_bytes() == content
    assert json.loads(spool("fsck", str(tmp_path / "new.db"), "--json").out)["clean"]


def test_what_is_salvaged_goes_into_a_new_file_alone(spool: Command, tmp_path: Path) -> None:
    answer = spool("fsck", "--salvage-to", str(tmp_path / "config.toml"))

    assert (answer.status, "is there already: name a new file" in answer.err) == (1, True)


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (1, "is of version 1: start the daemon once to upgrade it"),
        (99, f"is of version 99, this gatewayd reads {len(MIGRATIONS)}: use the gatewayd that wrote it"),
    ],
)
def test_a_spool_of_another_version_is_said_to_be(spool: Command, tmp_path: Path, version: int, said: str) -> None:
    connection = apsw.Connection(str(tmp_path / "state" / "spool.db"))
    connection.pragma("user_version", version)
    connection.close()

    answer = spool("ls")

    assert (answer.status, said in answer.err) == (1, True)
    assert f"It is of version {version}" in spool("fsck").out
