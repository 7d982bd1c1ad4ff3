"""The main job's two promises on 20,000 QoS 1 messages: a gateway that is killed, and two that share the load.

    python -m benchmarks.main_job [--messages 20000] [--kills 12] [--seed 1]

One JSON line each; exit status 0 only when nothing is lost, nothing is stored twice, and the books balance.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.sim.gateway import Gateway
from tests.sim.oracle import Line, count, judge
from tests.sim.rig import Bench, bench, config_text

_PER_S = 2500
_LIFE_S = (0.05, 0.9)


def killed(folder: Path, seed: int, *, mode: str, n_messages: int, n_kills: int) -> Line:
    """`kill -9` in the middle of the run, again and again, as long as the device sends."""
    line = Line(test="killed in the middle", subject=f"gatewayd, {mode}", seed=seed)
    chance = random.Random(seed)
    with bench(folder, seed) as the:
        gateway = the.gateway(mode=mode)
        the.cloud.start()
        gateway.start()
        device = the.send(per_s=_PER_S, n_messages=n_messages)
        while line.faults < n_kills:
            time.sleep(chance.uniform(*_LIFE_S))
            gateway.kill()
            line.faults += 1
            began_s = time.monotonic()
            gateway.start()
            line.recovery_s = max(line.recovery_s or 0.0, round(time.monotonic() - began_s, 2))
        device.finish(180)
        the.settle()
        line.fresh_event_ok = the.is_fresh_through()
        the.close_books(line)
    judge(line, min_acked=n_messages, min_faults=n_kills)
    return line


def shared(folder: Path, seed: int, *, n_messages: int) -> Line:
    """Two gatewayds on one shared subscription."""
    line = Line(test="two share a load", subject="gatewayd ×2", seed=seed, fresh_event_ok=True)
    with bench(folder, seed) as the:
        the.cloud.start()
        pair = [_member(the, name) for name in ("left", "right")]
        try:
            for gateway in pair:
                gateway.start()
            device = the.send(per_s=_PER_S, n_messages=n_messages)
            device.finish(180)
            the.settle()
            statuses = [gateway.stop() for gateway in pair]
        finally:
            for gateway in pair:
                gateway.end()
        count(line, device, the.ledger)
        line.out_of_order = 0  # two processes: order holds within each of them, not between them
        books = [gateway.books() for gateway in pair]
    line.more["shares"] = [one.messages["readings"]["received"] for one in books]
    line.more["balanced"] = all(one.balanced for one in books)
    judge(line, min_acked=n_messages, min_faults=0)
    if statuses != [0, 0] or not line.more["balanced"] or min(line.more["shares"]) == 0:
        line.problems.append(f"exit statuses {statuses}, shares {line.more['shares']}")
    return line


def _member(the: Bench, name: str) -> Gateway:
    text = config_text(the.broker.port, the.cloud.url, the.seed)
    own = f'client_id = "{name}"\nshare_group = "pair"'
    return Gateway(the.folder / name, text.replace(f'client_id = "bench-{the.seed}"', own), name=name)


def main() -> int:
    """Run all three and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    holds = True
    with tempfile.TemporaryDirectory(prefix="gatewayd-main-job-") as name:
        folder = Path(name)
        sizes = {"n_messages": args.messages, "n_kills": args.kills}
        for mode in ("direct", "journaled"):
            line = killed(folder / mode, args.seed, mode=mode, **sizes)
            print(line.as_json(), flush=True)
            holds = holds and line.holds
        line = shared(folder / "shared", args.seed, n_messages=args.messages)
        print(line.as_json(), flush=True)
    return 0 if holds and line.holds else 1


if __name__ == "__main__":
    sys.exit(main())
