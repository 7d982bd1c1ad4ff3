"""Rows of the spool as values: a result, and a raw message of the journal, that one also the other way."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from gatewayd.ports import JournalEntry, RawMessage, StoredResult

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


def read_result(row: Sequence[Any], route: str, correct: Callable[[int, float], tuple[float, str]]) -> StoredResult:
    """A row of `results` (id, key, kind, subject, time, data, traceparent, …) as a value; `correct` knows the clock."""
    result, key, kind, subject, stored_time, data, trace = row[:7]
    time, clock = correct(result, stored_time)
    return StoredResult(
        row=result,
        route=route,
        key=key,
        kind=kind,
        subject=subject,
        time=time,
        data=data,
        traceparent=trace,
        clock=clock,
    )
