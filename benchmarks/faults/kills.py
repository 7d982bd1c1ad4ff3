"""Case 1: `kill -9` at random moments, start-up included, while a device publishes."""

import random
import time
from functools import partial
from pathlib import Path

from benchmarks.faults.bench import Part, Run, say
from tests.sim.gateway import Gateway
from tests.sim.oracle import Line, judge
from tests.sim.rig import Bench, Subject, bench

_PER_S = 400
_SAY_EVERY = 50
_LIVES_S = (0.3, 1.3)  # a start takes about half a second: a life ends in start-up, in catching up, or at work


TEST = "1 kill -9 at random"


def parts(run: Run) -> list[Part]:
    """Half of the kills on a direct route, half on a journaled one."""
    n_kills = run.size(200, 2000) // 2
    # A kill between the cloud's answer and the ack: some of a hundred on a direct route, few on a journaled one.
    return [
        Part(
            TEST,
            f"gatewayd, {mode}",
            partial(kill, seed=run.seed, mode=mode, n_kills=n_kills, min_resent=int(mode == "direct")),
            seconds=n_kills * 1.0,
        )
        for mode in ("direct", "journaled")
    ]


def kill(folder: Path, seed: int, *, mode: str, n_kills: int, min_resent: int = 0) -> Line:
    """Kill a gatewayd `n_kills` times."""
    line = Line(test=TEST, subject=f"gatewayd, {mode}", seed=seed)
    with bench(folder, seed) as the:
        gateway = the.gateway(mode=mode)
        kill_at_random(the, gateway, line, n_kills=n_kills)
        line.fresh_event_ok = the.is_fresh_through()
        the.close_books(line)
    judge(line, min_acked=n_kills * 50, min_faults=n_kills, min_resent=min_resent)
    if line.more["lives_that_delivered"] < n_kills // 4:
        line.problems.append(f"vacuous: only {line.more['lives_that_delivered']} lives came as far as to deliver")
    return line


def kill_at_random(the: Bench, subject: Subject, line: Line, *, n_kills: int) -> None:
    """The same for whatever stands between broker and cloud; returns when all that is owed arrived, or nothing more."""
    assert the.watch is not None
    chance = random.Random(the.seed)
    the.cloud.start()
    began_s = time.monotonic()
    subject.start()
    # On a busy machine a start takes longer: lives are such that some end in it, and most do not.
    longest_s = _LIVES_S[1] + (max(0.0, time.monotonic() - began_s - 0.5) if isinstance(subject, Gateway) else 0.0)
    device = the.send(per_s=_PER_S)
    time.sleep(0.5)
    n_there = n_lives = 0
    for n in range(n_kills):
        if n % _SAY_EVERY == _SAY_EVERY - 1:
            say(f"{line.subject}: {n + 1} of {n_kills} kills, {the.ledger.read()} messages at the cloud")
        the.watch.look()
        subject.kill()
        n_before, n_there = n_there, the.ledger.read()
        n_lives += n_there > n_before
        line.faults += 1
        subject.start(ready=False)
        time.sleep(chance.uniform(_LIVES_S[0], longest_s))
    line.more["lives_that_delivered"] = n_lives
    subject.kill()
    line.faults += 1
    began_s = time.monotonic()
    n_before = the.ledger.read()
    subject.start(ready=False)
    while the.ledger.read() == n_before and time.monotonic() - began_s < 30:
        time.sleep(0.02)
    line.recovery_s = round(time.monotonic() - began_s, 2)
    device.halt()
    device.finish()
    the.settle(limit_s=900)  # as long as something arrives
