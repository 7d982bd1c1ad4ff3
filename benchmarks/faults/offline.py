"""Case 8: a great many messages while the cloud is away, then the drain.

Measured: how much memory the backlog costs, bytes on disk and bytes written for a message, the drain's rate, the order.
"""

import time
from functools import partial
from pathlib import Path

from benchmarks.faults.bench import Part, Run, say
from tests.sim.gateway import Gateway
from tests.sim.oracle import Line, judge
from tests.sim.rig import Bench, Subject, bench, bytes_written, status_kb

_MAX_GROWTH_MB = 32.0  # of resident memory, from the first thousand messages to the last, whatever their number
_STALL_S = 30.0


TEST = "8 a long time offline"


def parts(run: Run) -> list[Part]:
    """One backlog, measured alone."""
    n_messages = run.size(100_000, 1_000_000)
    play = partial(backlog, seed=run.seed, n_messages=n_messages)
    return [Part(TEST, "gatewayd", play, seconds=n_messages / 2000, is_alone=True)]


def backlog(folder: Path, seed: int, n_messages: int) -> Line:
    """A gatewayd with `n_messages` waiting."""
    line = Line(test=TEST, subject="gatewayd", seed=seed)
    with bench(folder, seed) as the:
        # The cap is far above what is needed: nothing may be evicted here.
        gateway = the.gateway(retry_max_s=1, rest="[spool]\nmax_bytes = 4294967296")
        fill_and_drain(the, gateway, line, n_messages)
        line.fresh_event_ok = the.is_fresh_through()
        the.close_books(line)
    judge(line, min_acked=n_messages, min_faults=1)
    if line.more["rss_growth_mb"] > _MAX_GROWTH_MB:
        line.problems.append(f"memory grew by {line.more['rss_growth_mb']} MB, {_MAX_GROWTH_MB} MB is the most")
    if line.evicted:
        line.problems.append(f"evicted: {line.evicted}, and the cap was far away")
    return line


def fill_and_drain(the: Bench, subject: Subject, line: Line, n_messages: int) -> None:
    """The same for whatever stands between broker and cloud."""
    subject.start()
    assert subject.process is not None
    pid = subject.process.pid
    device = the.send(n_messages=n_messages)
    while device.n_sent < min(1000, n_messages):
        time.sleep(0.02)
    rss_before_kb, written_before = status_kb(pid, "VmRSS"), bytes_written(pid)
    say(f"{line.subject}: {n_messages} messages while the cloud is away")
    device.finish(timeout_s=3600)
    n_disk = _until_taken(the, subject, n_messages)
    line.faults = 1
    line.more["rss_growth_mb"] = round((status_kb(pid, "VmRSS") - rss_before_kb) / 1024, 1)
    line.more["disk_bytes_per_msg"] = round(n_disk / n_messages, 1)
    line.more["fill_bytes_written_per_msg"] = round((bytes_written(pid) - written_before) / n_messages, 1)
    say(f"{line.subject}: the drain")
    _drain(the, line)


def _until_taken(the: Bench, subject: Subject, n_messages: int) -> int:
    """Wait until all has come out of the broker; bytes on disk then."""
    n_disk, since_s = -1, time.monotonic()
    while time.monotonic() - since_s < 3.0:
        if isinstance(subject, Gateway) and sum(b["received"] for b in subject.books().messages.values()) >= n_messages:
            break
        n_now = _on_disk(subject.folder)
        if n_now != n_disk:
            n_disk, since_s = n_now, time.monotonic()
        time.sleep(0.25)
    return _on_disk(subject.folder)


def _on_disk(folder: Path) -> int:
    """What the spool, and whatever it needs beside it, takes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.suffix != ".log")


def _drain(the: Bench, line: Line) -> None:
    the.cloud.start()
    began_s = time.monotonic()
    while not the.ledger.read() and time.monotonic() - began_s < _STALL_S:
        time.sleep(0.01)
    line.recovery_s = round(time.monotonic() - began_s, 2)
    first_s, n_first = time.monotonic(), len(the.ledger.by_number)
    the.settle(patience_s=_STALL_S, limit_s=7200)
    seconds = max(time.monotonic() - first_s, 0.001)
    line.more["drain_per_s"] = round((len(the.ledger.by_number) - n_first) / seconds)
