"""A consumer that does not read: memory stays bounded, the link stays up, and nothing is lost."""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from mqttium.api import AsyncClient, PublishMessage

from gatewayd.mqtt.aiomqtt_source import AiomqttSource
from gatewayd.mqtt.mqttium_source import MqttiumSource
from tests.contract.source_rig import Rigs, retained, until
from tests.sim.mosquitto import Mosquitto

pytestmark = pytest.mark.broker

N_MESSAGES = 100_000
PAYLOAD = b"x" * 77
MAX_GROWTH_BYTES = 60_000_000

CHILD = """
import asyncio, random, sys
from gatewayd.config import schema
from gatewayd.keys import KeyMaker
from gatewayd.mqtt.{module} import {kind}
from gatewayd.clock import SystemClock

async def main():
    port, protocol, name, root, count = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5])
    events = []
    source = {kind}(
        schema.Source(port=port, protocol=protocol, max_waiting_messages=1000), gateway=name,
        filters=[(root, 1)], password=None, keys=KeyMaker("e"), clock=SystemClock(), draw=random.random,
        on_event=lambda event, attributes: events.append(event),
    )
    run = asyncio.create_task(source.run())
    await asyncio.to_thread(sys.stdin.readline)
    receipts = []
    taken = set()
    async for message in source.messages():
        taken.add(message.payload)
        receipts.append(message.receipt)
        if len(receipts) == 10 or len(taken) == count:
            await source.ack(receipts)
            receipts.clear()
        if len(taken) == count:
            break
    print(len(taken), events.count("connected"), events.count("dropped"), flush=True)

asyncio.run(main())
"""


def rss_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


async def publish_all(port: int, topic: str) -> None:
    client = AsyncClient(uuid4().hex, protocol=5)
    await client.connect("127.0.0.1", port)
    messages = (PublishMessage(topic, PAYLOAD + str(n).encode(), qos=1) for n in range(N_MESSAGES))
    await (await client.publish_many(messages)).wait()
    await client.disconnect()


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to see a process's memory")
@pytest.mark.parametrize("kind", [MqttiumSource, AiomqttSource])
async def test_a_hundred_thousand_messages_wait_in_bounded_memory_and_all_arrive(
    new_mosquitto: Callable[..., Mosquitto], kind: type
) -> None:
    broker = new_mosquitto()
    name, topic = uuid4().hex, uuid4().hex
    module = "mqttium_source" if kind is MqttiumSource else "aiomqtt_source"
    script = CHILD.format(module=module, kind=kind.__name__)
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, str(broker.port), "5", name, topic, str(N_MESSAGES)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert child.stdin is not None
    watcher = AsyncClient(uuid4().hex, protocol=5)
    await watcher.connect("127.0.0.1", broker.port)
    await retained(watcher, f"gatewayd/{name}/status", b"online")
    before = rss_bytes(child.pid)

    await publish_all(broker.port, topic)
    await asyncio.sleep(1)
    growth = rss_bytes(child.pid) - before
    child.stdin.write(b"go\n")
    output, _ = await child.communicate()

    await watcher.disconnect()
    n_taken, n_connected, n_dropped = (int(word) for word in output.splitlines()[-1].split())
    print(f"\n{kind.__name__}: grew by {growth / 1e6:.1f} MB")
    assert (n_taken, n_connected, n_dropped) == (N_MESSAGES, 1, 0)
    assert growth < MAX_GROWTH_BYTES


@pytest.mark.slow
async def test_a_consumer_stalled_for_longer_than_the_keepalive_keeps_its_link(
    rigs: Rigs, mosquitto: Mosquitto
) -> None:
    rig = await rigs.make(mosquitto, keepalive_s=2, max_waiting_messages=1, filters=[("stall/#", 0)], root="stall")
    await rig.send(*(str(n) for n in range(300)), qos=0)
    await until(lambda: rig.source._waiting.is_full)

    await asyncio.sleep(12)  # the broker hangs up after 1.5 * 2 s of silence, and looks every 5 s

    assert await rig.take_texts(300) == [str(n) for n in range(300)]
    await rig.send("end")
    assert await rig.take_texts(1) == ["end"]
    assert rig.n_events("lost") == 0
