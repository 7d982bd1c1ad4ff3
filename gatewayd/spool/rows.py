"""A raw message as a row of the journal, and back."""

from collections.abc import Sequence

import msgspec

from gatewayd.ports import JournalEntry, RawMessage

_Props = tuple[str, float, str, int, bool, bool, str, tuple[tuple[str, str], ...], bytes]

_encode = msgspec.msgpack.Encoder().encode
_decode_props = msgspec.msgpack.Decoder(_Props).decode


def encode_props(raw: RawMessage) -> bytes:
    """All of a message but its payload."""
    props: _Props = (
        raw.topic,
        raw.time,
        raw.key,
        raw.qos,
        raw.retain,
        raw.dup,
        raw.content_type,
        raw.properties,
        raw.identity,
    )
    return _encode(props)


def read_entry(row: Sequence[object]) -> JournalEntry:
    """A row of `journal` as a value."""
    entry_id, payload, props, attempts = row[:4]
    topic, time, key, qos, retain, dup, content_type, properties, identity = _decode_props(props)  # type: ignore[arg-type]
    message = RawMessage(
        topic=topic,
        payload=payload,  # type: ignore[arg-type]
        time=time,
        key=key,
        qos=qos,
        retain=retain,
        dup=dup,
        content_type=content_type,
        properties=properties,
        identity=identity,
    )
    return JournalEntry(id=entry_id, message=message, attempts=attempts)  # type: ignore[arg-type]
