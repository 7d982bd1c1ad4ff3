"""A source under test with a publisher beside it: shared by the source suites."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from mqttium.api import AsyncClient

from gatewayd.clock import SystemClock
from gatewayd.config import schema
from gatewayd.keys import KeyMaker
from gatewayd.mqtt.aiomqtt_source import AiomqttSource
from gatewayd.mqtt.mqttium_source import MqttiumSource
from gatewayd.ports import RawMessage
from tests.sim.mosquitto import Mosquitto

QUICK = schema.Reconnect(initial_s=0.1, max_s=0.2, stable_s=1.0)
WAIT_S = 15.0
AnySource = MqttiumSource | AiomqttSource


@dataclass(eq=False)
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

    async def settle(self) -> None:
        """Return when the broker has read every PUBACK so far: what is published after them arrives after them."""
        topic = f"settled/{uuid4().hex}"
        assert await self.source.publish(topic, b"settled", qos=1, retain=True)
        await retained(self.publisher, topic, b"settled")

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
        rig = self.start(broker, filters=filters, root=root, name=name, **options)
        await rig.publisher.connect("127.0.0.1", broker.port)
        await until(lambda: rig.source.is_connected or rig.run.done())
        assert not rig.run.done()
        await self._until_subscribed(rig)
        return rig

    async def _until_subscribed(self, rig: Rig) -> None:
        if rig.source._status is None:
            return
        await retained(rig.publisher, f"gatewayd/{rig.source._gateway}/status", b"online")

    def start(
        self,
        broker: Mosquitto,
        *,
        filters: list[tuple[str, int]] | None = None,
        root: str = "",
        name: str = "",
        **options: Any,
    ) -> Rig:
        """A source that runs; whether it connects is what the test is about."""
        root = root or uuid4().hex
        events: list[tuple[str, dict[str, object]]] = []
        password = options.pop("password", None)
        remembered = options.pop("remembered", None)
        config = schema.Source(
            **{"port": broker.port, "protocol": self.protocol, "reconnect": QUICK, "keepalive_s": 20, **options}
        )
        source = self.kind(
            config,
            gateway=name or uuid4().hex,
            filters=filters or [(f"{root}/#", 1)],
            password=password,
            keys=KeyMaker("00c0ffee00c0ffee"),
            clock=SystemClock(),
            draw=lambda: 0.5,
            on_event=lambda event, attributes: events.append((event, dict(attributes))),
            remembered=remembered,
        )
        run = asyncio.create_task(source.run(), name="source")
        publisher = AsyncClient(f"pub-{uuid4().hex}", protocol=5)
        rig = Rig(source, source.messages(), events, run, publisher, root)
        self.made.append(rig)
        return rig

    async def stop(self) -> None:
        for rig in self.made:
            if not rig.run.done():
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
