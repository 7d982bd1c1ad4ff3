"""Publish -> live result, one message after the other at a steady rate; times by one clock in one process.

    python -m benchmarks.speed.prober --port 1883 --per-s 100 --count 500

The route under test hands its input on (`include_input`), so the time of sending comes back with the result. Prints one
JSON list of milliseconds.
"""

import argparse
import asyncio
import json
import sys
import time

from mqttium.api import AsyncClient

_PATIENCE_S = 30.0


async def probe(port: int, per_s: float, n_messages: int, topic: str, results: str, qos: int = 0) -> list[float]:
    """Milliseconds of each message."""
    client = AsyncClient("bench-prober")
    await client.connect("127.0.0.1", port)
    await client.subscribe(results, qos=qos)
    taken: list[float] = []

    async def listen() -> None:
        async for message in client.messages():
            sent_s = json.loads(message.payload).get("input", {}).get("sent_s")
            if sent_s is not None:
                taken.append((time.perf_counter() - sent_s) * 1000)
            if len(taken) == n_messages:
                return

    async with asyncio.timeout(n_messages / per_s + _PATIENCE_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(listen(), name="listen")
        began_s = time.perf_counter()
        for number in range(n_messages):
            await asyncio.sleep(max(0.0, began_s + number / per_s - time.perf_counter()))
            reading = {"vibration": 2.0, "current": 7.5, "pressure": 4.2, "sent_s": time.perf_counter()}
            await client.publish(topic, json.dumps(reading).encode(), qos=qos)
    await client.disconnect()
    return taken


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--per-s", type=float, default=100.0)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--qos", type=int, default=0)
    parser.add_argument("--topic", default="probe/1")
    parser.add_argument("--results", default="gatewayd/+/results/probe")
    args = parser.parse_args()
    print(
        json.dumps(asyncio.run(probe(args.port, args.per_s, args.count, args.topic, args.results, args.qos))),
        flush=True,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
