"""Bursts: the bytes are those of the library, nothing that MQTT forbids gets through, and what has no room is told."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mqttium.enums import MQTTProtocolVersion, QoS
from mqttium.packets import PublishPacket
from mqttium.types import Properties

from gatewayd.mqtt import burst
from gatewayd.mqtt.burst import publish_burst, writer_of
from gatewayd.ports import Outgoing

TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=300)
PAIRS = st.lists(st.tuples(TEXT, TEXT), max_size=4).map(tuple)
MESSAGE = st.builds(Outgoing, st.binary(max_size=300), PAIRS, PAIRS)


def by_the_library(topic: str, content_type: str, message: Outgoing) -> bytes:
    payload, pairs = message.payload, (*message.shared, *message.own)
    values: dict[str, Any] = {"content_type": content_type} if content_type else {}
    if pairs:
        values["user_property"] = pairs
    packet = PublishPacket(topic, payload, QoS.AT_MOST_ONCE, retain=False, dup=False, properties=Properties(values))
    return packet.encode(MQTTProtocolVersion.MQTTv5)


def test_the_mqttium_that_is_installed_takes_bursts() -> None:
    assert burst._IS_KNOWN


@given(st.lists(MESSAGE, max_size=20), TEXT)
def test_what_is_written_is_what_the_library_would_write(messages: list[Outgoing], content_type: str) -> None:
    written: list[bytes] = []

    n_written, at = publish_burst(lambda data: not written.append(data), "a/b", content_type, messages, 0, None)  # type: ignore[func-returns-value]

    assert (n_written, at) == (len(messages), len(messages))
    assert b"".join(written) == b"".join(by_the_library("a/b", content_type, message) for message in messages)


def test_a_write_is_bounded_and_the_first_that_has_no_room_is_told() -> None:
    writes: list[bytes] = []

    def write(data: bytes) -> bool:
        if len(writes) == 3:
            return False
        writes.append(data)
        return True

    n_written, at = publish_burst(write, "t", "", [Outgoing(b"x" * 1000)] * 500, 10, None)

    assert max(map(len, writes)) < 34_000
    assert (n_written, at) == (sum(data.count(b"x" * 1000) for data in writes), 10 + n_written)


def test_what_mqtt_or_the_broker_does_not_allow_is_passed_over() -> None:
    written: list[bytes] = []
    forbidden = (("a", "\0"),), (("a", "\ud800"),)
    messages = [
        Outgoing(b"1"),
        *(Outgoing(b"2", one) for one in forbidden),
        *(Outgoing(b"3", (), one) for one in forbidden),
    ]
    messages += [Outgoing(b"4" * 100), Outgoing(b"5")]

    n_written, at = publish_burst(lambda data: not written.append(data), "t", "", messages, 0, 50)  # type: ignore[func-returns-value]

    assert (n_written, at) == (2, 7)
    assert written == [by_the_library("t", "", messages[0]) + by_the_library("t", "", messages[-1])]


@pytest.mark.parametrize("topic", ["", "a/#", "a/+/b", "a\0b"])
def test_a_topic_that_is_none_is_left_to_the_library(topic: str) -> None:
    assert publish_burst(lambda _: True, topic, "", [Outgoing(b"")], 0, None) == (0, 0)


def test_another_library_gets_no_bursts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Client:
        _connection_epoch = 1

    assert writer_of(Client()) is None  # type: ignore[arg-type]
    monkeypatch.setattr(burst, "_IS_KNOWN", False)
    Client._write_pump = object()  # type: ignore[attr-defined]
    assert writer_of(Client()) is None  # type: ignore[arg-type]
