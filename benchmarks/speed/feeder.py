"""Messages at a steady rate over many topics, from a process of its own.

python -m benchmarks.speed.feeder --port 1883 --per-s 5000 --seconds 10 --topics 1000 --bytes 72 --qos 0
"""

import argparse
import asyncio
import sys
import time

from mqttium.api import AsyncClient

_TICK_S = 0.005


def payload_of(n_bytes: int) -> bytes:
    """A reading that the series model and `threshold` both take, padded to a size."""
    text = '{"vibration":2.0,"current":7.5,"pressure":4.2,"pad":"'
    return (text + "x" * max(0, n_bytes - len(text) - 2) + '"}').encode()


async def feed(args: argparse.Namespace) -> int:
    """Publish until the time is over; how many."""
    client = AsyncClient("bench-feeder", max_write_queue_messages=200_000, max_write_queue_bytes=256 << 20)
    await client.connect("127.0.0.1", args.port)
    topics = [f"bench/{number}" for number in range(args.topics)]
    payload = payload_of(args.bytes)
    began_s, n_sent = time.perf_counter(), 0
    while (passed_s := time.perf_counter() - began_s) < args.seconds:
        while n_sent < passed_s * args.per_s:
            await client.publish(topics[n_sent % args.topics], payload, qos=args.qos)
            n_sent += 1
        await asyncio.sleep(_TICK_S)
    await client.disconnect()
    return n_sent


def main() -> int:
    """Run it; prints how many were sent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--per-s", type=float, required=True)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--topics", type=int, default=10)
    parser.add_argument("--bytes", type=int, default=72)
    parser.add_argument("--qos", type=int, default=0)
    print(asyncio.run(feed(parser.parse_args())), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
