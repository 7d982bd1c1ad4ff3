"""kill -9 while works are committed: what was answered is there afterwards, and the books balance."""

import asyncio
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gatewayd.clock import SystemClock
from gatewayd.config import schema
from gatewayd.ports import NewResult, RawMessage, Work
from gatewayd.spool.spool import SqliteSpool

ROUTES = {"direct": ("cloud",), "slow": ("cloud",)}


def open_spool(folder: Path, crash: str = "") -> SqliteSpool:
    config = schema.Spool()
    return SqliteSpool.open(
        folder / "spool.db", routes=ROUTES, policies={}, config=config, clock=SystemClock(), crash=crash
    )


async def produce(folder: Path, crash: str, name: str) -> None:
    """The child: commits for ever, and writes a line for what is acknowledged."""
    async with open_spool(folder, crash) as spool, asyncio.TaskGroup() as tasks:
        for lane in range(4):
            tasks.create_task(_lane(spool, f"{name}-{lane}"), name=f"lane[{lane}]")


async def _lane(spool: SqliteSpool, lane: str) -> None:
    for i in range(100_000):
        key = f"{lane}-{i}"
        result = NewResult(key=key, kind="k", subject="t", time=1.0, data=b"{}" * 50)
        await spool.commit(Work(route="direct", received=1, handled=1, results=[result], seen=[key.encode()]))
        sys.stdout.write(f"result {key}\n")
        raw = RawMessage(topic="t", payload=b"p", time=1.0, key=key)
        await spool.commit(Work(route="slow", received=1, journal=[raw]))
        sys.stdout.write(f"journal {key}\n")
        sys.stdout.flush()


def run_child(folder: Path, crash: str, name: str, after_n_lines: int) -> set[str]:
    """What the child had acknowledged when it died: by itself at its crash point, or killed after so many lines."""
    command = [sys.executable, __file__, str(folder), crash, name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        lines = []
        for line in child.stdout:
            lines.append(line)
            if not crash and len(lines) == after_n_lines:
                child.send_signal(signal.SIGKILL)
        child.wait()
    assert child.returncode == (137 if crash else -signal.SIGKILL)
    return {line.strip() for line in lines if line.endswith("\n")}


@pytest.mark.slow
async def test_what_was_acknowledged_survives_twenty_violent_ends(tmp_path: Path) -> None:
    draw = random.Random(7)
    acknowledged: set[str] = set()
    for round_ in range(20):
        n = draw.randrange(1, 60)
        crash = ("", f"spool.before_commit:{n}", f"spool.after_commit:{n}")[round_ % 3]

        lines = run_child(tmp_path, crash, f"round-{round_}", after_n_lines=draw.randrange(1, 400))

        acknowledged |= lines
    async with open_spool(tmp_path) as spool:
        books = await spool.books()
        entries = await spool.journal("slow", after=0, limit=10**6)
        lease = await spool.try_lease("cloud", "direct", limit=10**6, max_bytes=10**9)
        assert lease is not None
        stored = [f"result {result.key}" for result in lease.results]
        stored += [f"journal {entry.message.key}" for entry in entries]
        assert acknowledged - set(stored) == set()
        assert len(stored) == len(set(stored))
        assert books.balanced
        assert not list(tmp_path.glob("corrupt-*"))


async def test_a_crash_after_the_commit_keeps_the_work_and_one_before_it_does_not(tmp_path: Path) -> None:
    kept = {}
    for point in ("spool.before_commit", "spool.after_commit"):
        folder = tmp_path / point
        assert run_child(folder, point, "child", after_n_lines=0) == set()

        async with open_spool(folder) as spool:
            kept[point] = (await spool.books()).totals()["messages"]["received"]

    assert kept["spool.before_commit"] == 0
    assert kept["spool.after_commit"] > 0


if __name__ == "__main__":
    asyncio.run(produce(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
