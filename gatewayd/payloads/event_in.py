"""CloudEvents 1.0 in structured mode, as publishers on the bus send them. Pure.

Format: CloudEvents 1.0.2, JSON event format; MQTT protocol binding, section 3.2.
"""

from base64 import b64decode
from dataclasses import dataclass
from typing import Any

from gatewayd.errors import RejectedError

EVENT_MEDIA_TYPE = "application/cloudevents+json"


@dataclass(frozen=True, slots=True)
class EventIn:
    """An event's identity and data. `data_bytes` is set for binary data, which `media_type` names."""

    source: str
    id: str
    data: Any
    data_bytes: bytes | None
    media_type: str


def open_event(value: Any) -> EventIn:
    """Take an event apart. Raises RejectedError (`missing_field`, `decode`)."""
    if not isinstance(value, dict):
        raise RejectedError("a CloudEvent must be an object", reason="decode")
    for name in ("id", "source"):
        if not isinstance(value.get(name), str) or not value[name]:
            raise RejectedError(f"the CloudEvent has no {name}", reason="missing_field")
    media_type = value.get("datacontenttype", "")
    media_type = media_type if isinstance(media_type, str) else ""
    return EventIn(value["source"], value["id"], value.get("data"), _binary(value.get("data_base64")), media_type)


def _binary(text: Any) -> bytes | None:
    if text is None:
        return None
    try:
        return b64decode(text, validate=True)
    except (ValueError, TypeError):
        raise RejectedError("the CloudEvent's data_base64 is not base64", reason="decode") from None
