"""What every Source must do, against a real Mosquitto. The two adapters run the same tests over MQTT 5 and 3.1.1."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from uuid import uuid4

import pytest
from mqttium.types import Properties

from gatewayd.keys import publisher_key
from gatewayd.mqtt.aiomqtt_source import AiomqttSource
from gatewayd.mqtt.mqttium_source import MqttiumSource
from tests.contract.source_rig import Rigs, retained, until
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


@pytest.mark.parametrize("qos", [0, 1])
async def test_messages_come_in_order(rigs: Rigs, mosquitto: Mosquitto, qos: int) -> None:
    rig = await rigs.make(mosquitto)

    await rig.send(*(str(n) for n in range(200)), qos=qos)

    messages = await rig.take(200)
    assert [str(n) for n in range(200)] == [message.payload.decode() for message in messages]
    assert {qos} == {message.qos for message in messages}
    assert len({message.key for message in messages}) == 200


async def test_a_filter_with_wildcards_matches_its_topics_alone(rigs: Rigs, mosquitto: Mosquitto) -> None:
    root = uuid4().hex
    rig = await rigs.make(mosquitto, root=root, filters=[(f"{root}/+/temp", 1), (f"{root}/log/#", 0)])

    for topic in ("a/temp", "a/other", "log/x/y", "b/temp"):
        await rig.send(topic, topic=topic)

    messages = await rig.take(3)
    assert [message.payload.decode() for message in messages] == ["a/temp", "log/x/y", "b/temp"]
    assert [message.qos for message in messages] == [1, 0, 1]


async def test_content_type_and_user_properties_come_along_on_mqtt_5(rigs: Rigs, mosquitto: Mosquitto) -> None:
    rig = await rigs.make(mosquitto)
    pairs = (("traceparent", "00-a-b-01"), ("x", "1"), ("x", "2"))

    await rig.send("{}", properties=Properties({"content_type": "application/json", "user_property": pairs}))

    (message,) = await rig.take(1)
    seen = (message.content_type, message.properties, message.traceparent)
    assert (("application/json", pairs, "00-a-b-01") if rigs.protocol == "5" else ("", (), "")) == seen


async def test_the_publishers_own_id_makes_the_key(rigs: Rigs, mosquitto: Mosquitto) -> None:
    rig = await rigs.make(mosquitto)

    await rig.send("{}", properties=Properties({"user_property": (("id", "7"), ("source", "/pump"))}))

    (message,) = await rig.take(1)
    expected = publisher_key(message.topic, "/pump", "7")
    assert (message.key == expected) is (rigs.protocol == "5")


async def test_a_retained_message_says_so(rigs: Rigs, mosquitto: Mosquitto) -> None:
    root = uuid4().hex
    early = await rigs.make(mosquitto, root=uuid4().hex)
    early.root = root
    await early.send("old", retain=True)

    rig = await rigs.make(mosquitto, root=root)
    await rig.send("new")

    assert [(m.payload.decode(), m.retain) for m in await rig.take(2)] == [("old", True), ("new", False)]


async def test_an_empty_and_a_large_payload_come_through(rigs: Rigs, mosquitto: Mosquitto) -> None:
    rig = await rigs.make(mosquitto, max_payload_bytes=100, max_waiting_bytes=1024)
    large = "x" * 3_000_000

    await rig.send("", large, "after")

    assert ["", large, "after"] == await rig.take_texts(3)


async def test_publish_reaches_the_bus(rigs: Rigs, mosquitto: Mosquitto) -> None:
    rig = await rigs.make(mosquitto)

    handed_over = await rig.source.publish(
        f"{rig.root}/live", b"{}", qos=1, content_type="application/json", properties=[("id", "1")]
    )

    (message,) = await rig.take(1)
    assert handed_over
    assert message.payload == b"{}"
    assert (("application/json", (("id", "1"),)) if rigs.protocol == "5" else ("", ())) == (
        message.content_type,
        message.properties,
    )


async def test_publish_without_a_connection_says_no(rigs: Rigs, new_mosquitto: Callable[..., Mosquitto]) -> None:
    broker = new_mosquitto()
    rig = await rigs.make(broker)

    broker.stop()
    await until(lambda: not rig.source.is_connected)

    assert not await rig.source.publish("a", b"b")


async def test_pause_delivers_nothing_more(rigs: Rigs, mosquitto: Mosquitto) -> None:
    rig = await rigs.make(mosquitto)
    await rig.send("before")
    assert await rig.take_texts(1) == ["before"]

    await rig.source.pause()
    await rig.send("after")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await anext(rig.stream)


async def test_a_clean_stop_leaves_offline_behind(rigs: Rigs, mosquitto: Mosquitto) -> None:
    rig = await rigs.make(mosquitto)

    await rig.stop()

    status = await retained(rig.publisher, f"gatewayd/{rig.source._gateway}/status")
    assert json.loads(status) == {"state": "offline"}


async def test_messages_wait_at_the_broker_while_the_source_is_away(rigs: Rigs, mosquitto: Mosquitto) -> None:
    root, name = uuid4().hex, uuid4().hex
    first = await rigs.make(mosquitto, root=root, name=name)
    await first.stop()
    await first.send("while away")

    second = await rigs.make(mosquitto, root=root, name=name)

    assert await second.take_texts(1) == ["while away"]


async def test_a_broker_that_restarts_loses_nothing(rigs: Rigs, new_mosquitto: Callable[..., Mosquitto]) -> None:
    broker = new_mosquitto(persistence=True)
    rig = await rigs.make(broker)
    await rig.send("1", "2")
    await rig.take(2)
    await rig.settle()

    broker.restart()
    await until(lambda: rig.n_events("connected") == 2)
    await rig.publisher.connect("127.0.0.1", broker.port)
    await rig.send("3")

    assert await rig.take_texts(1) == ["3"]


async def test_a_half_open_link_is_noticed(rigs: Rigs, new_mosquitto: Callable[..., Mosquitto]) -> None:
    broker = new_mosquitto()
    rig = await rigs.make(broker, keepalive_s=2, connect_timeout_s=1.0)

    broker.pause()
    await until(lambda: rig.n_events("lost") > 0, timeout_s=8.0)
    broker.resume()

    await until(lambda: rig.n_events("connected") == 2)
    await rig.publisher.disconnect()
    await rig.publisher.connect("127.0.0.1", broker.port)
    await rig.send("back")
    assert await rig.take_texts(1) == ["back"]
