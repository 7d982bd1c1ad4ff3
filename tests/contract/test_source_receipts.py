"""What is acknowledged when: the promise of the source that acknowledges after the commit, and the other without it."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from uuid import uuid4

import pytest

from gatewayd.mqtt.aiomqtt_source import AiomqttSource
from gatewayd.mqtt.mqttium_source import MqttiumSource
from tests.contract.source_rig import Rig, Rigs, retained, until
from tests.sim.mosquitto import Mosquitto

pytestmark = pytest.mark.broker


async def lose_the_link(rig: Rig, broker: Mosquitto) -> None:
    """The broker restarts with what it had saved, and both clients are back."""
    n_before = rig.n_events("connected")
    broker.restart()
    await until(lambda: rig.n_events("connected") > n_before)
    await rig.publisher.connect("127.0.0.1", broker.port)


async def test_what_was_not_acknowledged_comes_again_to_the_next_process(rigs: Rigs, mosquitto: Mosquitto) -> None:
    root, name = uuid4().hex, uuid4().hex
    first = await rigs.make(mosquitto, root=root, name=name)
    await first.send("1", "2", "3", "4")
    one, _two, _three, _four = await first.take(4, ack=False)
    await first.source.ack([one.receipt])
    await first.stop()

    second = await rigs.make(mosquitto, root=root, name=name)

    again = await second.take(3)
    assert [message.payload for message in again] == [b"2", b"3", b"4"]
    assert all(message.dup for message in again)


async def test_a_redelivery_has_the_identity_of_its_message(rigs: Rigs, mosquitto: Mosquitto) -> None:
    root, name = uuid4().hex, uuid4().hex
    first = await rigs.make(mosquitto, root=root, name=name)
    await first.send("same", "same")
    before = await first.take(2, ack=False)
    await first.stop()

    second = await rigs.make(mosquitto, root=root, name=name)

    after = await second.take(2)
    assert [message.identity for message in after] == [message.identity for message in before]
    assert before[0].identity != before[1].identity


async def test_receipts_may_come_back_in_any_order(rigs: Rigs, mosquitto: Mosquitto) -> None:
    root, name = uuid4().hex, uuid4().hex
    first = await rigs.make(mosquitto, root=root, name=name)
    await first.send("1", "2", "3")
    one, two, three = await first.take(3, ack=False)
    for message in (three, one, two):
        await first.source.ack([message.receipt])
    await first.stop()
    await first.send("4")

    second = await rigs.make(mosquitto, root=root, name=name)

    assert await second.take_texts(1) == ["4"]


async def test_a_message_in_our_hands_is_not_handed_out_again_after_a_reconnect(
    rigs: Rigs, new_mosquitto: Callable[..., Mosquitto]
) -> None:
    broker = new_mosquitto(persistence=True)
    rig = await rigs.make(broker)
    await rig.send("1", "2", "3")
    held = await rig.take(3, ack=False)

    await lose_the_link(rig, broker)
    await rig.send("4")

    assert await rig.take_texts(1) == ["4"]
    assert (rig.source.duplicates, rig.n_events("duplicate")) == (3, 3)
    await rig.source.ack([message.receipt for message in held])
    assert len(rig.source._receipts) == 0


async def test_a_receipt_that_comes_back_while_the_link_is_down_counts_after_it(
    rigs: Rigs, new_mosquitto: Callable[..., Mosquitto]
) -> None:
    broker = new_mosquitto(persistence=True)
    root, name = uuid4().hex, uuid4().hex
    rig = await rigs.make(broker, root=root, name=name)
    await rig.send("1", "2")
    held = await rig.take(2, ack=False)
    broker.stop()
    await until(lambda: not rig.source.is_connected)

    await rig.source.ack([message.receipt for message in held])
    broker.start()
    await until(lambda: rig.n_events("duplicate") == 2)
    await until(lambda: len(rig.source._receipts) == 0)
    await rig.stop()

    later = await rigs.make(broker, root=root, name=name)
    await later.send("3")
    assert await later.take_texts(1) == ["3"]


async def test_a_broker_that_forgot_the_session_is_no_reason_to_swallow_a_message(
    rigs: Rigs, new_mosquitto: Callable[..., Mosquitto]
) -> None:
    broker = new_mosquitto(persistence=False)
    rig = await rigs.make(broker)
    await rig.send("21.5")
    held = await rig.take(1, ack=False)

    await lose_the_link(rig, broker)
    await retained(rig.publisher, f"gatewayd/{rig.source._gateway}/status", b"online")
    await rig.send("21.5")  # the same content under the same packet identifier, and yet another message

    assert await rig.take_texts(1) == ["21.5"]
    await rig.source.ack([held[0].receipt])  # a receipt nobody knows any more


CHILD = """
import asyncio, os, random, sys
from gatewayd.config import schema
from gatewayd.keys import KeyMaker
from gatewayd.mqtt.{module} import {kind}
from gatewayd.clock import SystemClock

