"""Rows of the spool as values: a result, and a raw message of the journal, that one also the other way."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from gatewayd.ports import JournalEntry, NewResult, RawMessage, StoredResult
from gatewayd.spool.sums import result_sum

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


def result_columns(results: Sequence[NewResult], first: int) -> list[object]:
    """The columns of rows of `results`, one row after the other, their ids ascending from `first`."""
    flat: list[object] = []
    for row, result in enumerate(results, first):
        key, kind, subject, time = result.key, result.kind, result.subject, result.time
        data, trace = result.data, result.traceparent
        # Each named, not `*columns`: a row costs half.
        flat += (row, key, kind, subject, time, data, trace, result_sum(row, key, kind, subject, time, data, trace))
    return flat


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
