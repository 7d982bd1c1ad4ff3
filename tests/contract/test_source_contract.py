"""What every Source must do, against a real Mosquitto. The two adapters run the same tests over MQTT 5 and 3.1.1."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from mqttium.api import AsyncClient
from mqttium.types import Properties

from gatewayd.config import schema
from gatewayd.keys import KeyMaker, publisher_key
from gatewayd.mqtt.aiomqtt_source import AiomqttSource
from gatewayd.mqtt.mqttium_source import MqttiumSource
from gatewayd.ports import RawMessage
from tests.conftest import RealClock
from tests.sim.mosquitto import Mosquitto

pytestmark = pytest.mark.broker

QUICK = schema.Reconnect(initial_s=0.1, max_s=0.2, stable_s=1.0)
WAIT_S = 15.0
AnySource = MqttiumSource | AiomqttSource


@dataclass
class Rig:
    """A running source, what it reported, and a publisher beside it."""

    source: AnySource
    stream: AsyncIterator[RawMessage]
    events: list[tuple[str, dict[str, object]]]
    run: "asyncio.Task[None]"
    publisher: AsyncClient
    root: str

    async def send(self, *payloads: str, qos: int = 1, topic: str = "data", **options: Any) -> None:
        for payload in payloads:
            await (await self.publisher.publish(f"{self.root}/{topic}", payload, qos=qos, **options)).wait()

    async def take(self, count: int, *, ack: bool = True) -> list[RawMessage]:
        """Messages, acknowledged one by one: over 3.1.1 Mosquitto has at most 20 of them in flight."""
        taken = []
        async with asyncio.timeout(WAIT_S):
            while len(taken) < count:
                taken.append(await anext(self.stream))
                if ack:
                    await self.source.ack([taken[-1].receipt])
        return taken

    async def take_texts(self, count: int) -> list[str]:
        return [message.payload.decode() for message in await self.take(count)]

    def n_events(self, name: str) -> int:
        return sum(1 for found, _ in self.events if found == name)

    async def stop(self) -> None:
        self.run.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.run


@dataclass
class Rigs:
    """Makes rigs of one kind of source and ends them."""

    kind: type[AnySource]
    protocol: Any
    made: list[Rig] = field(default_factory=list)

    async def make(
        self,
        broker: Mosquitto,
        *,
        filters: list[tuple[str, int]] | None = None,
        root: str = "",
        name: str = "",
        **options: Any,
    ) -> Rig:
        root = root or uuid4().hex
        rig = self._start(broker, root, filters or [(f"{root}/#", 1)], name or uuid4().hex, options)
        await rig.publisher.connect("127.0.0.1", broker.port)
        await until(lambda: rig.source.is_connected or rig.run.done())
        assert not rig.run.done()
        await self._until_subscribed(rig)
        return rig

    async def _until_subscribed(self, rig: Rig) -> None:
        if rig.source._status is None:
            return
        await retained(rig.publisher, f"gatewayd/{rig.source._gateway}/status", b"online")

    def _start(
        self, broker: Mosquitto, root: str, filters: list[tuple[str, int]], name: str, options: dict[str, Any]
    ) -> Rig:
        events: list[tuple[str, dict[str, object]]] = []
        password = options.pop("password", None)
        config = schema.Source(
            **{"port": broker.port, "protocol": self.protocol, "reconnect": QUICK, "keepalive_s": 20, **options}
        )
        source = self.kind(
            config,
            gateway=name,
            filters=filters,
            password=password,
            keys=KeyMaker("00c0ffee00c0ffee"),
            clock=RealClock(),
            draw=lambda: 0.5,
            on_event=lambda event, attributes: events.append((event, dict(attributes))),
        )
        run = asyncio.create_task(source.run(), name="source")
        publisher = AsyncClient(f"pub-{uuid4().hex}", protocol=5)
        rig = Rig(source, source.messages(), events, run, publisher, root)
        self.made.append(rig)
        return rig

    async def stop(self) -> None:
        for rig in self.made:
            await rig.stop()
            await rig.publisher.disconnect()


async def until(condition: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


async def retained(client: AsyncClient, topic: str, wanted: bytes = b"{") -> bytes:
    """The first message on `topic` with `wanted` in it; the retained one comes first."""
    await client.subscribe(topic, qos=1)
    try:
        async with asyncio.timeout(WAIT_S):
            async for message in client.messages():
                if message.topic == topic and wanted in message.payload:
                    return message.payload
    finally:
        await client.unsubscribe(topic)
    raise AssertionError("the iterator ended")


@pytest.fixture(params=["5", "3.1.1"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[MqttiumSource, AiomqttSource], ids=["mqttium", "aiomqtt"])
async def rigs(request: pytest.FixtureRequest, protocol: str) -> AsyncIterator[Rigs]:
    made = Rigs(request.param, protocol)
    yield made
    await made.stop()


@pytest.fixture
async def careful(protocol: str) -> AsyncIterator[Rigs]:
    """The source that acknowledges after the commit."""
    made = Rigs(MqttiumSource, protocol)
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
