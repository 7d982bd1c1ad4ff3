"""The short way in: what is read there is what the library reads, and what it does not understand it leaves alone."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mqttium.codec.buffer import RawPacket
from mqttium.enums import MQTTProtocolVersion, PacketType, QoS
from mqttium.packets import PublishPacket
from mqttium.packets._publish import decode_publish_fields_v5, decode_qos12_fields_v311
from mqttium.types import Properties

from gatewayd.mqtt import shortcut
from gatewayd.mqtt.shortcut import Arrived, ShortcutClient, read_publish

TEXT = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=300)
TOPIC = st.text(st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="+#"), min_size=1, max_size=300)
PROPERTIES = st.fixed_dictionaries(
    {},
    optional={
        "content_type": TEXT,
        "user_property": st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4).map(tuple),
        "message_expiry_interval": st.integers(0, 2**32 - 1),
    },
)


def packet(topic: str, payload: bytes, *, mid: int = 7, v5: bool = True, **values: Any) -> bytes:
    properties = Properties(values) if v5 else None
    made = PublishPacket(topic, payload, QoS.AT_LEAST_ONCE, retain=False, dup=False, mid=mid, properties=properties)
    return made.encode(MQTTProtocolVersion.MQTTv5 if v5 else MQTTProtocolVersion.MQTTv311)


def body_of(encoded: bytes) -> bytes:
    at = 1
    while encoded[at] & 0x80:
        at += 1
    return encoded[at + 1 :]


def test_the_mqttium_that_is_installed_has_the_short_way() -> None:
    assert shortcut._IS_KNOWN


@given(TOPIC, st.binary(max_size=300), st.integers(1, 65535), PROPERTIES)
def test_what_is_read_on_mqtt_5_is_what_the_library_reads(
    topic: str, payload: bytes, mid: int, values: dict[str, Any]
) -> None:
    body = body_of(packet(topic, payload, mid=mid, **values))
    theirs = decode_publish_fields_v5(RawPacket(PacketType.PUBLISH, 0x02, body), QoS.AT_LEAST_ONCE)

    ours = read_publish(body, has_id=True, is_v5=True)

    assert ours is not None
    assert ours[:3] == theirs[:3] == (topic, payload, mid)
    assert dict(ours[3].values if ours[3] else {}) == dict(theirs[5].values)


@given(TOPIC, st.binary(max_size=300), st.integers(1, 65535))
def test_what_is_read_on_mqtt_3_is_what_the_library_reads(topic: str, payload: bytes, mid: int) -> None:
    body = body_of(packet(topic, payload, mid=mid, v5=False))
    theirs = decode_qos12_fields_v311(RawPacket(PacketType.PUBLISH, 0x02, body))

    assert read_publish(body, has_id=True, is_v5=False) == (*(theirs[0], theirs[1], theirs[2]), None)


@given(st.binary(max_size=60), st.booleans(), st.booleans())
def test_of_any_bytes_only_what_the_library_takes_as_well_is_taken(body: bytes, has_id: bool, is_v5: bool) -> None:
    ours = read_publish(body, has_id=has_id, is_v5=is_v5)

    if ours is not None and is_v5:
        qos = QoS.AT_LEAST_ONCE if has_id else QoS.AT_MOST_ONCE
        theirs = decode_publish_fields_v5(RawPacket(PacketType.PUBLISH, qos << 1, body), qos)
        assert ours[:3] == theirs[:3]
    elif ours is not None and has_id:
        assert ours[:3] == decode_qos12_fields_v311(RawPacket(PacketType.PUBLISH, 0x02, body))[:3]


@pytest.mark.parametrize(
    "body", [b"", b"\x00", b"\x00\x00", b"\x00\x01a", b"\x00\x01a\x00\x00\x00", b"\x00\x01+\x00\x01\x00"]
)
def test_what_is_cut_off_or_malformed_is_left_to_the_library(body: bytes) -> None:
    assert read_publish(body, has_id=True, is_v5=True) is None


def test_a_topic_alias_is_left_to_the_library() -> None:
    assert read_publish(body_of(packet("a", b"", topic_alias=3)), has_id=True, is_v5=True) is None


class Reader:
    """A client whose decoder is fed by hand, as far as the short way goes."""

    def __init__(self, take: Callable[[Arrived], bool]) -> None:
        self.client = ShortcutClient("reader", protocol=MQTTProtocolVersion.MQTTv5, manual_ack=True)
        self.client.open(take)

    def feed(self, *packets: bytes) -> tuple[int, int]:
        self.client._decoder.feed(b"".join(packets))
        return self.client._take_plain(self.client._take)  # type: ignore[arg-type]


def reader(taken: list[Arrived], room: int = 1000) -> Reader:
    return Reader(lambda arrived: taken.append(arrived) or len(taken) < room)  # type: ignore[func-returns-value]


async def test_the_short_way_ends_before_the_first_packet_that_is_not_plain() -> None:
    taken: list[Arrived] = []
    again = bytearray(packet("t", b"again"))
    again[0] |= 0x08  # DUP: receipts.py wants to see it beside what is in our hands
    one = reader(taken)

    n_packets, _ = one.feed(packet("t", b"1"), packet("t", b"2"), bytes(again), packet("t", b"3"))

    assert n_packets == 2
    assert [arrived.payload for arrived in taken] == [b"1", b"2"]
    left = one.client._decoder.next_packet()
    assert left is not None
    assert left.remaining.endswith(b"again")


async def test_the_short_way_ends_where_there_is_no_room() -> None:
    taken: list[Arrived] = []

    n_packets, _ = reader(taken, room=3).feed(*[packet("t", b"%d" % n) for n in range(10)])

    assert n_packets == len(taken) == 3


async def test_a_turn_is_bounded_by_packets_and_by_bytes() -> None:
    many: list[Arrived] = []
    large: list[Arrived] = []

    assert reader(many).feed(*[packet("t", b"") for _ in range(1000)])[0] == 256
    assert reader(large).feed(*[packet("t", b"x" * 30_000) for _ in range(10)])[0] == 3


async def test_half_a_packet_waits_for_its_other_half() -> None:
    taken: list[Arrived] = []
    one = reader(taken)
    whole = packet("t", b"payload")

    assert one.feed(whole[:6]) == (0, 0)
    assert one.feed(whole[6:])[0] == 1
    assert taken[0].payload == b"payload"


async def test_a_closed_client_leaves_everything_to_the_library() -> None:
    taken: list[Arrived] = []
    one = reader(taken)
    one.client.close()
    one.client._decoder.feed(packet("t", b"1"))
    await asyncio.sleep(0)

    one.client._process_ingress_batch()

    assert not taken
