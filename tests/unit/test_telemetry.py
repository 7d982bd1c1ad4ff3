"""gatewayd.telemetry: what is counted is on /metrics and at the OTLP receiver, under the name that is documented."""

import gzip
import inspect
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind
from prometheus_client.parser import text_string_to_metric_families

from gatewayd.config import Config, read_environment
from gatewayd.config.schema import Telemetry as TelemetryConfig
from gatewayd.instruments import INSTRUMENTS
from gatewayd.otel import Count, build_meters, resource, tracer_of
from gatewayd.ports import RawMessage, StoredResult
from gatewayd.spans import format_traceparent, parse_traceparent
from gatewayd.telemetry import Telemetry

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    built = Telemetry.build(Config().telemetry, read_environment({}), "g1", "0.1.0")
    yield built
    built.shutdown()


def samples(telemetry: Telemetry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(telemetry.prometheus().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def touch_everything(telemetry: Telemetry) -> None:
    """One call of every method that reports a number."""
    telemetry.message_received("a", 3)
    telemetry.handled("a", 2)
    telemetry.journaled("a", 1)
    telemetry.dropped("a", "queue_full", 1)
    telemetry.buried("a", "decode", 1)
    telemetry.duplicates(1)
    telemetry.spooled("a", 2)
    telemetry.batch_handled("a", 2, 0.02)
    telemetry.live_published("a", 2)
    telemetry.live_failed("a", 1)
    telemetry.spool_event("commit", {"works": 2, "results": 2, "bytes": 100, "seconds": 0.002})
    telemetry.spool_event("evicted", {"route": "a", "reason": "cap", "n": 4})
    telemetry.spool_event("purged", {"n": 2})
    telemetry.sent("s", "a", 2, 100, 0.1)
    telemetry.retried("s", "a", "timeout", 1.0)
    telemetry.refused("s", "a", 1)
    telemetry.away("s", "timeout")
    telemetry.source_event("connected", {})
    telemetry.source_event("lost", {"cause": "eof"})
    telemetry.source_event("retry", {"delay_s": 1.0})
    telemetry.model_event("m", "loaded")
    telemetry.generated("m", 10, 5, 4, 0.5)
    telemetry.loop_lagged(0.01)
    telemetry.observe("gatewayd.model.calls", lambda: {("m",): 1.0})
    for name, instrument in INSTRUMENTS.items():
        if instrument.kind == "gauge" and name not in ("gatewayd.build.info", "gatewayd.sink.reachable"):
            labels = tuple("x" for _ in instrument.attributes)
            telemetry.observe(name, lambda labels=labels: {labels: 7.0})


def test_every_metric_of_the_table_is_on_the_page_under_its_documented_name(telemetry: Telemetry) -> None:
    touch_everything(telemetry)

    names = {name for name, _ in samples(telemetry)}

    wanted = {
        instrument.prometheus_name + ("_count" if instrument.kind == "histogram" else "")
        for instrument in INSTRUMENTS.values()
    }
    extra = {name for name in names if not name.endswith(("_bucket", "_sum"))}
    assert wanted == extra


def test_every_metric_has_the_attributes_it_is_documented_with(telemetry: Telemetry) -> None:
    touch_everything(telemetry)

    by_name = {name.removesuffix("_count"): {label for label, _ in labels} for name, labels in samples(telemetry)}

    for instrument in INSTRUMENTS.values():
        documented = {name.replace(".", "_") for name in (*instrument.attributes, *instrument.fixed)}
        assert by_name[instrument.prometheus_name] == documented


def test_counts_add_up_per_attribute_values(telemetry: Telemetry) -> None:
    telemetry.dropped("a", "queue_full", 2)
    telemetry.dropped("a", "queue_full", 3)
    telemetry.dropped("b", "late", 1)

    found = samples(telemetry)

    assert found["gatewayd_messages_dropped_total", (("reason", "queue_full"), ("route", "a"))] == 5
    assert found["gatewayd_messages_dropped_total", (("reason", "late"), ("route", "b"))] == 1
    assert telemetry.total("gatewayd.messages.dropped", "a", "queue_full") == 5


def test_a_handler_that_makes_up_reasons_does_not_grow_the_daemon() -> None:
    count = Count()

    for number in range(5000):
        count.add(("a", f"reason {number}"), 1)

    assert len(count.values) <= 1001
    assert sum(count.values.values()) == 5000


def test_counting_from_many_threads_loses_nothing() -> None:
    count = Count()

    def add() -> None:
        for _ in range(5000):
            count.add(("a",), 1)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert count.values == {("a",): 20000}


def test_a_gauge_reads_its_callback_when_the_page_is_asked_for(telemetry: Telemetry) -> None:
    waiting = {("a",): 1.0}
    telemetry.observe("gatewayd.queue.messages", lambda: waiting)
    before = samples(telemetry)
    waiting["a",] = 9.0

    after = samples(telemetry)

    key = ("gatewayd_queue_messages", (("route", "a"),))
    assert (before[key], after[key]) == (1.0, 9.0)


def test_only_what_is_in_the_table_can_be_observed(telemetry: Telemetry) -> None:
    with pytest.raises(KeyError):
        telemetry.observe("gatewayd.made.up", lambda: 1.0)
    with pytest.raises(ValueError, match="histogram"):
        telemetry.observe("gatewayd.loop.lag", lambda: 1.0)


def test_a_sink_is_reachable_until_it_goes_away_and_when_it_is_back(telemetry: Telemetry) -> None:
    seen = []
    for happens in (
        lambda: telemetry.sent("s", "a", 1, 1, 0.1),
        lambda: telemetry.away("s", "timeout"),
        lambda: telemetry.back("s", 5.0, 3),
    ):
        happens()
        seen.append((samples(telemetry)["gatewayd_sink_reachable", (("sink", "s"),)], telemetry.reachable("s")))

    assert seen == [(1.0, True), (0.0, False), (1.0, True)]
    assert telemetry.reachable("never used") is None


def test_the_figures_of_loaded_models_are_read_when_the_page_is_asked_for(telemetry: Telemetry) -> None:
    figures = {"calls": 2.0, "tokens_in": 30.0, "tokens_cached": 20.0, "tokens_out": 5.0, "resident_bytes": 4096.0}
    telemetry.observe_models(lambda: {"gemma": figures, "pumps": {"calls": 7.0}})

    found = samples(telemetry)

    tokens = {dict(labels)["type"]: n for (name, labels), n in found.items() if name == "gatewayd_llm_tokens_total"}
    assert tokens == {"input": 30.0, "cached": 20.0, "output": 5.0}
    assert found["gatewayd_model_calls_total", (("model", "pumps"),)] == 7.0
    assert [n for (name, _), n in found.items() if name == "gatewayd_worker_memory_bytes"] == [4096.0]


# --- spans ---


class Traced:
    """Telemetry whose spans are kept."""

    def __init__(self, **options: object) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False, **options)
        tracer, self.end = tracer_of(SimpleSpanProcessor(self.exporter), provider)
        meters = build_meters(TelemetryConfig(), None, resource("g1", "0"))
        self.telemetry = Telemetry(meters, tracer, max_links=2)

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


# --- OTLP, against a receiver that speaks the protocol ---


class Receiver:
    """An OTLP/HTTP receiver that keeps what it gets."""

    def __init__(self) -> None:
        self.metrics: list[ExportMetricsServiceRequest] = []
        self.traces: list[ExportTraceServiceRequest] = []
        receiver = self

        class Answer(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                if self.path == "/v1/metrics":
                    receiver.metrics.append(ExportMetricsServiceRequest.FromString(body))
                if self.path == "/v1/traces":
                    receiver.traces.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.close()


def test_metrics_and_spans_reach_an_otlp_receiver_at_the_latest_at_shutdown(receiver: Receiver) -> None:
    environment = read_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url})
    telemetry = Telemetry.build(TelemetryConfig(), environment, "g1", "0.1.0")
    telemetry.message_received("a", 3)
    with telemetry.process("a", [message(1)]):
        pass

    telemetry.shutdown()

    names = {
        metric.name
        for request in receiver.metrics
        for resource_metrics in request.resource_metrics
        for scope in resource_metrics.scope_metrics
        for metric in scope.metrics
    }
    assert {"gatewayd.messages.received", "messaging.client.consumed.messages", "gatewayd.build.info"} <= names
    [resource_spans] = receiver.traces[0].resource_spans
    assert [span.name for span in resource_spans.scope_spans[0].spans] == ["process a"]
    who = {attribute.key: attribute.value.string_value for attribute in resource_spans.resource.attributes}
    assert (who["service.name"], who["service.instance.id"]) == ("gatewayd", "g1")


def test_traces_and_metrics_are_switched_off_one_by_one(receiver: Receiver) -> None:
    config = TelemetryConfig(otlp_endpoint=receiver.url, traces=False, metrics=False)
    telemetry = Telemetry.build(config, read_environment({}), "g1", "0.1.0")
    with telemetry.process("a", [message(1)]):
        pass

    telemetry.shutdown()

    assert (receiver.metrics, receiver.traces) == ([], [])


def test_a_receiver_that_does_not_answer_does_not_hold_up_the_stop() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        config = TelemetryConfig(otlp_endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}")
        telemetry = Telemetry.build(config, read_environment({}), "g1", "0.1.0")
        with telemetry.process("a", [message(1)]):
            pass
        began_s = time.monotonic()

        telemetry.shutdown(timeout_s=0.2)

        # Without the bound it takes as long as the exporter's time-out, 5 s, at the very least.
        assert time.monotonic() - began_s < 4.0


def test_every_public_method_is_documented() -> None:
    methods = [each for name, each in inspect.getmembers(Telemetry, inspect.isfunction) if not name.startswith("_")]

    assert [method.__name__ for method in methods if not method.__doc__] == []
