"""A source in memory: delivers what a test offers, and remembers what was acknowledged and published, in order."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any

from gatewayd.keys import KeyMaker, identity
from gatewayd.ports import Clock, Outgoing, RawMessage


class MemorySource:
    """Implements gatewayd.ports.Source. Receipts are the keys of the messages."""

    acks_after_commit = True
    is_connected = True
    is_subscribed = True
    protocol = 5

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._keys = KeyMaker(secrets.token_hex(8))  # another run never makes the same key
        self._mid = 0
        self._waiting: asyncio.Queue[RawMessage] = asyncio.Queue()
        self.acked: list[str] = []
        self.published: list[tuple[str, bytes, dict[str, str]]] = []
        self.takes_publishes = True
        self.is_paused = False

    def offer(self, topic: str, payload: bytes, **fields: Any) -> RawMessage:
        """Deliver a QoS 1 message (unless `qos` says otherwise). `fields` are those of RawMessage."""
        self._mid = self._mid % 65_535 + 1  # packet identifiers, as a broker gives them
        qos = fields.pop("qos", 1)
        key = fields.pop("key", "") or self._keys.next()
        message = RawMessage(
            topic=topic,
            payload=payload,
            time=self._clock.now(),
            key=key,
            qos=qos,
            identity=identity(self._mid, topic, payload) if qos else b"",
            receipt=key if qos else None,
            **fields,
        )
        self._waiting.put_nowait(message)
        return message

    def again(self, message: RawMessage) -> RawMessage:
        """Deliver a message again as a broker does: DUP is set, and the daemon makes another key for it."""
        key = self._keys.next()
        fields = {name: getattr(message, name) for name in message.__struct_fields__}
        copy = RawMessage(**{**fields, "key": key, "receipt": key, "dup": True})
        self._waiting.put_nowait(copy)
        return copy

    @property
    def n_waiting(self) -> int:
        """Messages that nobody has taken yet."""
        return self._waiting.qsize()

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def messages(self) -> AsyncIterator[RawMessage]:
        while True:
            yield await self._waiting.get()

    async def ack(self, receipts: Sequence[Any]) -> None:
        assert None not in receipts
        self.acked += receipts

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 0,
        retain: bool = False,
        content_type: str = "",
        properties: Sequence[tuple[str, str]] = (),
    ) -> bool:
        if self.takes_publishes:
            self.published.append((topic, payload, dict(properties)))
        return self.takes_publishes

    async def publish_all(
        self, topic: str, messages: Sequence[Outgoing], *, qos: int = 0, content_type: str = ""
    ) -> int:
        sent = [
            await self.publish(topic, payload, qos=qos, properties=(*shared, *own)) for payload, own, shared in messages
        ]
        return sum(sent)

    async def pause(self) -> None:
        self.is_paused = True
