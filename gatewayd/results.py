"""From a handler's answer to what the spool stores and the local bus sees. Pure.

Invariant: a result's key depends on its message and its place among the message's results alone, so that handling a
message again after a crash gives the same keys and the far side stores each result once.
"""

from collections.abc import Mapping, Sequence

import msgspec

from gatewayd.answer import Answer, Buried
from gatewayd.api import Batch, Message, Result
from gatewayd.keys import result_key, window_key
from gatewayd.ports import DeadLetter, NewResult, RawMessage

MAX_DEAD_PAYLOAD = 65536  # bytes of a payload kept with a dead letter


def new_results(
    batch: Batch, answer: Answer, *, finished: float, traceparents: Mapping[int, str], include_input: bool
) -> list[NewResult]:
    """The answer's results, each with its key, `latency_ms` and (where the route allows it) `input`.

    `finished` is the time the handler returned, seconds since the epoch. `traceparents` has the trace context to store
    by `id` of the message, and under 0 that of results about the whole batch; what is missing has none.
    """
    counts: dict[str, int] = {}
    results = []
    shared = _shared_facts(batch, finished)
    tail = msgspec.json.encode(shared)  # once a batch: most results need no others
    for result, data in answer.results:
        base = _base_key(batch, result)
        index = counts.get(base, 0)
        counts[base] = index + 1
        results.append(
            NewResult(
                key=result_key(base, index),
                kind=result.kind,
                subject=_subject(batch, result),
                time=finished,
                data=_spliced(data, _own_facts(result, shared, tail, include_input)),
                traceparent=traceparents.get(id(result.message) if result.message is not None else 0, ""),
            )
        )
    return results


def _base_key(batch: Batch, result: Result) -> str:
    if result.message is not None:
        return result.message.key
    return window_key(batch.route, batch.window.key if batch.window else "", [m.key for m in batch.messages])


def _subject(batch: Batch, result: Result) -> str:
    if result.message is not None:
        return result.message.topic
    if batch.window is not None and batch.window.key:
        return batch.window.key
    return batch.messages[0].topic if batch.messages else batch.route


def _shared_facts(batch: Batch, finished: float) -> dict[str, object]:
    """What gatewayd knows of every result of the batch and the handler does not have to say."""
    if batch.window is None:
        # From the hand-over of the batch: what a local actuator waits for on top of the queue.
        return {"latency_ms": round(max(0.0, finished - batch.now) * 1000, 3)}
    facts: dict[str, object] = {
        "window_start": batch.window.start,
        "window_end": batch.window.end,
        "messages": len(batch.messages),
    }
    return facts | {"late": batch.window.late} if batch.window.late else facts


def _own_facts(result: Result, shared: Mapping[str, object], encoded: bytes, include_input: bool) -> bytes:
    """The facts of one result, as a JSON object; `encoded` are the shared ones. Without what the handler said itself: a
    name twice in one JSON object means something else to every reader."""
    facts = shared
    if include_input and result.message is not None:
        facts = {**shared, "input": result.message.value}
    elif shared.keys().isdisjoint(result.data):
        return encoded
    return msgspec.json.encode({name: value for name, value in facts.items() if name not in result.data})


def _spliced(data: bytes, more: bytes) -> bytes:
    """Two JSON objects as one: cheaper than to decode and encode them again."""
    if more == b"{}":
        return data
    return more if data == b"{}" else data[:-1] + b"," + more[1:]


def dead_letter(route: str, raw: RawMessage, reason: str, detail: str) -> DeadLetter:
    """A dead letter out of the message as it came."""
    return DeadLetter(
        route=route,
        reason=reason,
        detail=detail,
        topic=raw.topic,
        payload=raw.payload[:MAX_DEAD_PAYLOAD],
        time=raw.time,
        key=raw.key,
        content_type=raw.content_type,
        properties=raw.properties,
    )


def dead_letters(route: str, pairs: Sequence[tuple[RawMessage, Message]], buried: Sequence[Buried]) -> list[DeadLetter]:
    """The dead letters of a handled batch; `pairs` are its raw and decoded messages."""
    if not buried:
        return []
    raws = {id(message): raw for raw, message in pairs}
    return [dead_letter(route, raws[id(one.message)], one.reason, one.detail) for one in buried]
