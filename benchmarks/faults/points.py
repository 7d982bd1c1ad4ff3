"""Case 2: the process ends at every named point of the code; what may come twice at the cloud is known exactly.

The device sends one message after the other, with time for each to go all the way, so that the n-th passing of a
point is a known step of a known message: the first commit of a direct route stores a result, the second is its ack.
"""

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.faults.bench import Part, Run
from tests.sim.gateway import Gateway, wait_until
from tests.sim.oracle import Line, judge
from tests.sim.rig import Bench, bench

_PER_S = 5.0
_N_MESSAGES = 5
_DIES_S = 20.0
_CRASHED = 137
_BATCH = 256  # the sink's default


@dataclass(frozen=True)
class Point:
    """Where the process ends, and how many events then reach the cloud a second time, before its dedup."""

    mode: str
    spec: str
    what: str
    resent: int = 0


def _commits(mode: str, *steps: str) -> list[Point]:
    """Around each commit that one message causes. Before the last, the ack, is on disk a result comes again."""
    last = len(steps)
    before = [Point(mode, f"spool.before_commit:{n}", step, int(n == last)) for n, step in enumerate(steps, 1)]
    after = [Point(mode, f"spool.after_commit:{n}", step) for n, step in enumerate(steps, 1)]
    return before + after


def _around(mode: str) -> list[Point]:
    return [
        Point(mode, "route.before_ack:1", "committed, PUBACK not sent"),
        Point(mode, "route.after_ack:1", "PUBACK sent"),
        Point(mode, "uplink.before_send:1", "about to be sent"),
        Point(mode, "uplink.after_answer:1", "stored by the cloud, ack not on disk", 1),
        Point(mode, "uplink.after_ack:1", "ack on disk"),
    ]


ONE_BY_ONE = [
    *_commits("direct", "result", "ack"),
    *_around("direct"),
    *_commits("journaled", "message", "attempt", "result", "ack"),
    *_around("journaled"),
]


def parts(run: Run) -> list[Part]:
    """Each point once."""
    others = (
        ("spool.migrating:1", _at_start),
        ("spool.before_chore:1", _at_start),
        ("spool.after_chore:1", _at_start),
        ("spool.before_checkpoint:1", _checkpointing),
        ("spool.after_checkpoint:1", _checkpointing),
        ("spool.evicting:3", _evicting),
    )
    plays = [(point, partial(end_at, seed=run.seed, point=point)) for point in ONE_BY_ONE] + [
        (point, partial(_play, seed=run.seed, point=point, play=play))
        for point, play in ((Point("direct", spec, ""), play) for spec, play in others)
    ]
    return [Part(f"2 kill -9 at {point.spec}", f"gatewayd, {point.mode}", play, seconds=4) for point, play in plays]


def end_at(folder: Path, seed: int, point: Point) -> Line:
    """One message after the other; the process ends at `point` and is started again."""
    return _play(folder, seed, point, _one_by_one)


def _play(folder: Path, seed: int, point: Point, play: Callable[[Bench, Line, Point], None]) -> Line:
    line = Line(test=f"2 kill -9 at {point.spec}", subject=f"gatewayd, {point.mode}", seed=seed)
    line.more["what"] = point.what
    with bench(folder, seed, n_pad=2000 if play is _evicting else 0) as the:
        play(the, line, point)
        line.fresh_event_ok = the.is_fresh_through()
        the.close_books(line)
    judge(line, min_acked=_N_MESSAGES, min_faults=1)
    if play is _checkpointing:  # it falls into the middle of a burst: a batch may be on its way
        if line.resent > _BATCH:
            line.problems.append(f"resent: {line.resent}, more than one batch")
    elif line.resent != point.resent:
        line.problems.append(f"resent: {line.resent}, exactly {point.resent} was expected")
    missing = line.sent - line.delivered_unique
    if not 0 <= line.evicted - missing <= line.more["loss_reports"]:  # a report of losses may be evicted, too
        line.problems.append(f"{missing} are missing and {line.evicted} are counted as evicted")
    return line


def _start(gateway: Gateway, point: Point, *, ready: bool = True) -> None:
    gateway.start(environment={**os.environ, "GATEWAYD_CRASH": point.spec}, ready=ready)


def _start_again(gateway: Gateway, line: Line) -> None:
    """Wait until it has ended itself, then start it without the point."""
    assert gateway.process is not None
    try:
        status = gateway.process.wait(timeout=_DIES_S)
    except subprocess.TimeoutExpired:
        line.problems.append("the point was never passed")
        gateway.kill()
    else:
        line.faults += int(status == _CRASHED)
    began_s = time.monotonic()
    gateway.start()
    line.recovery_s = round(time.monotonic() - began_s, 2)


def _one_by_one(the: Bench, line: Line, point: Point) -> None:
    the.cloud.start()
    # One message a batch, so that `resent` is a number and not "up to a batch".
    gateway = the.gateway(mode=point.mode, sink="max_batch = 1", route="batch = { max_messages = 1 }")
    _start(gateway, point)
    device = the.send(n_messages=_N_MESSAGES, per_s=_PER_S)
    _start_again(gateway, line)
    device.finish()
    the.settle()


def _at_start(the: Bench, line: Line, point: Point) -> None:
    """It ends before it is ready."""
    the.cloud.start()
    gateway = the.gateway(mode=point.mode)
    _start(gateway, point, ready=False)
    _start_again(gateway, line)
    the.send(n_messages=_N_MESSAGES, per_s=100).finish()
    the.settle()


def _checkpointing(the: Bench, line: Line, point: Point) -> None:
    """A burst makes the WAL long, and it is folded into the file."""
    the.cloud.start()
    gateway = the.gateway(mode=point.mode)
    _start(gateway, point)
    the.send(n_messages=4000).finish()
    the.settle()
    _start_again(gateway, line)


def _evicting(the: Bench, line: Line, point: Point) -> None:
    """The cloud is away and the cap is reached."""
    gateway = the.gateway(mode=point.mode, rest="[spool]\nmax_bytes = 4194304")
    _start(gateway, point)
    device = the.send(n_messages=5000)
    _start_again(gateway, line)
    device.finish()
    # All are in before the cloud is back: a result evicted while it is being sent counts as evicted, and may arrive.
    wait_until(lambda: _n_received(gateway) == device.n_sent, 60, gateway.describe)
    the.cloud.start()
    the.settle(patience_s=3)


def _n_received(gateway: Gateway) -> int:
    return sum(book["received"] for book in gateway.books().messages.values())