async def main():
    port, protocol, name, root = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
    source = {kind}(
        schema.Source(port=port, protocol=protocol), gateway=name, filters=[(root + "/#", 1)], password=None,
        keys=KeyMaker("e"), clock=SystemClock(), draw=random.random,
    )
    run = asyncio.create_task(source.run())
    taken = 0
    async for message in source.messages():
        taken += 1
        if taken <= 5:
            await source.ack([message.receipt])
        if taken == 10:
            await source.publish("settled/" + name, b"settled", qos=1, retain=True)
        print(taken, flush=True)

asyncio.run(main())
"""


async def start_child(kind: type, *arguments: str) -> "asyncio.subprocess.Process":
    module = "mqttium_source" if kind is MqttiumSource else "aiomqtt_source"
    script = CHILD.format(module=module, kind=kind.__name__)
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, *arguments, stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": "."}
    )


async def crash_with_ten_messages(kind: type, rigs: Rigs, broker: Mosquitto, name: str, root: str) -> Rig:
    """A child process takes ten messages, gives back the receipts of five, and is killed. A rig that watches.

    Its last word before: published after the PUBACKs, so the broker has read them.
    """
    watcher = await rigs.make(broker)
    watcher.root = root
    child = await start_child(kind, str(broker.port), rigs.protocol, name, root)
    assert child.stdout is not None
    await retained(watcher.publisher, f"gatewayd/{name}/status", b"online")
    await watcher.send(*(str(n) for n in range(10)))
    async with asyncio.timeout(15):
        while (await child.stdout.readline()).strip() != b"10":
            pass
    await retained(watcher.publisher, f"settled/{name}", b"settled")
    child.send_signal(signal.SIGKILL)
    await child.wait()
    return watcher


async def test_after_kill_9_exactly_the_unacknowledged_come_again(rigs: Rigs, mosquitto: Mosquitto) -> None:
    name, root = uuid4().hex, uuid4().hex
    await crash_with_ten_messages(MqttiumSource, rigs, mosquitto, name, root)

    second = await rigs.make(mosquitto, root=root, name=name)

    assert await second.take_texts(5) == ["5", "6", "7", "8", "9"]


async def test_after_kill_9_the_last_will_says_offline(rigs: Rigs, mosquitto: Mosquitto) -> None:
    name, root = uuid4().hex, uuid4().hex

    watcher = await crash_with_ten_messages(MqttiumSource, rigs, mosquitto, name, root)

    assert b"offline" in await retained(watcher.publisher, f"gatewayd/{name}/status", b"offline")


async def test_aiomqtt_loses_what_it_had_read_at_kill_9_as_its_warning_says(rigs: Rigs, mosquitto: Mosquitto) -> None:
    name, root = uuid4().hex, uuid4().hex
    await crash_with_ten_messages(AiomqttSource, rigs, mosquitto, name, root)

    second = await rigs.make(mosquitto, root=root, name=name)
    await second.send("10")

    assert not AiomqttSource.acks_after_commit
    assert await second.take_texts(1) == ["10"]


async def test_a_shared_subscription_splits_the_load_and_loses_nothing(rigs: Rigs, mosquitto: Mosquitto) -> None:
    root, group = uuid4().hex, uuid4().hex
    one = await rigs.make(mosquitto, root=root, share_group=group)
    two = await rigs.make(mosquitto, root=root, share_group=group)
    taken: dict[Rig, list[str]] = {one: [], two: []}

    async def take_all(rig: Rig) -> None:
        while True:
            taken[rig] += await rig.take_texts(1)

    async with asyncio.TaskGroup() as tasks:
        takers = [tasks.create_task(take_all(rig)) for rig in taken]
        await one.send(*(str(n) for n in range(200)))
        await until(lambda: sum(map(len, taken.values())) >= 200)
        for taker in takers:
            taker.cancel()

    assert sorted(taken[one] + taken[two], key=int) == [str(n) for n in range(200)]
    assert taken[one]
    assert taken[two]
