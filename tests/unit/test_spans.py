"""gatewayd.spans: a batch is a span, its messages are links, and nothing of what they hold is in it."""

from collections.abc import Iterator, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind

from gatewayd.config import Config, read_environment
from gatewayd.config.schema import Telemetry as TelemetryConfig
from gatewayd.otel import build_meters, resource, tracer_of
from gatewayd.ports import RawMessage, StoredResult
from gatewayd.spans import format_traceparent, parse_traceparent
from gatewayd.telemetry import Telemetry

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    built = Telemetry.build(Config().telemetry, read_environment({}), "g1", "0.1.0")
    yield built
    built.shutdown()


class Traced:
    """Telemetry whose spans are kept."""

    def __init__(self, *, joins: bool = False, **options: object) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False, **options)
        tracer, self.end = tracer_of(SimpleSpanProcessor(self.exporter), provider)
        meters = build_meters(TelemetryConfig(), None, resource("g1", "0"))
        self.telemetry = Telemetry(meters, tracer, max_links=2, joins=joins)

    def spans(self) -> Sequence[ReadableSpan]:
        return self.exporter.get_finished_spans()


def message(number: int, traceparent: str = "") -> RawMessage:
    properties = (("traceparent", traceparent),) if traceparent else ()
    return RawMessage(topic="t", payload=b"hunter2", time=0.0, key=f"k{number}", properties=properties)


def stored(number: int, traceparent: str = "") -> StoredResult:
    return StoredResult(
        row=number, route="a", key=f"k{number}", kind="x", subject="t", time=0.0, data=b"{}", traceparent=traceparent
    )


def trace(number: int) -> str:
    return f"00-{number:032x}-{number:016x}-01"


def test_a_batch_is_one_consumer_span_linked_to_the_first_messages() -> None:
    traced = Traced()

    with traced.telemetry.process("a", [message(n, trace(n)) for n in (1, 2, 3)]) as span:
        assert parse_traceparent(span.traceparent) is not None

    [found] = traced.spans()
    assert (found.name, found.kind) == ("process a", SpanKind.CONSUMER)
    assert found.attributes is not None
    assert found.attributes["messaging.batch.message_count"] == 3
    assert [format_traceparent(link.context) for link in found.links] == [trace(1), trace(2)]
    assert [dict(link.attributes or {}) for link in found.links] == [
        {"messaging.message.id": "k1"},
        {"messaging.message.id": "k2"},
    ]


def test_a_single_message_is_named_and_not_counted() -> None:
    traced = Traced()

    with traced.telemetry.process("a", [message(1)]):
        pass

    [found] = traced.spans()
    assert found.attributes is not None
    assert found.attributes["messaging.message.id"] == "k1"
    assert "messaging.batch.message_count" not in found.attributes


@pytest.mark.parametrize(("contexts", "is_child"), [((1, 1), True), ((1, 2), False), ((1, None), False)])
def test_a_batch_of_one_trace_joins_it_where_the_config_says_so(contexts: Sequence[int | None], is_child: bool) -> None:
    traced = Traced(joins=True)
    messages = [message(n, "" if one is None else trace(one)) for n, one in enumerate(contexts)]

    with traced.telemetry.process("a", messages):
        pass

    [found] = traced.spans()
    assert (found.parent is not None and format_traceparent(found.parent) == trace(1)) is is_child
    assert found.links, "linked in any case"


def test_a_completion_is_a_span_beneath_its_batch_and_tells_no_text() -> None:
    traced = Traced()

    with traced.telemetry.process("a", [message(1)]):
        traced.telemetry.generated("gemma", 0.25)

    completion, batch = traced.spans()
    assert (completion.name, completion.kind) == ("text_completion gemma", SpanKind.INTERNAL)
    assert completion.attributes == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "llama_cpp",
        "gen_ai.request.model": "gemma",
    }
    assert completion.parent is not None
    assert completion.parent.span_id == batch.get_span_context().span_id
    assert (completion.end_time or 0) - (completion.start_time or 0) == 250_000_000


def test_an_upload_continues_the_trace_that_its_results_share() -> None:
    traced = Traced()

    with traced.telemetry.upload("s", "a", [stored(1, PARENT), stored(2, PARENT)]):
        headers = traced.telemetry.current_headers()

    [found] = traced.spans()
    assert found.kind == SpanKind.CLIENT
    assert found.parent is not None
    assert format_traceparent(found.parent) == PARENT
    assert headers == {"traceparent": format_traceparent(found.get_span_context())}
    assert headers["traceparent"].split("-")[1] == PARENT.split("-")[1]


def test_an_upload_of_results_of_several_traces_links_them() -> None:
    traced = Traced()

    with traced.telemetry.upload("s", "a", [stored(1, trace(1)), stored(2, trace(2)), stored(3)]):
        pass

    [found] = traced.spans()
    assert found.parent is None
    assert [format_traceparent(link.context) for link in found.links] == [trace(1), trace(2)]


def test_a_failure_is_on_the_span_by_its_kind_and_never_by_its_text() -> None:
    traced = Traced()

    with pytest.raises(ValueError, match="hunter2"), traced.telemetry.process("a", [message(1)]):
        raise ValueError("hunter2")

    [found] = traced.spans()
    assert found.attributes is not None
    assert found.attributes["error.type"] == "ValueError"
    assert "hunter2" not in found.to_json()


def test_a_span_that_is_not_sampled_leaves_the_messages_context_alone() -> None:
    traced = Traced(sampler=ALWAYS_OFF)

    with traced.telemetry.process("a", [message(1, PARENT)]) as span:
        assert span.traceparent == ""

    assert traced.spans() == ()


def test_without_an_endpoint_no_span_is_made(telemetry: Telemetry) -> None:
    with telemetry.process("a", [message(1, PARENT)]) as span, telemetry.upload("s", "a", [stored(1, PARENT)]):
        headers = telemetry.current_headers()

    assert (span.traceparent, headers) == ("", {})


@pytest.mark.parametrize(
    "text",
    ["", "x", PARENT.upper(), "01" + PARENT[2:], PARENT + "-x", trace(0), "00-" + "1" * 32 + "-" + "0" * 16 + "-01"],
)
def test_what_is_no_traceparent_is_not_linked(text: str) -> None:
    assert parse_traceparent(text) is None


def test_a_traceparent_survives_being_read_and_written() -> None:
    context = parse_traceparent(PARENT)

    assert context is not None
    assert format_traceparent(context) == PARENT
