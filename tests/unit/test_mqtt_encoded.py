"""Properties that are encoded here are what MQTTium would have made of them, byte for byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mqttium import ProtocolError
from mqttium.codec.properties import PUBLISH, decode_properties, encode_properties
from mqttium.types import Properties

from gatewayd.mqtt import encoded
from gatewayd.mqtt.encoded import publish_properties

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)


def test_the_installed_mqttium_takes_them_ready_made() -> None:
    assert encoded._ready is encoded._ready_made


@given(st.sampled_from(["", "application/json"]), st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8))
def test_the_bytes_are_mqttiums_own(content_type: str, pairs: list[tuple[str, str]]) -> None:
    values: dict[str, object] = {"content_type": content_type} if content_type else {}
    own = Properties({**values, "user_property": tuple(pairs)})

    body = encode_properties(publish_properties(content_type, pairs), PUBLISH)

    assert body == encode_properties(own, PUBLISH)
    assert decode_properties(body, 0, PUBLISH)[0].get("user_property") == tuple(pairs)


@pytest.mark.parametrize("value", ["a\0b", "x" * 65_536, "\ud800"])
def test_what_mqtt_forbids_is_refused_by_mqttium(value: str) -> None:
    with pytest.raises((ProtocolError, ValueError)):
        encode_properties(publish_properties("", [("name", value)]), PUBLISH)
