"""A gateway killed with `kill -9` in the middle of a run of 20,000 QoS 1 messages: what was lost, what came twice.

    python -m benchmarks.crash [--messages 20000] [--kills 12] [--mode direct|journaled] [--seed 1]
"""

import argparse
import json
import tempfile
from pathlib import Path

from tests.sim.killing import run_killing
from tests.sim.mosquitto import Mosquitto


def main() -> None:
    """Run it against a Mosquitto of its own and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--per-s", type=int, default=4000)
    parser.add_argument("--mode", choices=["direct", "journaled"], default="direct")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        broker = Mosquitto(Path(folder) / "broker")
        broker.start()
        try:
            figures = run_killing(
                Path(folder),
                broker,
                n_messages=args.messages,
                n_kills=args.kills,
                per_s=args.per_s,
                seed=args.seed,
                mode=args.mode,
            )
        finally:
            broker.kill()
    print(json.dumps({"test": "kill", "subject": "gatewayd", "mode": args.mode, "seed": args.seed, **figures}))


if __name__ == "__main__":
    main()
