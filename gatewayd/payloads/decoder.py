"""Decode a payload as its route says: bytes into a `Message`.

Invariant: `Decoder.decode` returns a message or raises RejectedError with a reason of `REASONS`, whatever the bytes
are. Which work there is to do is decided once, when the route is built. Pure.
"""

from collections.abc import Callable
from typing import Any

from gatewayd.api import Message
from gatewayd.config.schema import Payload
from gatewayd.errors import ConfigError, RejectedError
from gatewayd.keys import publisher_key
from gatewayd.payloads.compression import Form, decompress, form_of
from gatewayd.payloads.event_in import EVENT_MEDIA_TYPE, open_event
from gatewayd.payloads.formats import (
    cbor_value,
    csv_value,
    finite,
    json_value,
    msgpack_value,
    number_or_text,
    number_value,
    text_value,
    to_utf8,
)
from gatewayd.payloads.paths import Path, compile_path, follow
from gatewayd.payloads.times import time_of
from gatewayd.ports import RawMessage

__all__ = ["REASONS", "Decoder", "compile_path", "follow"]

REASONS = {
    "decode": "the payload is not what its format says",
    "encoding": "text that is not UTF-8, or a character set we do not know",
    "compression": "compressed data that is damaged, cut off, or of an unknown kind",
    "too_large": "more bytes than `payload.max_bytes`, before or after decompression",
    "depth": "nested deeper than `payload.max_depth`",
    "number": "a number that is not finite or too large",
    "columns": "a CSV payload with another number of lines or columns",
    "missing_field": "a field that is not `optional` is not there",
    "time": "the message's own time cannot be read as one",
    "id": "the message's own id is neither text nor a whole number",
    "birth": "a Sparkplug metric without name or data type, and no birth is known that gives it",
    "metric_type": "a Sparkplug payload whose metrics are all of types without a form here, such as data sets",
}

_MEDIA_TYPES = {
    "application/json": "json",
    "text/json": "json",
    "text/plain": "text",
    "application/cbor": "cbor",
    "application/msgpack": "msgpack",
    "application/x-msgpack": "msgpack",
    "application/vnd.msgpack": "msgpack",
    "text/csv": "csv",
}

_TEXT_FORMATS = {"auto", "json", "text", "number", "csv"}  # a charset has a meaning for these


