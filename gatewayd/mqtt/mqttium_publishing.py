"""Publishing with MQTTium: at once where there is room, soon where there is none, in bursts where there are many.

Invariant: nobody waits for a connection, and for room only once: when it took nothing for `wait_s`, nobody waits until
it takes something again, or each result of a batch would wait anew.
"""

import asyncio
from collections.abc import Sequence

from mqttium import FlowControlError, MQTTError
from mqttium.api import AsyncClient, PublishMessage
from mqttium.types import Properties

from gatewayd.mqtt.burst import publish_burst, writer_of
from gatewayd.mqtt.encoded import publish_properties
from gatewayd.ports import Outgoing


class Publishing:
    """Hands messages to a client."""

    def __init__(self, wait_s: float, *, is_v5: bool) -> None:
        self._wait_s = wait_s
        self._is_v5 = is_v5
        self._is_stuck = False  # there was no room for `wait_s`, and has been none since

    async def publish(self, client: AsyncClient, message: PublishMessage) -> bool:
        """False when the client takes none now, or not this one (too large, a topic that is none)."""
        try:
            client.publish_nowait(
                message.topic, message.payload, qos=message.qos, retain=message.retain, properties=message.properties
            )
        except FlowControlError:
            return await self._publish_when_room(client, message)
        except MQTTError:
            return False
        self._is_stuck = False
        return True

    async def publish_all(
        self, client: AsyncClient, topic: str, messages: Sequence[Outgoing], qos: int, content_type: str
    ) -> int:
        """Several, in order. How many the client took."""
        n_published = at = 0
        while at < len(messages):
            if qos == 0 and self._is_v5 and not self._is_stuck:
                n_written, at = _burst(client, topic, content_type, messages, at)
                n_published += n_written
                if at == len(messages):
                    break
            payload, own, shared = messages[at]
            message = PublishMessage(topic, payload, qos, False, self.properties(content_type, (*shared, *own)))
            n_published += await self.publish(client, message)
            at += 1
        return n_published

    def properties(self, content_type: str, pairs: Sequence[tuple[str, str]]) -> Properties | None:
        """The properties of a PUBLISH; None where there are none, or MQTT 3.1.1 knows none."""
        if not self._is_v5 or not (content_type or pairs):
            return None
        return publish_properties(content_type, pairs)

    async def _publish_when_room(self, client: AsyncClient, message: PublishMessage) -> bool:
        """A burst is larger than what the client holds: let it write."""
        if self._is_stuck:
            return False
        try:
            async with asyncio.timeout(self._wait_s):
                await client.publish(
                    message.topic,
                    message.payload,
                    qos=message.qos,
                    retain=message.retain,
                    properties=message.properties,
                )
        except TimeoutError:
            self._is_stuck = True
            return False
        except MQTTError:
            return False
        return True


def _burst(
    client: AsyncClient, topic: str, content_type: str, messages: Sequence[Outgoing], at: int
) -> tuple[int, int]:
    """How many were written, and where the first one is that was not."""
    write = writer_of(client)
    if write is None:
        return 0, at
    limit = None if client.negotiated is None else client.negotiated.maximum_packet_size
    try:
        return publish_burst(write, topic, content_type, messages, at, limit)
    except MQTTError:
        return 0, at
