"""Case 10: a wall clock that is 400 days behind, ten years ahead, or jumps in mid-run; `libfaketime` bends it.

Only the wall clock: the clocks that count from boot are the kernel's, as on a gateway whose NTP comes late. In the end
the clock is set right and said to be synchronized (`gateway.clock_sync_file`), and then every event must have the time
it was made at. A TTL of an hour must expire nothing meanwhile, and one of seconds everything that is older, however
the clock jumps. Without libfaketime (Debian: `apt install faketime`) the case says so and counts for nothing.
"""

import os
import time
from datetime import datetime
from functools import partial
from pathlib import Path

import apsw

from benchmarks.faults.bench import Part, Run, say
from tests.sim.gateway import Gateway, wait_until
from tests.sim.oracle import FRESH, LOSS, Line, judge
from tests.sim.rig import Bench, bench

_PER_S = 100
_RUN_S = 1.5
_ASKED_S = 1.3  # the daemon looks at the file once a second
_BENT_S = 2.5  # libfaketime at its own every one or two
# Results whose time was taken before the clock stepped and that were stored after. So nothing plays beside: libfaketime
# reads its file at every look at the clock, and a daemon that starves has seconds of results on their way.
_ON_THE_WAY = _PER_S // 2
_RIGHT_WITHIN_S = 1.0
_TTL_S = 3.0
_N_BRIEF = 300
_MAX_REPORTS = 8  # of the loss: they are results of the route, and wait for the cloud as long as the others did
_BENT = {"400 days behind": "-400d", "ten years ahead": "+10y"}
_JUMPS = {"jumps 400 days ahead": "+400d", "jumps a day back": "-1d"}  # after it was right


def find_faketime() -> Path | None:
    """The library, or None."""
    return next(iter(sorted(Path("/usr/lib").glob("**/faketime/libfaketimeMT.so.1"))), None)


def parts(run: Run) -> list[Part]:
    """Each wrong clock on a bench of its own."""
    library = find_faketime()
    if library is None:
        say("case 10 left out: libfaketime is not installed (apt install faketime)")
        return []
    bent = [
        Part(
            f"10 clock {name}",
            "gatewayd",
            partial(bend, seed=run.seed, name=name, library=library),
            seconds=40,
            is_alone=True,
        )
        for name in [*_BENT, *_JUMPS]
    ]
    brief = partial(expire, seed=run.seed, library=library)
    return [*bent, Part("10 clock and a TTL", "gatewayd", brief, seconds=40)]


def bend(folder: Path, seed: int, name: str, library: Path) -> Line:
    """One wrong clock, a kill and an outage included; then it is set right."""
    line = Line(test=f"10 clock {name}", subject="gatewayd", seed=seed)
    with bench(folder, seed) as the:
        offset, synced = folder / "offset", folder / "synced"
        offset.write_text(_BENT.get(name, "+0"))
        synced.touch() if name in _JUMPS else None
        bent = environment(library, offset)
        gateway = the.gateway(route="ttl_s = 3600")
        _name_sync_file(gateway, synced)
        began = time.time()
        gateway.start(environment=bent)
        device = the.send(per_s=_PER_S)
        time.sleep(_RUN_S)
        synced.unlink(missing_ok=True)
        time.sleep(_ASKED_S)
        offset.write_text(_BENT.get(name) or _JUMPS[name])
        time.sleep(_BENT_S)
        gateway.kill()
        gateway.start(environment=bent)
        time.sleep(_ASKED_S)
        line.more["wall_clock_off_days"] = round(_off_days(gateway), 3)
        offset.write_text("+0")
        time.sleep(_BENT_S)
        synced.touch()
        time.sleep(_ASKED_S)
        line.faults = 4
        _let_out(the, line)
        device.halt()
        device.finish()
        the.settle(patience_s=40.0)
        line.fresh_event_ok = the.is_fresh_through()
        the.close_books(line)
        _look_at_times(the, line, began)
        line.more["least_latency_ms"] = the.ledger.least_latency_ms
    judge(line, min_acked=300, min_faults=4)
    _judge_clock(line, is_jump_back=name == "jumps a day back")
    return line