class Decoder:
    """The decoder of one route. `decode` is the cheapest function that does what the route asks."""

    decode: Callable[[RawMessage], Message]

    def __init__(self, payload: Payload, *, key: str = "payload") -> None:
        """Raises ConfigError for a path that cannot be read; `key` is where `payload` stands in the config."""
        self._payload = payload
        self._fields = [(name, _path(f"{key}.fields.{name}", text)) for name, text in payload.fields.items()]
        self._optional = frozenset(payload.optional)
        self._time = None if payload.time is None else _path(f"{key}.time", payload.time)
        self._id = None if payload.id is None else _path(f"{key}.id", payload.id)
        if payload.delimiter in '"\r\n ':
            raise ConfigError(f"{key}.delimiter", "must not be a quote, a blank or a line end")
        if len(set(payload.columns)) != len(payload.columns):
            raise ConfigError(f"{key}.columns", "names a column twice")
        for name in payload.optional:
            if name not in payload.fields:
                raise ConfigError(f"{key}.optional", f"{name!r} is not among `fields`")
        is_mapped = bool(self._fields) or self._time is not None or self._id is not None
        self._read: Callable[[bytes], Any] = self._reader(payload.format)
        self.decode = self._decode_mapped if is_mapped else self._decode_plain

    def _decode_plain(self, raw: RawMessage) -> Message:
        """A route that maps nothing: the value as it is."""
        if raw.content_type or raw.properties:
            return self._decode_mapped(raw)
        payload = raw.payload
        if len(payload) > self._payload.max_bytes:
            raise self._too_large(payload)
        return Message(topic=raw.topic, value=self._read(payload), time=raw.time, key=raw.key, payload=payload)

    def _decode_mapped(self, raw: RawMessage) -> Message:
        value, key = self._value_and_key(raw)
        time = raw.time
        if self._time is not None:
            time = time_of(follow(value, self._time, topic=raw.topic, time=raw.time))
        if self._id is not None:
            own_id = _id_text(follow(value, self._id, topic=raw.topic, time=raw.time))
            key = publisher_key(raw.topic, "", own_id)
        if self._fields:
            value = self._map(value, raw.topic, time)
        return Message(topic=raw.topic, value=value, time=time, key=key, payload=raw.payload)

    def _map(self, value: Any, topic: str, time: float) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for name, path in self._fields:
            try:
                made[name] = follow(value, path, topic=topic, time=time)
            except RejectedError:
                if name not in self._optional:
                    raise
        return made

    def _value_and_key(self, raw: RawMessage) -> tuple[Any, str]:
        if len(raw.payload) > self._payload.max_bytes:
            raise self._too_large(raw.payload)
        if not raw.content_type and not raw.properties:
            return self._read(raw.payload), raw.key
        form = form_of(raw.content_type, raw.properties)
        payload = raw.payload
        if form.encoding:
            payload = decompress(payload, form.encoding, self._payload.max_bytes)
        if form.media_type == EVENT_MEDIA_TYPE and self._payload.format in {"auto", "json"}:
            return self._event(raw, payload)
        return self._formed(payload, form), raw.key

    def _event(self, raw: RawMessage, payload: bytes) -> tuple[Any, str]:
        """A CloudEvent in structured mode: the value is its data, the key comes from its source and id."""
        event = open_event(json_value(payload, self._payload.max_depth + 1))
        value = event.data
        if event.data_bytes is not None:
            value = self._formed(event.data_bytes, form_of(event.media_type))
        return value, publisher_key(raw.topic, event.source, event.id)

    def _formed(self, payload: bytes, form: Form) -> Any:
        """The value of a payload whose message may say what it is."""
        name: str = self._payload.format
        read = self._read
        if name == "auto" and (found := _format_of(form.media_type)):
            name, read = found, self._reader(found)
        if form.charset and name in _TEXT_FORMATS:
            payload = to_utf8(payload, form.charset)
        return read(payload)

    def _reader(self, name: str) -> Callable[[bytes], Any]:
        if name == "sparkplug":
            from gatewayd.sparkplug.metrics import sparkplug_value  # not at the top: protobuf takes 6 MB

            return sparkplug_value
        max_depth = self._payload.max_depth
        columns, delimiter = self._payload.columns, self._payload.delimiter
        readers: dict[str, Callable[[bytes], Any]] = {
            "auto": lambda payload: _auto_value(payload, max_depth),
            "json": lambda payload: json_value(payload, max_depth),
            "text": text_value,
            "number": number_value,
            "cbor": lambda payload: cbor_value(payload, max_depth),
            "msgpack": lambda payload: msgpack_value(payload, max_depth),
            "csv": lambda payload: csv_value(payload, columns, delimiter),
        }
        return readers[name]

    def _too_large(self, payload: bytes) -> RejectedError:
        detail = f"{len(payload)} bytes, and payload.max_bytes is {self._payload.max_bytes}"
        return RejectedError(detail, reason="too_large")


def _auto_value(payload: bytes, max_depth: int) -> Any:
    """JSON if it is, else a number, else text. A bare number is a float, however it is written."""
    try:
        value = json_value(payload, max_depth)
    except RejectedError as error:
        if error.reason != "decode":
            raise
        return number_or_text(payload)
    if type(value) is int:
        return finite(float(value)) if abs(value) < 1 << 1023 else finite(float("inf"))
    return value


def _format_of(media_type: str) -> str:
    if media_type.endswith("+json"):
        return "json"
    if media_type.endswith("+cbor"):
        return "cbor"
    return _MEDIA_TYPES.get(media_type, "")


def _id_text(value: Any) -> str:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and value.is_integer():  # a CSV column
        return str(int(value))
    raise RejectedError("the message's own id is neither text nor a whole number", reason="id")


def _path(key: str, text: str) -> Path:
    try:
        return compile_path(text)
    except ValueError as error:
        raise ConfigError(key, str(error)) from None
