"""The short way from MQTTium's decoder to us, and PUBACKs by the dozen as one write.

What a flood is made of, plain PUBLISH packets of QoS 0 and 1, is read here straight from the decoder, without a Python
object for each step in between; everything else (other packets, redeliveries, topic aliases, whatever is malformed)
stays where it is and the library reads it. Receipts are ours (receipts.py), so the library keeps none of its own
for QoS 1: that book-keeping and a write for each PUBACK cost more than all the rest (ADR "the short way in").

Nothing of this is the library's public interface. At import it is looked at; where it is not as it was when this was
written there is no short way, and every message goes the library's (`manual_ack` stays on: it never acknowledges by
itself). Source of the formats: MQTT 3.1.1 and 5.0, sections 3.3 and 3.4.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from mqttium.api import AsyncClient
from mqttium.codec.buffer import IncrementalDecoder
from mqttium.codec.properties import PUBLISH, decode_properties
from mqttium.enums import MQTTProtocolVersion, QoS
from mqttium.errors import MQTTError, ProtocolError
from mqttium.packets import PublishPacket
from mqttium.protocol.effects import EffectKind
from mqttium.protocol.inbound import InboundSession
from mqttium.topics import validate_received_publish_topic
from mqttium.types import Message, Properties

from gatewayd.mqtt.burst import writing

Handle = int | Message  # what `acknowledge` wants back: a packet identifier, or what the library wants


class Arrived(NamedTuple):
    """A PUBLISH, whichever way it came."""

    topic: str
    payload: bytes
    mid: int | None  # packet identifier; None: QoS 0
    retain: bool
    dup: bool
    properties: Properties | None
    handle: Any  # a Handle; None for QoS 0


Take = Callable[[Arrived], bool]  # whether there is room for more

_PLAIN = {0x30: False, 0x31: False, 0x32: True, 0x33: True}  # first byte of the header: whether there is an identifier
_PUBACK = b"\x40\x02"  # and the identifier; without a reason code it means success in both versions
_MAX_PACKETS = 256  # in one turn of the event loop, as the library's reader does
_MAX_BYTES = 65_536
_CACHED_TOPIC_BYTES = 256


class ShortcutClient(AsyncClient):
    """An AsyncClient whose reader takes the short way while it is open."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._take: Take | None = None
        self._is_short = _IS_KNOWN
        if self._is_short:
            self._leave_receipts_to_us()

    def open(self, take: Take) -> None:
        """From now on give plain messages to `take`, as soon as all that came before were given out."""
        self._take = take if self._is_short else None

    def close(self) -> None:
        """Take the short way no more."""
        self._take = None

    def arrived(self, message: Message) -> Arrived:
        """A message that came the long way."""
        handle = message.mid if self._is_short else message
        return Arrived(
            message.topic, message.payload, message.mid, message.retain, message.dup, message.properties, handle
        )

    async def acknowledge(self, handles: Sequence[Handle]) -> None:
        """A PUBACK for each, in order. Raises MQTTError when the connection has ended."""
        if self._is_short:
            await self._write_pubacks(handles)  # type: ignore[arg-type]  # those of a connection are all of one kind
            return
        for handle in handles:
            try:
                await self.ack(handle)  # type: ignore[arg-type]
            except ProtocolError:  # of another connection: the message comes again, or the broker has forgotten it
                continue

    async def _write_pubacks(self, mids: Sequence[int]) -> None:
        packets = b"".join([_PUBACK + mid.to_bytes(2, "big") for mid in mids])
        with writing():
            await self._write_pump.enqueue_ack(packets, epoch=self._connection_epoch)

    def _leave_receipts_to_us(self) -> None:
        emit = self._engine._emit

        def on_qos1(
            *,
            topic: str,
            payload: bytes,
            mid: int,
            retain: bool,
            dup: bool,
            properties: Properties | None,
            decoded_property_wire_size: int | None = None,
        ) -> None:
            message = Message(topic, payload, QoS.AT_LEAST_ONCE, retain, dup, mid, properties)
            emit(EffectKind.MESSAGE, message, decoded_property_wire_size=decoded_property_wire_size)

        self._engine.inbound._on_qos1 = on_qos1

    def _process_ingress_batch(self) -> tuple[int, int, bool, MQTTError | None]:
        """See the library's: packets and bytes read, whether to come again at once, and what the broker did wrong."""
        take = self._take
        # What came before must be given out before: nothing may be on the long way still.
        if take is None or self._delivery_lane.outstanding or not self._delivery.messages_queue.empty():
            return super()._process_ingress_batch()
        n_packets, n_bytes = self._take_plain(take)
        if n_packets >= _MAX_PACKETS or n_bytes >= _MAX_BYTES:
            return n_packets, n_bytes, True, None
        n_others, n_other_bytes, is_due, error = super()._process_ingress_batch()
        return n_packets + n_others, n_bytes + n_other_bytes, is_due, error

    def _take_plain(self, take: Take) -> tuple[int, int]:
        """Packets and bytes taken from the decoder; ends before the first packet that is not plain."""
        decoder = self._decoder
        is_v5 = self._engine.codec.is_mqtt5
        n_packets = n_bytes = 0
        while n_packets < _MAX_PACKETS and n_bytes < _MAX_BYTES:
            try:
                bounds = decoder.peek_packet_bounds()
            except MQTTError:
                break  # the library says what is wrong with it
            if bounds is None:
                break
            header, start, end = bounds
            has_id = _PLAIN.get(header)
            if has_id is None:
                break
            fields = read_publish(bytes(decoder._buf[start:end]), has_id=has_id, is_v5=is_v5)
            if fields is None:
                break
            decoder.consume_peeked_packet(end)
            n_packets += 1
            n_bytes += end - start
            topic, payload, mid, properties = fields
            if not take(Arrived(topic, payload, mid, header & 1 == 1, False, properties, mid)):
                break  # what is left goes the long way, at whose end somebody waits for room
        return n_packets, n_bytes


