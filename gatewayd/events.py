"""Results as CloudEvents 1.0, the form they have on every wire.

`source` and `id` together name an event for ever: a far side that remembers them stores each result exactly once,
however often it is sent. So both are functions of the stored result and the gateway's name alone.
Source of the format: CloudEvents 1.0.2, its JSON event format and its distributed tracing extension.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated
from urllib.parse import quote

import msgspec

from gatewayd.ports import NewResult, StoredResult

SPEC_VERSION = "1.0"
TYPE_PREFIX = "dev.gatewayd.result."
DATA_CONTENT_TYPE = "application/json"
EVENT_CONTENT_TYPE = "application/cloudevents+json"  # one event, structured mode
BATCH_CONTENT_TYPE = "application/cloudevents-batch+json"  # an array of them

_NO_DATA = msgspec.Raw()

_Text = Annotated[str, msgspec.Meta(min_length=1)]


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event as it stands on the wire. Attributes of others (extensions) are ignored when read."""

    specversion: Annotated[str, msgspec.Meta(pattern=r"^1\.0$")]
    id: _Text
    source: _Text
    type: _Text
    subject: str = ""
    time: str = ""  # RFC 3339, UTC
    datacontenttype: str = ""
    traceparent: str = ""
    clockquality: str = ""  # an extension: "unsynced" or "corrected", see ports.StoredResult.clock
    data: msgspec.Raw = _NO_DATA  # JSON, not parsed; a read event's is a view that keeps the whole body in memory

    @property
    def kind(self) -> str:
        """The result's kind, or "" when the event is not one of ours."""
        return self.type.removeprefix(TYPE_PREFIX) if self.type.startswith(TYPE_PREFIX) else ""


_encode = msgspec.json.Encoder().encode
_decode_batch = msgspec.json.Decoder(list[Event]).decode
_decode_event = msgspec.json.Decoder(Event).decode


@lru_cache(maxsize=1024)
def event_source(gateway: str, route: str) -> str:
    """The events' `source`, a URI reference: `/gateways/<gateway>/routes/<route>`."""
    return f"/gateways/{quote(gateway, safe='')}/routes/{quote(route, safe='')}"


@lru_cache(maxsize=64)  # the results of a batch share their time, and formatting it costs more than all else
def event_time(time: float, timespec: str = "milliseconds") -> str:
    """RFC 3339 in UTC, to the millisecond; "" for a time no calendar has (the attribute is then left out)."""
    try:
        return datetime.fromtimestamp(time, UTC).isoformat(timespec=timespec).replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):  # a sensor's own time may be anything, and must not stop delivery
        return ""


def event(stored: StoredResult, gateway: str) -> Event:
    """The event of a stored result."""
    return Event(
        specversion=SPEC_VERSION,
        id=stored.key,
        source=event_source(gateway, stored.route),
        type=TYPE_PREFIX + stored.kind,
        subject=stored.subject,
        time=event_time(stored.time),
        datacontenttype=DATA_CONTENT_TYPE,
        traceparent=stored.traceparent,
        clockquality=stored.clock,
        data=msgspec.Raw(stored.data) if stored.data else _NO_DATA,
    )


def event_attributes(stored: StoredResult, gateway: str) -> dict[str, str]:
    """The event's attributes without its data, for binary mode; those that are empty are left out."""
    properties = event_properties(stored, event_source(gateway, stored.route))
    return {**dict(properties), "datacontenttype": DATA_CONTENT_TYPE}


def event_properties(result: NewResult | StoredResult, source: str) -> tuple[tuple[str, str], ...]:
    """The same in binary mode over MQTT 5: user properties, without the content type, which has its own property."""
    clock = result.clock if isinstance(result, StoredResult) else ""
    return (
        *shared_properties(result.kind, result.subject, result.time, source),
        *own_properties(result.key, result.traceparent),
        *((("clockquality", clock),) if clock else ()),
    )


def own_properties(key: str, traceparent: str) -> tuple[tuple[str, str], ...]:
    """Those of `event_properties` that no other result has."""
    return (("id", key), ("traceparent", traceparent)) if traceparent else (("id", key),)


def shared_properties(kind: str, subject: str, time: float, source: str) -> tuple[tuple[str, str], ...]:
    """Those of `event_properties` that results of one kind, subject and time have in common."""
    properties = (
        ("specversion", SPEC_VERSION),
        ("source", source),
        ("type", TYPE_PREFIX + kind),
        ("subject", subject),
        ("time", event_time(time)),
    )
    return tuple(pair for pair in properties if pair[1])


def event_json(stored: StoredResult, gateway: str) -> bytes:
    """One event in structured mode (`EVENT_CONTENT_TYPE`). The data is put in as it is, never parsed again."""
    return _encode(event(stored, gateway))


def batch_json(results: Sequence[StoredResult], gateway: str) -> bytes:
    """A batch of events (`BATCH_CONTENT_TYPE`), in order."""
    return _encode([event(stored, gateway) for stored in results])


def parse_batch(body: bytes) -> list[Event]:
    """Read a batch. Raises ValueError (with the place) for what is no batch of CloudEvents 1.0."""
    return _decode_batch(body)


def parse_event(body: bytes) -> Event:
    """Read one event in structured mode. Raises ValueError for what is none."""
    return _decode_event(body)
