"""The scenario of a gateway that is killed in the middle of its work, with an oracle that knows what it owes.

Ids are issued by the oracle, payloads are a function of the id; what the broker acknowledged to the publisher is owed;
the cloud is asked at the end. Guards against a vacuous pass are the caller's: see the figures returned.
"""

import json
import random
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from tests.sim.gateway import CloudProcess, Gateway, wait_until
from tests.sim.mosquitto import Mosquitto

_ROUTE = """
[source]
port = {port}
{source}
[source.reconnect]
initial_s = 0.05
max_s = 0.2
[sinks.cloud]
type = "http"
url = "{url}"
retry_max_s = 0.3
[routes.readings]
topics = ["plant/#"]
handler = "threshold"
sinks = ["cloud"]
include_input = true
{route}
[routes.readings.options]
on = "every"
[[routes.readings.options.rules]]
field = "value"
above = -1.0
label = "seen"
"""


def payload_of(number: int) -> str:
    """What the device sends as its `number`-th message: the cloud can check it against the id."""
    return json.dumps({"value": number * 7 % 1009, "n": number}, separators=(",", ":"))


class Publisher(threading.Thread):
    """Sends `n_messages` at QoS 1, `per_s` a second, through one connection; ends when the broker acknowledged all."""

    def __init__(self, broker: Mosquitto, n_messages: int, per_s: int) -> None:
        super().__init__(daemon=True)
        binary = shutil.which("mosquitto_pub")
        assert binary is not None
        self._command = [binary, "-p", str(broker.port), "-t", "plant/line", "-q", "1", "-l"]
        self._n_messages = n_messages
        self._per_s = per_s
        self.exit_status: int | None = None

    def run(self) -> None:
        process = subprocess.Popen(self._command, stdin=subprocess.PIPE)
        assert process.stdin is not None
        portion = max(1, self._per_s // 20)
        for first in range(0, self._n_messages, portion):
            numbers = range(first, min(first + portion, self._n_messages))
            process.stdin.write("".join(payload_of(number) + "\n" for number in numbers).encode())
            process.stdin.flush()
            time.sleep(portion / self._per_s)
        process.stdin.close()
        self.exit_status = process.wait(timeout=120)


def run_killing(
    folder: Path,
    broker: Mosquitto,
    *,
    n_messages: int,
    n_kills: int,
    per_s: int = 4000,
    seed: int = 1,
    mode: str = "direct",
    adapter: str = "mqttium",
) -> dict[str, Any]:
    """Kill and restart the gateway `n_kills` times while the publisher sends; figures of what became of the messages."""
    chance = random.Random(seed)
    cloud = CloudProcess(folder)
    cloud.start()
    source = f"client_id = 'killed-{seed}'\nadapter = '{adapter}'"
    text = _ROUTE.format(port=broker.port, url=cloud.url, source=source, route=f'mode = "{mode}"')
    gateway = Gateway(folder / "gateway", text, name="killed")
    publisher = Publisher(broker, n_messages, per_s)
    try:
        gateway.start()
        publisher.start()
        recoveries = []
        for _ in range(n_kills):
            time.sleep(chance.uniform(0.05, 0.9))
            gateway.kill()
            started = time.monotonic()
            gateway.start()
            recoveries.append(time.monotonic() - started)
        publisher.join(timeout=180)
        wait_until(lambda: _is_settled(gateway, cloud, n_messages), 90, gateway.describe)
        gateway.stop()
        return _figures(gateway, cloud, publisher, n_messages, n_kills, max(recoveries, default=0.0))
    finally:
        gateway.end()
        cloud.stop()


def _is_settled(gateway: Gateway, cloud: CloudProcess, n_messages: int) -> bool:
    return gateway.n_pending() == 0 and len(cloud.stored()) >= n_messages


def _figures(
    gateway: Gateway, cloud: CloudProcess, publisher: Publisher, n_messages: int, n_kills: int, recovery_s: float
) -> dict[str, Any]:
    received = cloud.received()
    stored = cloud.stored()
    by_number: dict[int, int] = {}
    n_corrupt = 0
    for event in stored.values():
        content = event["data"]["input"]
        by_number[content["n"]] = by_number.get(content["n"], 0) + 1
        n_corrupt += json.dumps(content, separators=(",", ":")) != payload_of(content["n"])
    books = gateway.books()
    return {
        "sent": n_messages,
        "acked": n_messages if publisher.exit_status == 0 else 0,
        "kills": n_kills,
        "stored": len(by_number),
        "lost": len(set(range(n_messages)) - set(by_number)),
        "phantom": len(set(by_number) - set(range(n_messages))),
        "corrupt": n_corrupt,
        "sent_twice": len(received) - len(stored),  # the cloud knew the id already
        "duplicates": sum(n - 1 for n in by_number.values()),  # one message under two ids, after the cloud's dedup
        "balanced": books.balanced,
        "recovery_s": round(recovery_s, 2),
        "books": books.totals(),
    }