def read_publish(body: bytes, *, has_id: bool, is_v5: bool) -> tuple[str, bytes, int | None, Properties | None] | None:
    """Topic, payload, packet identifier and properties of a PUBLISH, from what follows its fixed header; None for one
    that is malformed or has a topic alias."""
    try:
        at = 2 + (body[0] << 8 | body[1])
        topic = _short_topic(body[2:at]) if at <= _CACHED_TOPIC_BYTES else _topic(body[2:at])
        mid = None
        if has_id:
            mid = body[at] << 8 | body[at + 1]
            at += 2
        properties = None
        if is_v5:
            if body[at] == 0:
                at += 1
            else:
                properties, at = decode_properties(body, at, PUBLISH)
    except (IndexError, MQTTError):
        return None
    if topic is None or at > len(body) or mid == 0:
        return None
    if properties is not None and properties.get("topic_alias") is not None:
        return None
    return topic, body[at:], mid, properties


def _topic(raw: bytes) -> str | None:
    """The topic name; None for what is none (MQTT 5.0, 1.5.4, 3.3.2.1 and 4.7)."""
    try:
        topic = raw.decode()
        validate_received_publish_topic(topic)
    except (UnicodeDecodeError, MQTTError):
        return None
    return topic or None


_short_topic = lru_cache(maxsize=16_384)(_topic)  # a gateway sees the same topics again and again


def _is_known() -> bool:
    """Whether the library is as it was: the decoder, the seam of QoS 1, what the reader calls, and the writer."""
    body = b"\x00\x01a\x00\x05\x00{}"
    packet = PublishPacket("a", b"{}", QoS.AT_LEAST_ONCE, retain=False, dup=False, mid=5, properties=Properties({}))
    try:
        decoder: Any = IncrementalDecoder(1024)
        decoder.feed(packet.encode(MQTTProtocolVersion.MQTTv5) * 2)
        header, start, end = decoder.peek_packet_bounds()
        is_same = (header, bytes(decoder._buf[start:end])) == (0x32, body)
        decoder.consume_peeked_packet(end)
        seam = tuple(inspect.signature(InboundSession._on_qos1_manual).parameters)
        turn = inspect.signature(AsyncClient._process_ingress_batch).return_annotation
        from mqttium.api._writer import WritePump  # here: it may not be there

        can_write = "epoch" in inspect.signature(WritePump.enqueue_ack).parameters
    except (ImportError, AttributeError, TypeError, MQTTError):
        return False
    return is_same and decoder.next_packet() is not None and can_write and seam == _SEAM and turn == _TURN


_SEAM = ("self", "topic", "payload", "mid", "retain", "dup", "properties", "decoded_property_wire_size")
_TURN = "tuple[int, int, bool, MQTTError | None]"
_IS_KNOWN = _is_known()
