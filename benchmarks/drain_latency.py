"""How much a drain delays what is live: one message's way to its live result and to the cloud, beside a long drain.

    python -m benchmarks.drain_latency [--messages 200000] [--seconds 10] [--per-s 100] [--order live_first ...]

For each order of draining a gateway of its own: first nothing waits, then the cloud is away while `--messages` come in,
then it is back, and the same is measured again while they drain. One JSON line each: milliseconds from publishing (QoS
1) to the live result on the local bus and to the arrival at the cloud, and the ratio of drain to calm for the live
result's median and 95th percentile. Broker, cloud and who measures share the machine with the gateway.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiomqtt

from gatewayd.cli.cloud import LocalCloud
from gatewayd.events import Event
from tests.sim.gateway import Gateway, wait_until
from tests.sim.mosquitto import Mosquitto, free_port

_PROBE = 1_000_000_000  # values from here on are measured
_NAME = "drain"
_SETTLE_S = 3.0
_FILL = 50_000  # with more than 65,535 lines mosquitto_pub takes an early acknowledgment for that of its last message
_CONFIG = """
[source]
port = {port}
[spool]
max_bytes = 4294967296
[sinks.cloud]
type = "http"
url = "http://127.0.0.1:{cloud_port}/events"
retry_max_s = 1.0
max_batch = {max_batch}
[routes.readings]
topics = ["plant/#"]
handler = "threshold"
sinks = ["cloud"]
include_input = true
drain = "{order}"
[routes.readings.options]
on = "every"
[[routes.readings.options.rules]]
field = "value"
above = -1.0
label = "seen"
"""


class TimingCloud(LocalCloud):
    """Writes when each batch arrived and each measured event: a line with its size or number, and the monotonic clock,
    which all share.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._lines = file.open("a", buffering=1)

    def store(self, events: list[Event]) -> None:
        now_s = time.monotonic()
        self._lines.write(f"batch {len(events)} {now_s}\n")
        for event in events:
            value = json.loads(bytes(event.data))["input"]["value"]
            if value >= _PROBE:
                self._lines.write(f"event {value} {now_s}\n")
        super().store(events)


async def _serve(port: int, file: Path) -> None:
    cloud = TimingCloud(file)
    await cloud.start(port)
    print("listening", flush=True)
    await asyncio.Event().wait()


