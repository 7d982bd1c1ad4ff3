"""Case 10: a wall clock that is 400 days behind, ten years ahead, or jumps in mid-run; `libfaketime` bends it.

Only the wall clock: the monotonic clock is the kernel's, as on a gateway whose NTP comes late. Without libfaketime
(Debian: `apt install faketime`) the case says so and counts for nothing.
"""

import os
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from benchmarks.faults.bench import Part, Run, say
from tests.sim.oracle import Line, judge
from tests.sim.rig import Bench, bench

_PER_S = 200
_RUN_S = 2.5
_IN_FLIGHT = 100  # the last messages before the kill may have come again in the second life
_BENT = {"400 days behind": "-400d", "ten years ahead": "+10y"}
_JUMPS = {"jumps 400 days ahead": ("+0", "+400d"), "jumps a day back": ("+0", "-1d")}


def find_faketime() -> Path | None:
    """The library, or None."""
    return next(iter(sorted(Path("/usr/lib").glob("**/faketime/libfaketimeMT.so.1"))), None)


def parts(run: Run) -> list[Part]:
    """Each wrong clock on a bench of its own."""
    library = find_faketime()
    if library is None:
        say("case 10 left out: libfaketime is not installed (apt install faketime)")
        return []
    return [
        Part(f"10 clock {name}", "gatewayd", partial(bend, seed=run.seed, name=name, library=library), seconds=7)
        for name in [*_BENT, *_JUMPS]
    ]


def bend(folder: Path, seed: int, name: str, library: Path) -> Line:
    """One wrong clock, a kill and a backlog included."""
    line = Line(test=f"10 clock {name}", subject="gatewayd", seed=seed)
    with bench(folder, seed) as the:
        first, then = _JUMPS.get(name) or (_BENT[name], _BENT[name])
        offset = folder / "offset"
        offset.write_text(first)
        environment = _environment(library, offset)
        gateway = the.gateway()
        gateway.start(environment=environment)
        device = the.send(per_s=_PER_S)
        time.sleep(_RUN_S / 2)
        offset.write_text(then)  # read again every second
        time.sleep(_RUN_S)
        n_first_life = device.n_sent
        gateway.kill()
        gateway.start(environment=environment)
        line.faults = 2
        began_s = time.monotonic()
        the.cloud.start()
        while not the.ledger.read() and time.monotonic() - began_s < 30:
            time.sleep(0.02)
        line.recovery_s = round(time.monotonic() - began_s, 2)
        device.halt()
        device.finish()
        the.settle()
        line.fresh_event_ok = the.is_fresh_through()
        the.close_books(line)
        line.more["wall_clock_off_days"] = round(_off_days(the, n_first_life))
        line.more["least_latency_ms"] = the.ledger.least_latency_ms
    judge(line, min_acked=300, min_faults=2)
    _judge_clock(line, bent=then)
    return line


def _environment(library: Path, offset: Path) -> dict[str, str]:
    return {
        **os.environ,
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def _off_days(the: Bench, n_first_life: int) -> float:
    """How wrong the clock was, by the furthest time stamp among the events of the first life's messages."""
    events = [event for event in the.cloud.received() if event["data"]["input"]["n"] < n_first_life - _IN_FLIGHT]
    now = datetime.now(UTC)
    offs = [(datetime.fromisoformat(event["time"]) - now).total_seconds() / 86400 for event in events]
    return max(offs, key=abs)


def _judge_clock(line: Line, *, bent: str) -> None:
    latency_ms = line.more["least_latency_ms"]
    if latency_ms is not None and latency_ms < 0:
        line.problems.append(f"a negative duration: {latency_ms} ms")
    if abs(line.more["wall_clock_off_days"]) < 1:
        line.problems.append(f"vacuous: the gateway's clock was not bent to {bent}")
    if line.evicted or line.expired or line.dead_letter:
        line.problems.append("the clock alone must neither evict, expire nor bury")
