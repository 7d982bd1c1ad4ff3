"""What a loop of its own would do: receive and count, nothing else. One process a run, as each user would have it.

    python -m benchmarks.speed.bare mqttium|aiomqtt --port 1883 --qos 0|1 --count 100000

Prints "ready", and then one JSON line: seconds from the first message to the last, CPU seconds, messages.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator

TOPIC = "bench/#"
_IDLE_S = 5.0


async def _mqttium(port: int, qos: int) -> AsyncIterator[None]:
    from mqttium.api import AsyncClient

    client = AsyncClient("bare-mqttium", manual_ack=qos == 1, max_inbound_inflight=65_535)
    await client.connect("127.0.0.1", port)
    await client.subscribe(TOPIC, qos=qos)
    print("ready", flush=True)
    async for message in client.messages():
        if qos:
            await client.ack(message)
        yield


async def _aiomqtt(port: int, qos: int) -> AsyncIterator[None]:
    import aiomqtt

    async with aiomqtt.Client("127.0.0.1", port, identifier="bare-aiomqtt") as client:
        await client.subscribe(TOPIC, qos=qos)
        print("ready", flush=True)
        async for _ in client.messages:
            yield


async def _count(messages: AsyncIterator[None], n_messages: int) -> dict[str, float]:
    n_seen, began_s, cpu_s = 0, 0.0, 0.0
    async for _ in messages:
        n_seen += 1
        if n_seen == 1:
            began_s, cpu_s = time.perf_counter(), time.process_time()
        if n_seen >= n_messages:
            break
    return {"seconds": time.perf_counter() - began_s, "cpu_s": time.process_time() - cpu_s, "messages": n_seen}


def main() -> int:
    """Run one loop to its end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("loop", choices=["mqttium", "aiomqtt"])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--qos", type=int, default=0)
    parser.add_argument("--count", type=int, required=True)
    args = parser.parse_args()
    loop = _mqttium if args.loop == "mqttium" else _aiomqtt
    print(json.dumps(asyncio.run(_count(loop(args.port, args.qos), args.count))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
