"""Raw messages as CloudEvents, one a line, so that an export can be read by anybody's tools and replayed by ours.

Invariant: what `message_event` writes, `read_message` reads back: topic, payload to the byte, key, time to the
microsecond, and what MQTT said about the message. Results have their own form, see `gatewayd.events`.
Source of the format: CloudEvents 1.0.2, its JSON event format; names of extensions are lower-case letters and digits.
"""

import base64
import binascii
from datetime import UTC, datetime
from typing import Annotated

import msgspec

from gatewayd.events import DATA_CONTENT_TYPE, SPEC_VERSION, TYPE_PREFIX, Event, event_source, event_time, parse_event
from gatewayd.ports import DeadLetter, RawMessage

MESSAGE_TYPE = "dev.gatewayd.message"
TEXT_CONTENT_TYPE = "text/plain; charset=utf-8"
BYTES_CONTENT_TYPE = "application/octet-stream"

_NO_DATA = msgspec.Raw()
_Properties = tuple[tuple[str, str], ...]
_decode_properties = msgspec.json.Decoder(_Properties).decode


class MessageEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A raw message as an event: `id` is its key, `subject` its topic."""

    specversion: Annotated[str, msgspec.Meta(pattern=r"^1\.0$")]
    id: Annotated[str, msgspec.Meta(min_length=1)]
    source: Annotated[str, msgspec.Meta(min_length=1)]
    type: str
    subject: Annotated[str, msgspec.Meta(min_length=1)]
    time: str = ""  # RFC 3339, UTC
    datacontenttype: str = ""
    mqttqos: Annotated[int, msgspec.Meta(ge=0, le=2)] | None = None
    mqttretain: bool = False
    mqttcontenttype: str = ""  # the message's own, where its publisher said it
    mqttproperties: str = ""  # MQTT 5 user properties: a JSON array of pairs, for an extension holds no array
    reason: str = ""  # of a dead letter
    detail: str = ""
    data: msgspec.Raw = _NO_DATA  # JSON where `datacontenttype` says so, else a string
    data_base64: str | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(MessageEvent).decode


class Head(msgspec.Struct, frozen=True):
    """What tells the lines of an export apart."""

    type: object = ""


parse_head = msgspec.json.Decoder(Head).decode


def message_event(raw: RawMessage, *, gateway: str, route: str, reason: str = "", detail: str = "") -> bytes:
    """One event in structured mode, on one line without its end."""
    content_type, data, data_base64 = _as_data(raw.payload)
    event = MessageEvent(
        specversion=SPEC_VERSION,
        id=raw.key,
        source=event_source(gateway, route),
        type=MESSAGE_TYPE,
        subject=raw.topic,
        time=event_time(raw.time, "microseconds"),
        datacontenttype=content_type,
        mqttqos=raw.qos,
        mqttretain=raw.retain,
        mqttcontenttype=raw.content_type,
        mqttproperties=msgspec.json.encode(raw.properties).decode() if raw.properties else "",
        reason=reason,
        detail=detail,
        data=data,
        data_base64=data_base64,
    )
    return _encode(event)


def letter_event(letter: DeadLetter, *, gateway: str) -> bytes:
    """A dead letter: the message that was put aside, or the result that a sink refused, exactly as it was sent."""
    if letter.sink and refused_event(letter) is not None:
        return letter.payload
    return message_event(
        message_of(letter), gateway=gateway, route=letter.route, reason=letter.reason, detail=letter.detail
    )


def message_of(letter: DeadLetter) -> RawMessage:
    """The message of a dead letter. Its QoS was not kept: 1, for it is in the spool."""
    return RawMessage(
        topic=letter.topic,
        payload=letter.payload,
        time=letter.time,
        key=letter.key,
        qos=1,
        content_type=letter.content_type,
        properties=letter.properties,
    )


def refused_event(letter: DeadLetter) -> Event | None:
    """The result that a sink refused; None when the letter does not hold one."""
    try:
        event = parse_event(letter.payload)
    except ValueError:
        return None
    return event if event.kind and b"\n" not in letter.payload else None


def read_message(line: bytes) -> RawMessage:
    """The message of a line. Raises ValueError (with the place) for what is none."""
    event = _decode(line)
    properties = _decode_properties(event.mqttproperties) if event.mqttproperties else ()
    return RawMessage(
        topic=event.subject,
        payload=_payload(event),
        time=parse_time(event.time) if event.time else 0.0,
        key=event.id,
        qos=1 if event.mqttqos is None else event.mqttqos,
        retain=event.mqttretain,
        content_type=event.mqttcontenttype,
        properties=properties,
    )


def read_input(line: bytes) -> RawMessage | None:
    """The message that a result answers, as far as the result carries it in `input`; None when it does not.

    What was a string is text again, everything else is JSON. Raises ValueError for what is no result.
    """
    event = parse_event(line)
    data = _Input() if not event.data else msgspec.json.decode(event.data, type=_Input)
    if not event.kind or not event.subject or not data.input:
        return None
    text = bytes(data.input)
    payload = msgspec.json.decode(text, type=str).encode() if text.startswith(b'"') else text
    key = event.id.partition(".")[0]  # that of the message, see gatewayd.keys.result_key
    return RawMessage(
        topic=event.subject, payload=payload, time=parse_time(event.time) if event.time else 0.0, key=key, qos=1
    )


class _Input(msgspec.Struct, frozen=True):
    input: msgspec.Raw = _NO_DATA


def parse_time(text: str) -> float:
    """RFC 3339 as seconds since the epoch. Raises ValueError."""
    time = datetime.fromisoformat(text)
    return (time if time.tzinfo is not None else time.replace(tzinfo=UTC)).timestamp()


def _as_data(payload: bytes) -> tuple[str, msgspec.Raw, str | None]:
    """Content type, data, and data in base64: JSON as it is, other text as a string, else bytes."""
    if _is_one_line_of_json(payload):
        return DATA_CONTENT_TYPE, msgspec.Raw(payload), None
    try:
        return TEXT_CONTENT_TYPE, msgspec.Raw(_encode(payload.decode())), None
    except UnicodeDecodeError:
        return BYTES_CONTENT_TYPE, _NO_DATA, base64.b64encode(payload).decode()


def _is_one_line_of_json(payload: bytes) -> bool:
    # White space around a value does not come back, and a line break would end the line.
    if not payload or payload.strip() != payload or b"\n" in payload or b"\r" in payload:
        return False
    try:
        payload.decode()
        msgspec.json.decode(payload)
    except (ValueError, RecursionError):
        return False
    return True


def _payload(event: MessageEvent) -> bytes:
    if event.data_base64 is not None:
        try:
            return base64.b64decode(event.data_base64, validate=True)
        except binascii.Error as error:
            raise ValueError(f"data_base64: {error}") from error
    data = bytes(event.data)
    if not data or "json" in (event.datacontenttype or DATA_CONTENT_TYPE):
        return data
    return msgspec.json.decode(data, type=str).encode()


def is_result(head: Head) -> bool:
    """Whether the line is a result of ours."""
    return isinstance(head.type, str) and head.type.startswith(TYPE_PREFIX)
