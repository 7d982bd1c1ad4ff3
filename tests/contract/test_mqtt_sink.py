"""The MQTT sink against a real Mosquitto."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from mqttium.api import AsyncClient
from mqttium.types import Message

from gatewayd.config import schema
from gatewayd.errors import SinkMisconfigured, SinkUnavailable
from gatewayd.ports import StoredResult
from gatewayd.sinks.mqtt import MqttSink
from tests.sim.mosquitto import Mosquitto, free_port

pytestmark = pytest.mark.broker


def stored(row: int = 1, **changes: Any) -> StoredResult:
    values: dict[str, Any] = {
        "row": row,
        "route": "pumps",
        "key": f"k{row}",
        "kind": "anomaly",
        "subject": "plant/pump/7",
        "time": 1795261614.5,
        "data": b'{"score":0.9}',
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    return StoredResult(**{**values, **changes})


@pytest.fixture
async def new_sink() -> AsyncIterator[Callable[..., MqttSink]]:
    made: list[MqttSink] = []

    def make(broker: Mosquitto | int, **options: Any) -> MqttSink:
        port = broker if isinstance(broker, int) else broker.port
        password = options.pop("password", None)
        config = schema.MqttSink(**{"port": port, "connect_timeout_s": 5.0, **options})
        sink = MqttSink(config, name="cloud", gateway=uuid4().hex, password=password)
        made.append(sink)
        return sink

    yield make
    for sink in made:
        await sink.close()


@pytest.fixture
async def far_side(mosquitto: Mosquitto) -> AsyncIterator[AsyncClient]:
    client = AsyncClient(uuid4().hex, protocol=5)
    await client.connect("127.0.0.1", mosquitto.port)
    yield client
    await client.disconnect()


async def receive(client: AsyncClient, count: int) -> list[Message]:
    async with asyncio.timeout(10):
        stream = client.messages()
        return [await anext(stream) for _ in range(count)]


async def test_mqtt_5_carries_the_event_in_binary_mode(
    mosquitto: Mosquitto, new_sink: Callable[..., MqttSink], far_side: AsyncClient
) -> None:
    sink = new_sink(mosquitto, topic="cloud/{gateway}/{route}/{kind}")
    await far_side.subscribe("cloud/#", qos=1)

    refused = await sink.send([stored()])

    (message,) = await receive(far_side, 1)
    assert refused == {}
    assert message.topic == f"cloud/{sink._gateway}/pumps/anomaly"
    assert message.payload == b'{"score":0.9}'
    assert message.properties is not None
    assert message.properties.get("content_type") == "application/json"
    assert dict(message.properties.get("user_property")) == {
        "specversion": "1.0",
        "id": "k1",
        "source": f"/gateways/{sink._gateway}/routes/pumps",
        "type": "dev.gatewayd.result.anomaly",
        "subject": "plant/pump/7",
        "time": "2026-11-21T11:46:54.500Z",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }


async def test_mqtt_3_carries_the_event_as_one_json_document(
    mosquitto: Mosquitto, new_sink: Callable[..., MqttSink], far_side: AsyncClient
) -> None:
    sink = new_sink(mosquitto, protocol="3.1.1", topic="cloud3/{route}")
    await far_side.subscribe("cloud3/#", qos=1)

    await sink.send([stored()])

    (message,) = await receive(far_side, 1)
    event = json.loads(message.payload)
    assert (event["id"], event["type"], event["data"]) == ("k1", "dev.gatewayd.result.anomaly", {"score": 0.9})


async def test_a_batch_arrives_whole_and_in_order(
    mosquitto: Mosquitto, new_sink: Callable[..., MqttSink], far_side: AsyncClient
) -> None:
    sink = new_sink(mosquitto, topic="batch/{route}")
    await far_side.subscribe("batch/#", qos=1)

    await sink.send([stored(row, data=str(row).encode()) for row in range(500)])

    assert [int(message.payload) for message in await receive(far_side, 500)] == list(range(500))


async def test_a_kind_with_wildcards_makes_a_topic_without(
    mosquitto: Mosquitto, new_sink: Callable[..., MqttSink], far_side: AsyncClient
) -> None:
    sink = new_sink(mosquitto, topic="odd/{kind}")
    await far_side.subscribe("odd/#", qos=1)

    await sink.send([stored(kind="a+b#")])

    assert (await receive(far_side, 1))[0].topic == "odd/a_b_"


async def test_no_broker_is_unavailable(new_sink: Callable[..., MqttSink]) -> None:
    with pytest.raises(SinkUnavailable):
        await new_sink(free_port()).send([stored()])


async def test_a_broker_that_hangs_is_unavailable_in_time(
    new_mosquitto: Callable[..., Mosquitto], new_sink: Callable[..., MqttSink]
) -> None:
    broker = new_mosquitto()
    sink = new_sink(broker, timeout_s=0.5)
    await sink.send([stored()])
    broker.pause()

    with pytest.raises(SinkUnavailable, match=r"0\.5 s"):
        await sink.send([stored(2)])

    broker.resume()
    assert await sink.send([stored(2)]) == {}


async def test_the_next_send_finds_a_broker_that_came_back(
    new_mosquitto: Callable[..., Mosquitto], new_sink: Callable[..., MqttSink]
) -> None:
    broker = new_mosquitto()
    sink = new_sink(broker)
    await sink.send([stored()])

    broker.restart()

    for _ in range(2):  # the first may still find the old link
        try:
            assert await sink.send([stored(2)]) == {}
            return
        except SinkUnavailable:
            continue
    pytest.fail("the sink did not connect again")


async def test_a_wrong_password_is_the_operators_matter(
    new_mosquitto: Callable[..., Mosquitto], new_sink: Callable[..., MqttSink], tmp_path: Path
) -> None:
    (tmp_path / "passwords").touch()
    broker = new_mosquitto(anonymous=False, settings=[f"password_file {tmp_path}/passwords"])
    sink = new_sink(broker, username="gw", password="wrong")

    with pytest.raises(SinkMisconfigured) as caught:
        await sink.send([stored()])

    assert "password" in caught.value.hint


async def test_a_topic_we_may_not_write_is_the_operators_matter(
    new_mosquitto: Callable[..., Mosquitto], new_sink: Callable[..., MqttSink], tmp_path: Path
) -> None:
    (tmp_path / "rules").write_text("topic read #\n")
    sink = new_sink(new_mosquitto(settings=[f"acl_file {tmp_path}/rules"]))

    with pytest.raises(SinkMisconfigured) as caught:
        await sink.send([stored()])

    assert "access rules" in caught.value.hint


async def test_a_result_too_large_for_the_broker_is_refused_and_its_neighbors_are_not(
    new_mosquitto: Callable[..., Mosquitto], new_sink: Callable[..., MqttSink]
) -> None:
    sink = new_sink(new_mosquitto(settings=["max_packet_size 2000"]))

    refused = await sink.send([stored(1), stored(2, data=b'"' + b"x" * 5000 + b'"'), stored(3)])

    assert list(refused) == ["k2"]
    assert "too large" in refused["k2"]


async def test_two_routes_may_send_at_once(
    mosquitto: Mosquitto, new_sink: Callable[..., MqttSink], far_side: AsyncClient
) -> None:
    sink = new_sink(mosquitto, topic="both/{route}")
    await far_side.subscribe("both/#", qos=1)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(sink.send([stored(row, route="a") for row in range(50)]))
        tasks.create_task(sink.send([stored(row, route="b") for row in range(50)]))

    assert len(await receive(far_side, 100)) == 100
