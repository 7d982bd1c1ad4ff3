"""Live results by the thousand, and a broker that stands still: what is handed over, and how long anybody waits."""

import asyncio
import time
from collections.abc import Callable

import pytest
from mqttium.api import AsyncClient

from gatewayd.ports import Outgoing
from tests.contract.source_rig import Rigs
from tests.sim.mosquitto import Mosquitto

pytestmark = pytest.mark.broker

N_RESULTS, PAYLOAD = 5_000, b"x" * 1024  # five times what the client holds
UNLIMITED = ["max_queued_messages 0"]


async def subscriber(port: int, topic: str) -> AsyncClient:
    client = AsyncClient("listener", protocol=5)
    await client.connect("127.0.0.1", port)
    await client.subscribe([(topic, 0)])
    return client


@pytest.mark.parametrize("qos", [0, 1])
async def test_a_burst_larger_than_what_the_client_holds_is_handed_over_whole(
    rigs: Rigs, new_mosquitto: Callable[..., Mosquitto], qos: int
) -> None:
    broker = new_mosquitto(settings=UNLIMITED)
    rig = await rigs.make(broker, publish_wait_ms=10_000)
    listener = await subscriber(broker.port, "results")

    handed_over = [await rig.source.publish("results", PAYLOAD, qos=qos) for _ in range(N_RESULTS)]

    assert all(handed_over)
    async with asyncio.timeout(60):
        stream = listener.messages()
        for _ in range(N_RESULTS):
            await anext(stream)
    await listener.disconnect()


@pytest.mark.parametrize("qos", [0, 1])
async def test_several_results_arrive_in_order_with_their_properties(
    rigs: Rigs, new_mosquitto: Callable[..., Mosquitto], qos: int
) -> None:
    broker = new_mosquitto(settings=UNLIMITED)
    rig = await rigs.make(broker, publish_wait_ms=10_000)
    listener = await subscriber(broker.port, "results")
    shared = ("type", "a"), ("time", "now")
    messages = [Outgoing(PAYLOAD + b"%d" % n, (("id", str(n)),), shared) for n in range(N_RESULTS)]

    assert await rig.source.publish_all("results", messages, qos=qos, content_type="a/b") == N_RESULTS

    async with asyncio.timeout(60):
        stream = listener.messages()
        found = [await anext(stream) for _ in range(N_RESULTS)]
    await listener.disconnect()
    assert [message.payload for message in found] == [payload for payload, _, _ in messages]
    if rig.source.protocol == 5:
        assert [message.properties.get("user_property") for message in found if message.properties] == [
            (*shared, *own) for _, own, _ in messages
        ]


async def test_several_results_without_a_connection_are_told(
    rigs: Rigs, new_mosquitto: Callable[..., Mosquitto]
) -> None:
    broker = new_mosquitto()
    rig = await rigs.make(broker)
    broker.stop()

    async with asyncio.timeout(30):
        while await rig.source.publish_all("results", [Outgoing(PAYLOAD)] * 3):
            await asyncio.sleep(0.01)


async def test_a_broker_that_stands_still_is_waited_for_once(
    rigs: Rigs, new_mosquitto: Callable[..., Mosquitto]
) -> None:
    broker = new_mosquitto(settings=UNLIMITED)
    rig = await rigs.make(broker, publish_wait_ms=300)
    broker.pause()
    try:
        n_most = 200_000  # 200 MB: more than any socket takes
        while await rig.source.publish("results", PAYLOAD):
            n_most -= 1
            assert n_most
        began_s = time.monotonic()
        later = await rig.source.publish_all("results", [Outgoing(PAYLOAD)] * 1000)
        took_s = time.monotonic() - began_s
    finally:
        broker.resume()

    assert later == 0
    assert took_s < 1000 * 0.3 / 2  # each on its own would have taken 300 s
    async with asyncio.timeout(30):
        while not await rig.source.publish("results", PAYLOAD):
            await asyncio.sleep(0.01)
