"""Overlapping and stale subscriptions against a real Mosquitto: it delivers a copy for each matching subscription."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from gatewayd.mqtt.aiomqtt_source import AiomqttSource
from gatewayd.mqtt.mqttium_source import MqttiumSource
from gatewayd.mqtt.remembered import Remembered
from gatewayd.routing import Router
from tests.contract.source_rig import WAIT_S, Rig, Rigs
from tests.sim.mosquitto import Mosquitto

pytestmark = pytest.mark.broker


@pytest.fixture(params=["5", "3.1.1"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[MqttiumSource, AiomqttSource], ids=["mqttium", "aiomqtt"])
async def rigs(request: pytest.FixtureRequest, protocol: str) -> AsyncIterator[Rigs]:
    made = Rigs(request.param, protocol)
    yield made
    await made.stop()


async def until_end(rig: Rig) -> list[str]:
    """The payloads up to the one that is published last here."""
    await rig.send("end", topic="end")
    texts = []
    while not texts or texts[-1] != "end":
        texts += await rig.take_texts(1)
    return texts[:-1]


async def test_covered_filters_of_two_routes_give_each_route_each_message_once(
    rigs: Rigs, mosquitto: Mosquitto
) -> None:
    root = uuid4().hex
    routes = {f"{root}/#": ["all"], f"{root}/+/vibration": ["one"], f"{root}/pump/#": ["pump"]}
    rig = await rigs.make(mosquitto, root=root, filters=[(name, 1) for name in routes])

    await rig.send(*(str(n) for n in range(50)), topic="pump/vibration")

    messages = await rig.take(50)
    assert [message.payload.decode() for message in messages] == [str(n) for n in range(50)]
    assert {Router(routes).match(message.topic) for message in messages} == {("all", "one", "pump")}
    assert await until_end(rig) == []


@pytest.mark.parametrize("group", [None, "hall"])
@pytest.mark.parametrize("qos", [0, 1])
async def test_partly_overlapping_filters_give_each_message_once(
    rigs: Rigs, mosquitto: Mosquitto, qos: int, group: str | None
) -> None:
    root = uuid4().hex
    filters = [(f"{root}/a/+", 0), (f"{root}/+/b", 1), (f"{root}/end", 1)]
    rig = await rigs.make(mosquitto, root=root, filters=filters, share_group=group)

    for n in range(50):
        await rig.send(str(n), topic="a/b", qos=qos)
    await rig.send("only the first", topic="a/x", qos=qos)
    await rig.send("only the second", topic="x/b", qos=qos)

    assert await until_end(rig) == [*(str(n) for n in range(50)), "only the first", "only the second"]


async def test_of_the_copies_the_one_with_the_higher_qos_is_taken(rigs: Rigs, mosquitto: Mosquitto) -> None:
    root = uuid4().hex
    rig = await rigs.make(mosquitto, root=root, filters=[(f"{root}/a/+", 0), (f"{root}/+/b", 1), (f"{root}/end", 1)])

    await rig.send("reading", topic="a/b")

    (message,) = await rig.take(1)
    if rigs.protocol == "5":
        assert message.qos == 1
    assert await until_end(rig) == []


async def test_copies_passed_over_are_acknowledged(rigs: Rigs, mosquitto: Mosquitto) -> None:
    root, name = uuid4().hex, uuid4().hex
    filters = [(f"{root}/a/+", 1), (f"{root}/+/b", 1), (f"{root}/end", 1)]
    first = await rigs.make(mosquitto, root=root, name=name, filters=filters)
    await first.send("1", "2", topic="a/b")
    assert await until_end(first) == ["1", "2"]
    await first.settle()
    await first.stop()

    second = await rigs.make(mosquitto, root=root, name=name, filters=filters)

    assert await until_end(second) == []
    assert second.n_events("copy") == 0


async def test_a_filter_that_left_the_config_delivers_no_more(rigs: Rigs, mosquitto: Mosquitto, tmp_path: Path) -> None:
    root, name = uuid4().hex, uuid4().hex
    remembered = Remembered(tmp_path / "subscriptions.json", "s")
    old = [(f"{root}/old/#", 1), (f"{root}/+/b", 1), (f"{root}/end", 1)]
    first = await rigs.make(mosquitto, root=root, name=name, filters=old, remembered=remembered)
    await first.stop()

    second = await rigs.make(mosquitto, root=root, name=name, filters=old[1:], remembered=remembered)
    await second.settle()
    await second.send("gone", topic="old/x")
    await second.send("once", topic="old/b")

    assert await until_end(second) == ["once"]
    (kept,) = json.loads((tmp_path / "subscriptions.json").read_text()).values()
    assert kept["stale"] == []


@pytest.mark.parametrize("new", [["#"], ["+/b"], ["+/b", "a/+", "+/+/#"], ["+/b", "+/b/#", "a/b/+"]])
async def test_what_waited_at_the_broker_over_a_change_of_filters_comes_exactly_once(
    rigs: Rigs, mosquitto: Mosquitto, tmp_path: Path, new: list[str]
) -> None:
    root, name = uuid4().hex, uuid4().hex
    remembered = Remembered(tmp_path / "subscriptions.json", "s")
    old = [(f"{root}/a/+", 1), (f"{root}/+/b", 1), (f"{root}/end", 1)]
    first = await rigs.make(mosquitto, root=root, name=name, filters=old, remembered=remembered)
    await first.stop()
    await first.send("1", "2", "3", topic="a/b")
    await first.send("4", topic="a/x")
    filters = [(f"{root}/{topic}", 1) for topic in [*new, "end"]]

    second = await rigs.make(mosquitto, root=root, name=name, filters=filters, remembered=remembered)
    await second.settle()
    await second.send("5", topic="a/b")

    assert sorted(await until_end(second)) == ["1", "2", "3", "4", "5"]


async def test_an_overlap_that_cannot_be_told_apart_is_said_once(rigs: Rigs, mosquitto: Mosquitto) -> None:
    root = uuid4().hex

    with capture_logs() as logs:
        await rigs.make(mosquitto, root=root, filters=[(f"{root}/a/+", 1), (f"{root}/+/b", 1)])

    said = [line for line in logs if "overlap" in line["event"]]
    assert len(said) == (0 if rigs.protocol == "5" else 1)
    if said:
        assert said[0]["filters"] == [f"{root}/a/+ and {root}/+/b"]


async def test_a_broker_without_identifiers_gets_one_subscribe_with_none(rigs: Rigs, mosquitto: Mosquitto) -> None:
    packets: asyncio.Queue[bytes] = asyncio.Queue()
    is_v5 = rigs.protocol == "5"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_packet(reader)
        writer.write(bytes.fromhex("20 05 00 00 02 29 00" if is_v5 else "20 02 00 00"))  # 0x29 0: no identifiers
        packet = await read_packet(reader)
        writer.write(b"\x90" + bytes([len(packet[:2]) + is_v5 + 2]) + packet[:2] + b"\0" * is_v5 + b"\1\1")
        packets.put_nowait(packet)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        with capture_logs() as logs:
            port = server.sockets[0].getsockname()[1]
            rig = rigs.start(mosquitto, filters=[("a/+", 1), ("+/b", 1)], port=port, status_topic=False)
            async with asyncio.timeout(WAIT_S):
                packet = await packets.get()
            await rig.stop()

    wishes = packet[3:] if is_v5 else packet[2:]
    assert wishes[:5] == b"\0\3a/+"
    assert wishes[6:11] == b"\0\3+/b"
    assert sum("overlap" in line["event"] for line in logs) == 1


async def read_packet(reader: asyncio.StreamReader) -> bytes:
    """A packet of at most 127 bytes, without its header."""
    header = await reader.readexactly(2)
    return await reader.readexactly(header[1])
