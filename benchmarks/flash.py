"""What `write = "when_offline"` spares: bytes written to disk for each message, beside `write = "always"`.

    python -m benchmarks.flash [--seconds 70] [--rate 50] [--seed 1]

Both in the same run, one after the other, each with a daemon, a Mosquitto and a cloud of its own: a device publishes
at QoS 1, the cloud confirms everything. Counted is `write_bytes` of /proc/<pid>/io over the time of sending, after the
first results have been confirmed: what the process caused to be sent to the block layer. Sending goes on for more than
a minute, so that what the daemon writes once a minute is in it.

One JSON line each, and one with the ratio; exit status 0 only when everything sent was delivered, the books balance,
and `when_offline` writes at most a tenth.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from tests.sim.gateway import wait_until
from tests.sim.oracle import FRESH, Device, Line, judge
from tests.sim.rig import Bench, bench, bytes_written

_WARM_UP = 20  # messages before anything is counted
_MOST_OF_ALWAYS = 0.1
_SETTLE_S = 3.0  # the file is folded when all is still


def measure(folder: Path, seed: int, *, write: str, seconds: float, rate: float) -> Line:
    """One daemon that delivers `rate` messages a second for `seconds`."""
    line = Line(test="flash", subject=f"gatewayd, write = {write}", seed=seed)
    with bench(folder, seed) as the:
        gateway = the.gateway(route=f'write = "{write}"')
        the.cloud.start()
        gateway.start()
        _warm_up(the)
        assert gateway.process is not None
        before = bytes_written(gateway.process.pid)
        began_s = time.monotonic()
        device = the.send(per_s=rate, n_messages=int(rate * seconds))
        device.finish(seconds + 60)
        the.settle()
        time.sleep(_SETTLE_S)
        n_bytes = bytes_written(gateway.process.pid) - before
        line.more["seconds"] = round(time.monotonic() - began_s, 1)
        line.fresh_event_ok = the.is_fresh_through()
        the.close_books(line)
    line.bytes_written_per_msg = round(n_bytes / line.sent, 1)
    judge(line, min_acked=int(rate * seconds), min_faults=0)
    return line


def _warm_up(the: Bench) -> None:
    """The sink has confirmed, and the route had the time to go where it stays."""
    device = Device(the.broker.port, the.seed, first=FRESH + 1, n_messages=_WARM_UP, per_s=_WARM_UP)
    device.start()
    device.finish(60)

    def is_there() -> bool:
        the.ledger.read()
        return len(the.ledger.by_number) == _WARM_UP

    wait_until(is_there, 30)
    time.sleep(_SETTLE_S)


def compare(folder: Path, seed: int, *, seconds: float, rate: float) -> tuple[list[Line], float]:
    """Both forms, and what the sparing one writes of the other's bytes."""
    lines = [
        measure(folder / write, seed, write=write, seconds=seconds, rate=rate) for write in ("always", "when_offline")
    ]
    always, sparing = (line.bytes_written_per_msg or 0.0 for line in lines)
    if not always:
        lines[0].problems.append("vacuous: nothing was written")
    return lines, sparing / always if always else 1.0


def main() -> int:
    """Measure both and print three lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=70.0)
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gatewayd-flash-") as name:
        lines, share = compare(Path(name), args.seed, seconds=args.seconds, rate=args.rate)
    for line in lines:
        print(line.as_json(), flush=True)
    holds = all(line.holds for line in lines) and share <= _MOST_OF_ALWAYS
    print(msgspec.json.encode({"test": "flash", "share": round(share, 4), "holds": holds}).decode())
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