class Cloud:
    """A TimingCloud in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "arrived"
        self.file.touch()
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when it listens."""
        command = [sys.executable, "-m", "benchmarks.drain_latency", "--cloud", str(self.port), str(self.file)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert b"listening" in self._process.stdout.readline()

    def stop(self) -> None:
        """It is away."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def arrivals(self) -> dict[int, float]:
        """When each measured message arrived first."""
        arrived: dict[int, float] = {}
        for number, at_s in self._lines("event"):
            arrived.setdefault(number, at_s)
        return arrived

    def per_s(self, since_s: float) -> int:
        """Events a second, from the first batch after a moment to the last one."""
        batches = [(n_events, at_s) for n_events, at_s in self._lines("batch") if at_s > since_s]
        return round(sum(n_events for n_events, _ in batches[1:]) / (batches[-1][1] - batches[0][1]))

    def _lines(self, kind: str) -> list[tuple[int, float]]:
        lines = (line.split() for line in self.file.read_text().splitlines())
        return [(int(number), float(at_s)) for found, number, at_s in lines if found == kind]


class Probe:
    """Publishes at a steady rate, and knows when each message was published and when its live result came."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._n = 0
        self.published: dict[int, float] = {}
        self.answered: dict[int, float] = {}

    async def run(self, seconds: float, per_s: float) -> list[int]:
        """The numbers published in so many seconds; returns when their live results came, or nothing comes any more."""
        async with aiomqtt.Client("127.0.0.1", self._port, protocol=aiomqtt.ProtocolVersion.V5) as client:
            await client.subscribe(f"gatewayd/{_NAME}/results/readings")
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(self._read(client), name="live results")
                numbers = await self._publish(client, seconds, per_s)
                deadline_s = time.monotonic() + _SETTLE_S
                while time.monotonic() < deadline_s and not self.answered.keys() >= set(numbers):
                    await asyncio.sleep(0.05)
                reading.cancel()
        return numbers

    async def _publish(self, client: aiomqtt.Client, seconds: float, per_s: float) -> list[int]:
        numbers = []
        began_s = time.monotonic()
        for index in range(int(seconds * per_s)):
            await asyncio.sleep(max(0.0, began_s + index / per_s - time.monotonic()))
            number = _PROBE + self._n
            self._n += 1
            numbers.append(number)
            self.published[number] = time.monotonic()
            await client.publish("plant/probe", json.dumps({"value": number}), qos=1)
        return numbers

    async def _read(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            now_s = time.monotonic()
            value = json.loads(bytes(message.payload))["input"]["value"]
            if value >= _PROBE:
                self.answered.setdefault(value, now_s)


def figures(began: dict[int, float], ended: dict[int, float], numbers: Sequence[int]) -> dict[str, Any]:
    """Percentiles in milliseconds of those that have ended, and how many have not."""
    took_ms = sorted(1000 * (ended[number] - began[number]) for number in numbers if number in ended)
    if len(took_ms) < 2:
        return {"n": len(took_ms), "n_missing": len(numbers) - len(took_ms)}
    cuts = statistics.quantiles(took_ms, n=100, method="inclusive")
    return {
        "n": len(took_ms),
        "n_missing": len(numbers) - len(took_ms),
        "p50_ms": round(cuts[49], 2),
        "p95_ms": round(cuts[94], 2),
        "p99_ms": round(cuts[98], 2),
        "max_ms": round(took_ms[-1], 2),
    }


@contextmanager
def gateway_of(folder: Path, order: str, max_batch: int) -> Iterator[tuple[Mosquitto, Cloud, Gateway]]:
    """A broker, a cloud and a gateway that drains in this order, all running."""
    # Without it the broker itself holds small packets back for up to 40 ms.
    broker = Mosquitto(folder / "broker", settings=["set_tcp_nodelay true"])
    cloud = Cloud(folder)
    text = _CONFIG.format(port=broker.port, cloud_port=cloud.port, order=order, max_batch=max_batch)
    gateway = Gateway(folder / "gateway", text, name=_NAME)
    try:
        broker.start()
        cloud.start()
        gateway.start()
        yield broker, cloud, gateway
    finally:
        gateway.end()
        cloud.stop()
        broker.kill()


def fill(broker: Mosquitto, gateway: Gateway, n_messages: int) -> None:
    """So many messages while the cloud is away; return when their results are on disk."""
    command = ["mosquitto_pub", "-p", str(broker.port), "-t", "plant/line", "-q", "1", "-l"]
    for first in range(0, n_messages, _FILL):
        lines = "".join(f'{{"value": {number}}}\n' for number in range(first, min(first + _FILL, n_messages)))
        subprocess.run(command, input=lines.encode(), check=True, timeout=300)
    wait_until(lambda: gateway.n_pending() >= n_messages, 900, gateway.describe)


def measure(
    folder: Path, order: str, *, n_messages: int, seconds: float, per_s: float, max_batch: int = 256
) -> dict[str, Any]:
    """One gateway: calm, outage, drain."""
    with gateway_of(folder, order, max_batch) as (broker, cloud, gateway):
        probe = Probe(broker.port)
        asyncio.run(probe.run(2.0, per_s))  # so that everything has been used once
        calm = asyncio.run(probe.run(seconds, per_s))
        cloud.stop()
        fill(broker, gateway, n_messages)
        back_s = time.monotonic()
        cloud.start()
        wait_until(lambda: gateway.n_pending() < n_messages, 60, gateway.describe)
        drain = asyncio.run(probe.run(seconds, per_s))
        n_left = gateway.n_pending()
        wait_until(lambda: gateway.n_pending() == 0, 1800, gateway.describe)
        arrived, drained_per_s, books = cloud.arrivals(), cloud.per_s(back_s), gateway.books()
    live = {when: figures(probe.published, probe.answered, of) for when, of in (("calm", calm), ("drain", drain))}
    return {
        "test": "latency beside a drain",
        "order": order,
        "messages": n_messages,
        "max_batch": max_batch,
        "drained_per_s": drained_per_s,
        "n_left": n_left,  # 0: the drain was over before the measuring
        "live_calm": live["calm"],
        "live_drain": live["drain"],
        "live_ratio_p50": _ratio(live, "p50_ms"),
        "live_ratio_p95": _ratio(live, "p95_ms"),
        "cloud_calm": figures(probe.published, arrived, calm),
        "cloud_drain": figures(probe.published, arrived, drain),
        "balanced": books.balanced,
    }


def _ratio(live: dict[str, dict[str, Any]], key: str) -> float | None:
    calm, drain = live["calm"].get(key), live["drain"].get(key)
    return round(drain / calm, 2) if calm and drain else None


def main() -> int:
    """Print a line for each order; exit status 0 when nothing is missing and each drain outlasted its measuring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--per-s", type=float, default=100.0)
    parser.add_argument("--max-batch", type=int, default=256, help="of the sink: results a request")
    parser.add_argument("--order", action="append", choices=["live_first", "oldest_first"])
    parser.add_argument("--cloud", nargs=2, metavar=("PORT", "FILE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cloud:
        asyncio.run(_serve(int(args.cloud[0]), Path(args.cloud[1])))
        return 0
    holds = True
    with tempfile.TemporaryDirectory(prefix="gatewayd-drain-") as name:
        for order in args.order or ["oldest_first", "live_first"]:
            sizes = {"n_messages": args.messages, "seconds": args.seconds, "per_s": args.per_s}
            line = measure(Path(name) / order, order, **sizes, max_batch=args.max_batch)
            print(json.dumps(line), flush=True)
            holds = holds and line["balanced"] and line["n_left"] > 0
            holds = holds and not any(line[part]["n_missing"] for part in ("live_drain", "cloud_drain"))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
