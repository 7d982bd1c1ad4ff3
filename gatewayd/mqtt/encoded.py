"""PUBLISH properties, encoded here and handed to MQTTium ready-made: a live result has six of them.

MQTTium checks and encodes each property through a general table (four times as long for our six, and as long as
classifying the message), then keeps the bytes beside the value. Here the same bytes are put there at once. It is the
library's own cache and not part of its interface, so at import one sample is encoded both ways, and if the bytes
differ, or there is no such cache any more, everything goes the library's way.
Source of the format: MQTT 5.0, sections 2.2.2 and 3.3.2.3.
"""

from collections.abc import Sequence
from functools import lru_cache
from types import MappingProxyType

from mqttium.codec.properties import PUBLISH, encode_properties
from mqttium.codec.vbi import encode_vbi
from mqttium.types import Properties

_CONTENT_TYPE = b"\x03"
_USER_PROPERTY = b"\x26"

Pairs = Sequence[tuple[str, str]]


def publish_properties(content_type: str, pairs: Pairs) -> Properties:
    """The properties of a PUBLISH. What MQTT forbids in them (NUL, more than 65,535 bytes, a lone surrogate) raises
    MQTTium's errors when it is published, as always."""
    return _ready(content_type, pairs) or _plain(content_type, pairs)


def _plain(content_type: str, pairs: Pairs) -> Properties:
    values: dict[str, object] = {"content_type": content_type} if content_type else {}
    if pairs:
        values["user_property"] = tuple(pairs)
    return Properties(values)


def property_fields(content_type: str, pairs: Pairs) -> bytes | None:
    """The properties of a PUBLISH as they stand on the wire, behind their length; None for what MQTT forbids."""
    try:
        parts = [_CONTENT_TYPE, _text(content_type)] if content_type else []
        for name, value in pairs:
            parts += (_user_property(name), as_text(value))
    except (ValueError, OverflowError):  # a lone surrogate (UnicodeEncodeError is a ValueError), too long
        return None
    return b"".join(parts)


def _ready_made(content_type: str, pairs: Pairs) -> Properties | None:
    fields = property_fields(content_type, pairs)
    if fields is None:
        return None
    values: dict[str, object] = {"content_type": content_type} if content_type else {}
    if pairs:
        values["user_property"] = tuple(pairs)
    ready = object.__new__(Properties)
    object.__setattr__(ready, "values", MappingProxyType(values))
    object.__setattr__(ready, "_encoded", {PUBLISH: encode_vbi(len(fields)) + fields})
    return ready


@lru_cache(maxsize=256)
def _user_property(name: str) -> bytes:
    """What stands before the value of a user property's."""
    return _USER_PROPERTY + _text(name)


def as_text(text: str) -> bytes:
    """A UTF-8 string as MQTT has it. Raises ValueError or OverflowError for what is none."""
    if "\0" in text:
        raise ValueError("NUL")
    data = text.encode()
    return len(data).to_bytes(2, "big") + data


_text = lru_cache(maxsize=256)(as_text)


def _is_taken() -> bool:
    """Whether the MQTTium that is installed takes what is ready-made."""
    sample = ("text/plain", (("name", "value"), ("other", "Wärme")))
    try:
        ready = _ready_made(*sample)
    except (AttributeError, TypeError):
        return False
    return ready is not None and encode_properties(ready, PUBLISH) == encode_properties(_plain(*sample), PUBLISH)


def _never(_content_type: str, _pairs: Pairs) -> None:
    return None


_ready = _ready_made if _is_taken() else _never
