"""Spans: one a batch, with links to the messages in it. Without an endpoint nothing is made and nothing is paid.

No span carries a payload, a topic or the text of an exception: an exception may quote what a message held.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import time_ns

from opentelemetry import trace
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode, TraceFlags, Tracer
from opentelemetry.util.types import AttributeValue

from gatewayd.ports import RawMessage, StoredResult

# https://www.w3.org/TR/trace-context/#traceparent-header; ids of zeros alone are invalid.
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")


class BatchSpan:
    """What a stage may know of the span it is in."""

    __slots__ = ("traceparent",)

    def __init__(self, traceparent: str) -> None:
        self.traceparent = traceparent  # to store with the results; "" when the span is not sampled


NO_SPAN = BatchSpan("")


def parse_traceparent(text: str) -> SpanContext | None:
    """The context that a `traceparent` names; None when it is not one."""
    found = _TRACEPARENT.fullmatch(text)
    if found is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found.groups())
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))


def format_traceparent(context: SpanContext) -> str:
    """The `traceparent` of a sampled context; "" for any other."""
    if not context.is_valid or not context.trace_flags.sampled:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def current_headers() -> dict[str, str]:
    """The headers that carry the current span to the far side; empty without one."""
    traceparent = format_traceparent(trace.get_current_span().get_span_context())
    return {"traceparent": traceparent} if traceparent else {}


@contextmanager
def process_span(
    tracer: Tracer, route: str, messages: Sequence[RawMessage], max_links: int, *, joins: bool = False
) -> Iterator[BatchSpan]:
    """Around a handler's call. The publishers' contexts are linked: a batch has many of them. `joins`: where all
    messages have the same one the span is its child as well, so that one trace goes from the device to the cloud."""
    links = _links(((message.traceparent, message.key) for message in messages), max_links)
    attributes: dict[str, AttributeValue] = {
        "messaging.system": "mqtt",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "gatewayd.route": route,
    }
    # The conventions: a count where there is a batch, and never for a single message.
    if len(messages) == 1:
        attributes["messaging.message.id"] = messages[0].key
    else:
        attributes["messaging.batch.message_count"] = len(messages)
    parent = _shared(message.traceparent for message in messages) if joins else None
    with _span(tracer, f"process {route}", SpanKind.CONSUMER, links, attributes, parent=parent) as span:
        yield BatchSpan(format_traceparent(span.get_span_context()))


@contextmanager
def upload_span(
    tracer: Tracer, sink: str, route: str, results: Sequence[StoredResult], max_links: int
) -> Iterator[BatchSpan]:
    """Around a request to a sink. Joins the trace stored with the results when they share one, else links them."""
    shared = _shared(result.traceparent for result in results)
    links = [] if shared else _links(((result.traceparent, result.key) for result in results), max_links)
    attributes: dict[str, AttributeValue] = {
        "gatewayd.results": len(results),
        "gatewayd.sink": sink,
        "gatewayd.route": route,
    }
    with _span(tracer, f"upload {sink}", SpanKind.CLIENT, links, attributes, parent=shared) as span:
        yield BatchSpan(format_traceparent(span.get_span_context()))


def completion_span(tracer: Tracer, model: str, seconds: float) -> None:
    """A completion that a language model has just ended, as a span beneath the current one. Without what was asked and
    what was written."""
    attributes: dict[str, AttributeValue] = {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "llama_cpp",
        "gen_ai.request.model": model,
    }
    ended_ns = time_ns()
    span = tracer.start_span(
        f"text_completion {model}",
        kind=SpanKind.INTERNAL,  # a model of this very box
        attributes=attributes,
        start_time=ended_ns - round(seconds * 1e9),
    )
    span.end(ended_ns)


def _shared(traceparents: Iterable[str]) -> SpanContext | None:
    """The one context that all of them have; None when there are several, or none that can be read."""
    found = set(traceparents)
    return parse_traceparent(next(iter(found))) if len(found) == 1 else None


@contextmanager
def _span(
    tracer: Tracer,
    name: str,
    kind: SpanKind,
    links: Sequence[Link],
    attributes: Mapping[str, AttributeValue],
    *,
    parent: SpanContext | None = None,
) -> Iterator[Span]:
    context = trace.set_span_in_context(trace.NonRecordingSpan(parent)) if parent else None
    with tracer.start_as_current_span(
        name,
        context,
        kind,
        attributes,
        links,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        except BaseException as failure:
            span.set_attribute("error.type", type(failure).__name__)
            span.set_status(StatusCode.ERROR)
            raise


def _links(contexts: Iterable[tuple[str, str]], max_links: int) -> list[Link]:
    """Links to the first contexts there are, each once."""
    links: dict[str, Link] = {}
    for traceparent, key in contexts:
        if len(links) >= max_links:
            break
        context = parse_traceparent(traceparent) if traceparent not in links else None
        if context is not None:
            links[traceparent] = Link(context, {"messaging.message.id": key})
    return list(links.values())