def expire(folder: Path, seed: int, library: Path) -> Line:
    """What waits is older than its TTL in the end, and what comes then is not, in spite of jumps and a kill."""
    line = Line(test="10 clock and a TTL", subject="gatewayd", seed=seed)
    with bench(folder, seed) as the:
        offset = folder / "offset"
        offset.write_text("+0")
        bent = environment(library, offset)
        gateway = the.gateway(route=f"ttl_s = {_TTL_S}")
        _name_sync_file(gateway, folder / "never")
        gateway.start(environment=bent)
        began_s = time.monotonic()
        device = the.send(per_s=3 * _PER_S, n_messages=_N_BRIEF)
        device.finish()
        n_expired = _n_expired(gateway)
        n_early = n_expired if time.monotonic() - began_s < _TTL_S else 0
        for jump in ("-400d", "+10y"):
            offset.write_text(jump)
            gateway.kill()
            gateway.start(environment=bent)
            line.faults += 2
        wait_until(lambda: _n_expired(gateway) >= _N_BRIEF, 3 * _TTL_S + 30, gateway.describe)
        line.more["expired_after_s"] = round(time.monotonic() - began_s, 1)
        _let_out(the, line)
        line.fresh_event_ok = the.is_fresh_through()
        the.close_books(line)
    judge(line, min_acked=_N_BRIEF, min_faults=4)
    if n_early:
        line.problems.append(f"{n_early} results expired before they were {_TTL_S:g} s old")
    if not _N_BRIEF <= line.expired <= _N_BRIEF + _MAX_REPORTS or line.delivered_unique:
        line.problems.append(
            f"{line.expired} results expired and {line.delivered_unique} arrived, not {_N_BRIEF} and 0"
        )
    return line


def environment(library: Path, offset: Path) -> dict[str, str]:
    """A process's, whose wall clock is off by what the file `offset` says."""
    return {
        **os.environ,
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def _name_sync_file(gateway: Gateway, file: Path) -> None:
    text = gateway.config.read_text()
    gateway.config.write_text(text.replace("[gateway]\n", f'[gateway]\nclock_sync_file = "{file}"\n'))


def _let_out(the: Bench, line: Line) -> None:
    """The cloud is there from now on. Until the first event has arrived, unless there is none to come."""
    began_s = time.monotonic()
    the.cloud.start()
    while not line.expired and not the.ledger.read() and time.monotonic() - began_s < 30:
        if line.more.get("expired_after_s") is not None:
            return
        time.sleep(0.02)
    line.recovery_s = round(time.monotonic() - began_s, 2)


def _off_days(gateway: Gateway) -> float:
    """How wrong the clock was that the rows' times were taken from, by the spool's own account of it."""
    right_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    path = gateway.folder / "state" / "spool.db"
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        offsets = [offset_s - right_s for (offset_s,) in connection.execute("SELECT offset_s FROM clocks")]
    finally:
        connection.close()
    return max(offsets, key=abs, default=0.0) / 86400


def _n_expired(gateway: Gateway) -> int:
    return sum(book["expired"] for sinks in gateway.books().results.values() for book in sinks.values())


def _look_at_times(the: Bench, line: Line, began: float) -> None:
    """Every event's time must lie within the run, by the clock that was right all along."""
    ended = time.time()
    own = [event for event in the.cloud.stored().values() if event["type"] != LOSS]
    times = [datetime.fromisoformat(event["time"]).timestamp() for event in own if event["data"]["input"]["n"] < FRESH]
    is_right = [began - _RIGHT_WITHIN_S <= at <= ended + _RIGHT_WITHIN_S for at in times]
    line.more["times_wrong"] = is_right.count(False)
    line.more["times_corrected"] = sum(event.get("clockquality") == "corrected" for event in own)
    line.more["times_unsynced"] = sum(event.get("clockquality") == "unsynced" for event in own)


def _judge_clock(line: Line, *, is_jump_back: bool) -> None:
    latency_ms = line.more["least_latency_ms"]
    if latency_ms is not None and latency_ms < 0:
        line.problems.append(f"a negative duration: {latency_ms} ms")
    # A clock that falls behind after it was right is not believed at all: then the floor is what counts on.
    if not is_jump_back and abs(line.more["wall_clock_off_days"]) < 1:
        line.problems.append("vacuous: the gateway's clock was not bent")
    if is_jump_back and abs(line.more["wall_clock_off_days"]) > 1e-3:
        line.problems.append("a clock that fell behind what was right was believed")
    if line.more["times_corrected"] < 100:
        line.problems.append(f"vacuous: {line.more['times_corrected']} times were corrected, at least 100 are needed")
    if line.more["times_wrong"] > _ON_THE_WAY:
        line.problems.append(f"times_wrong: {line.more['times_wrong']}, at most {_ON_THE_WAY} may be")
    if line.more["times_unsynced"]:
        line.problems.append(f"times_unsynced: {line.more['times_unsynced']}")
    if line.evicted or line.expired or line.dead_letter:
        line.problems.append("the clock alone must neither evict, expire nor bury")
