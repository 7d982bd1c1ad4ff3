"""The n-th open, read, write, sync, truncation, deletion or mapping fails, once and for ever, until none fails.

python -m benchmarks.faults.spool_io [--kinds open,read,write,sync,truncate,delete,shm] [--step 1]

Whatever fails: the writer lives, who waits is answered with SpoolFull or FatalError, and nothing that was acknowledged
is missing when the disk is well again. After one single fault the spool goes on without a restart.
"""

import argparse
import asyncio
import json
import random
import shutil
import tempfile
import time
from collections.abc import Awaitable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import apsw

from benchmarks.faults.bench import Part, Run
from benchmarks.faults.here import figures
from gatewayd.clock import SystemClock
from gatewayd.config import schema
from gatewayd.errors import GatewaydError, SpoolFull
from gatewayd.ports import NewResult, RawMessage, Work
from gatewayd.spool import SqliteSpool
from tests.sim.oracle import Line, judge
from tests.sim.real_spool import MIB
from tests.sim.vfs import FAULTS, FaultyDisk, faulty

ROUTES = {"direct": ("cloud",), "slow": ("cloud",)}
_QUICK_STEPS = {"read": 5, "write": 41, "sync": 11}
_LEAST_FAULTS = 10
_CONFIG = schema.Spool(max_bytes=4 * MIB)


@dataclass
class Found:
    """What the runs showed."""

    n_runs: int = 0
    n_faults: int = 0
    n_acked: int = 0
    n_refused: int = 0  # works answered with SpoolFull or FatalError
    n_not_opened: int = 0  # opening failed, in words
    n_kept: int = 0  # of the acknowledged there in the end, or delivered
    n_lost: int = 0
    n_again: int = 0  # delivered, its ack answered, and there again
    n_phantom: int = 0
    n_corrupt: int = 0
    n_fresh: int = 0  # runs after which a fresh result got through
    slowest_s: float = 0.0  # to open again, once the disk was well
    problems: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether everything held."""
        return self.n_faults > 0 and self.n_acked > 0 and not self.problems


@dataclass
class _Run:
    name: str
    disk: FaultyDisk
    found: Found
    is_once: bool
    tried: set[str] = field(default_factory=lambda: {"before", "fresh"})
    results: set[str] = field(default_factory=set)  # acknowledged to the producer
    journal: set[int] = field(default_factory=set)
    delivered: set[str] = field(default_factory=set)  # its ack has returned
    offered: set[str] = field(default_factory=set)  # the cloud has it, whether the ack returned or not

    def complain(self, problem: str) -> None:
        self.found.problems.append(f"{self.name}: {problem}")


def run_faults(folder: Path, kind: str, *, for_ever: bool, is_full: bool = False, step: int = 1) -> Found:
    """Let the n-th call fail, n = 1, 1 + step, … until a run in which nothing failed."""
    found = Found()
    n, fired = 1, True
    while fired:
        place = folder / f"{kind}-{n}"
        asyncio.run(_prepare(place))
        with faulty(kind, n, for_ever=for_ever, is_full=is_full) as disk:
            run = _Run(f"{kind} {n} {'for ever' if for_ever else 'once'}", disk, found, not for_ever)
            asyncio.run(_one(place, run))
        fired = disk.n_fired > 0
        found.n_runs += 1
        found.n_faults += disk.n_fired
        asyncio.run(_audit(place, run))
        shutil.rmtree(place)
        n += step
    return found


def _open(folder: Path) -> SqliteSpool:
    return SqliteSpool.open(folder / "spool.db", routes=ROUTES, policies={}, config=_CONFIG, clock=SystemClock())


async def _prepare(folder: Path) -> None:
    async with _open(folder) as spool:
        await spool.commit(_work("before"))


def _content(key: str) -> bytes:
    return random.Random(key).randbytes(3000)


def _work(key: str) -> Work:
    result = NewResult(key=key, kind="k", subject="t", time=1.0, data=_content(key))
    return Work(route="direct", received=1, handled=1, results=[result], seen=[key.encode()])


async def _one(place: Path, run: _Run) -> None:
    run.results.add("before")
    try:
        spool = _open(place)
    except GatewaydError:
        run.found.n_not_opened += 1
        if run.is_once:
            run.complain("one fault, and it does not open")
        return
    except BaseException as error:
        run.complain(f"open raised {error!r}")
        return
    try:
        async with asyncio.timeout(20):
            await _use(spool, run)
    except TimeoutError:
        run.complain("somebody waits for ever")
    finally:
        run.disk.is_mended = not run.name.startswith("delete")  # the WAL is deleted at the end
        try:
            await spool.close()
        except BaseException as error:
            run.complain(f"close raised {error!r}")


async def _use(spool: SqliteSpool, run: _Run) -> None:
    async with asyncio.TaskGroup() as tasks:
        for lane in range(2):
            tasks.create_task(_produce(spool, run, f"{lane}"), name=f"lane[{lane}]")
        waiting = tasks.create_task(_deliver(spool, run), name="deliver")
        tasks.create_task(_mend_later(run.disk, waiting), name="mend")
    if spool.is_healthy:
        while await _answered(spool.commit(_work("fresh")), run) is None:  # well again, or had one fault alone
            await asyncio.sleep(0.01)
        run.results.add("fresh")
    elif run.is_once:
        run.complain("unhealthy after one fault")


async def _mend_later(disk: FaultyDisk, waiting: "asyncio.Task[None]") -> None:
    """Acks wait as long as the disk is out of order, as documented; so it is mended when that is all that is left."""
    await asyncio.wait([waiting], timeout=0.4)
    disk.is_mended = True


async def _produce(spool: SqliteSpool, run: _Run, lane: str) -> None:
    for n in range(25):
        key = f"{lane}-{n}"
        run.tried.add(key)
        if await _answered(spool.commit(_work(key)), run) is not None:
            run.results.add(key)
        raw = RawMessage(topic="t", payload=b"p" * 2000, time=1.0, key=key)
        rows = await _answered(spool.commit(Work(route="slow", received=1, journal=[raw])), run)
        run.journal |= set(rows or ())


async def _answered(answer: Awaitable[Sequence[int]], run: _Run) -> Sequence[int] | None:
    try:
        rows = await answer
    except SpoolFull:
        run.found.n_refused += 1
        return None
    except GatewaydError as error:
        run.complain(f"a producer got {error!r}, not SpoolFull")
        return None
    run.found.n_acked += 1
    return rows


async def _deliver(spool: SqliteSpool, run: _Run) -> None:
    for _ in range(30):
        lease = await spool.try_lease("cloud", "direct", limit=4, max_bytes=MIB)
        if lease is None:
            await asyncio.sleep(0.001)
            continue
        keys = {result.key for result in lease.results}
        run.offered |= keys
        await spool.ack(lease, refused={})
        run.delivered |= keys


async def _audit(place: Path, run: _Run) -> None:
    began_s = time.monotonic()
    async with _open(place) as spool:
        run.found.slowest_s = max(run.found.slowest_s, time.monotonic() - began_s)
        there = await _drain(spool)
        journal = {entry.id for entry in await spool.journal("slow", after=0, limit=10_000)}
        await spool.commit(_work("at the end"))
        run.found.n_fresh += "at the end" in await _drain(spool)
        if not (await spool.books()).balanced:
            run.complain("the books do not balance")
    _compare(there, journal, run)
    if list(place.glob("corrupt-*")):
        run.complain("moved aside")
    connection = apsw.Connection(str(place / "spool.db"))
    if connection.pragma("integrity_check") != "ok":
        run.complain("integrity_check")
    connection.close()


async def _drain(spool: SqliteSpool) -> dict[str, bytes]:
    lease = await spool.try_lease("cloud", "direct", limit=10_000, max_bytes=1 << 30)
    if lease is None:
        return {}
    await spool.ack(lease, refused={})
    return {result.key: result.data for result in lease.results}


def _compare(there: Mapping[str, bytes], journal: Set[int], run: _Run) -> None:
    found = run.found
    lost_results, lost_messages = run.results - there.keys() - run.offered, run.journal - journal
    again = run.delivered & there.keys()
    found.n_lost += len(lost_results) + len(lost_messages)
    found.n_kept += len(run.results) - len(lost_results) + len(run.journal) - len(lost_messages)
    found.n_again += len(again)
    found.n_phantom += len(there.keys() - run.tried)
    found.n_corrupt += sum(data != _content(key) for key, data in there.items())
    if lost_results or lost_messages:
        run.complain(f"lost {sorted(lost_results)} {sorted(lost_messages)}")
    if again:
        run.complain("acked and there again")


def parts(run: Run) -> list[Part]:
    """Case 4: each kind of call to the disk, once and for ever. The quick form leaves out some n."""
    return [
        Part(
            _test(kind, for_ever, is_full),
            "gatewayd's spool",
            partial(
                _fail,
                seed=run.seed,
                kind=kind,
                for_ever=for_ever,
                is_full=is_full,
                step=run.size(_QUICK_STEPS.get(kind, 1), 1),
            ),
            seconds=run.size(4, 60),
        )
        for kind, for_ever, is_full in cases()
    ]


def _test(kind: str, for_ever: bool, is_full: bool) -> str:
    return f"4 the n-th {kind} fails {'for ever' if for_ever else 'once'}{', disk full' if is_full else ''}"


def _fail(folder: Path, seed: int, kind: str, for_ever: bool, is_full: bool, step: int) -> Line:
    line = Line(test=_test(kind, for_ever, is_full), subject="gatewayd's spool", seed=seed)
    with figures(folder, line):
        found = run_faults(folder, kind, for_ever=for_ever, is_full=is_full, step=step)
        line.acked = found.n_acked
    line.faults = found.n_faults
    line.acked = found.n_acked + found.n_runs  # and the one that each run began with
    line.sent = line.acked + found.n_refused
    line.delivered_unique = found.n_kept
    line.lost, line.phantom, line.corrupt, line.resent = found.n_lost, found.n_phantom, found.n_corrupt, found.n_again
    line.recovery_s = round(found.slowest_s, 2)
    line.fresh_event_ok = found.n_fresh == found.n_runs
    line.problems += found.problems
    line.more |= {"runs": found.n_runs, "step": step, "refused": found.n_refused, "not_opened": found.n_not_opened}
    judge(line, min_acked=100, min_faults=min(_LEAST_FAULTS, found.n_runs - 1) or 1)
    return line


def cases(kinds: Sequence[str] = FAULTS) -> list[tuple[str, bool, bool]]:
    """Kind, for ever or once, as ENOSPC or as EIO."""
    return [
        (kind, for_ever, is_full)
        for kind in kinds
        for for_ever in (False, True)
        for is_full in ((False, True) if kind in {"write", "truncate", "shm"} else (False,))
    ]


def main() -> None:
    """Print a line of JSON for each case; the exit status says whether everything held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default=",".join(FAULTS))
    parser.add_argument("--step", type=int, default=1)
    args = parser.parse_args()
    is_good = True
    for kind, for_ever, is_full in cases(args.kinds.split(",")):
        started_s = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            found = run_faults(Path(folder), kind, for_ever=for_ever, is_full=is_full, step=args.step)
        line = {"test": "io_fault", "subject": "gatewayd", "kind": kind, "for_ever": for_ever, "full": is_full}
        print(json.dumps({**line, **vars(found), "seconds": round(time.monotonic() - started_s, 1)}), flush=True)
        is_good &= found.is_good
    raise SystemExit(not is_good)


if __name__ == "__main__":
    main()
