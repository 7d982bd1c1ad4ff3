"""One trace from the publisher's message to the request that takes its result to the cloud, over a crash of the daemon.

A real daemon between a real Mosquitto and an HTTP cloud, and an OTLP receiver that decodes what it is sent.
"""

import gzip
import json
import re
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client.parser import text_string_to_metric_families

from gatewayd.instruments import INSTRUMENTS
from gatewayd.spool.reader import SpoolReader
from tests.sim.gateway import Gateway, wait_until
from tests.sim.mosquitto import Mosquitto
from tests.sim.otlp import Receiver

pytestmark = [pytest.mark.broker, pytest.mark.timeout(120)]

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
DOCS = Path(__file__).parent.parent.parent / "docs" / "reference" / "metrics.md"

CONFIG = """
[source]
port = {port}
client_id = "{name}"
[source.reconnect]
initial_s = 0.05
max_s = 0.2
[telemetry]
otlp_endpoint = "{otlp}"
metrics_every_s = 1.0
[sinks.cloud]
type = "http"
url = "{cloud}"
retry_max_s = 0.3
[routes.heat]
topics = ["{name}/#"]
handler = "threshold"
sinks = ["cloud"]
[routes.heat.options]
on = "every"
[[routes.heat.options.rules]]
field = "temperature"
above = 0.0
label = "seen"
"""


class Cloud:
    """Stores events with the headers they came with; away, it answers 503."""

    def __init__(self) -> None:
        self.is_away = False
        self.stored: list[tuple[Mapping[str, str], dict[str, Any]]] = []
        self.n_requests = 0
        cloud = self

        class Answer(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                cloud.n_requests += 1
                if not cloud.is_away:
                    headers = {name.lower(): value for name, value in self.headers.items()}
                    cloud.stored += [(headers, event) for event in json.loads(body)]
                self.send_response(503 if cloud.is_away else 204)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/events"

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    cloud = Cloud()
    yield cloud
    cloud.close()


@pytest.fixture
def gateway(tmp_path: Path, mosquitto: Mosquitto, cloud: Cloud, receiver: Receiver) -> Iterator[Gateway]:
    name = tmp_path.name.replace("_", "-")[:60]
    text = CONFIG.format(port=mosquitto.port, name=name, otlp=receiver.url, cloud=cloud.url)
    gateway = Gateway(tmp_path / "gateway", text, name=name)
    gateway.start()
    yield gateway
    gateway.end()


def publish(broker: Mosquitto, gateway: Gateway, *, traceparent: str = f"00-{TRACE}-{SPAN}-01") -> None:
    """One reading, at QoS 1 and with the publisher's trace context."""
    binary = shutil.which("mosquitto_pub")
    assert binary is not None
    topic = gateway.get("/status")["gateway"] + "/oven"
    command = [binary, "-p", str(broker.port), "-V", "5", "-q", "1", "-t", topic, "-m", '{"temperature": 20.5}']
    subprocess.run([*command, "-D", "publish", "user-property", "traceparent", traceparent], check=True, timeout=120)


def stored_traceparents(gateway: Gateway) -> list[str]:
    with SpoolReader.open(gateway.folder / "state" / "spool.db") as reader:
        return [result.traceparent for result in reader.pending("cloud", "heat")]


def context_of(traceparent: str) -> tuple[bytes, bytes]:
    """Trace id and span id of a sampled context."""
    version, trace_id, span_id, flags = traceparent.split("-")
    assert version == "00"
    assert int(flags, 16) & 1, "not sampled"
    return bytes.fromhex(trace_id), bytes.fromhex(span_id)


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


def test_the_way_of_a_message_is_one_trace_though_the_daemon_is_killed_in_the_middle(
    gateway: Gateway, mosquitto: Mosquitto, cloud: Cloud, receiver: Receiver
) -> None:
    cloud.is_away = True
    publish(mosquitto, gateway)
    wait_until(lambda: gateway.n_pending() == 1 and receiver.spans("process heat"), 30, gateway.describe)
    [process] = receiver.spans("process heat")
    assert [context_of(each) for each in stored_traceparents(gateway)] == [(process.trace_id, process.span_id)]

    gateway.kill()
    cloud.is_away = False
    gateway.start()
    wait_until(lambda: cloud.stored and _confirmed(receiver), 30, gateway.describe)

    check_process_span(process)
    [(headers, event)] = cloud.stored
    [upload] = _confirmed(receiver)
    assert context_of(event["traceparent"]) == (process.trace_id, process.span_id)
    assert context_of(headers["traceparent"]) == (process.trace_id, upload.span_id)
    assert upload.trace_id == process.trace_id
    assert upload.parent_span_id == process.span_id
    assert upload.kind == Span.SPAN_KIND_CLIENT
    assert attributes(upload) == {
        "gatewayd.results": 1,
        "gatewayd.sink": "cloud",
        "gatewayd.route": "heat",
    }


def _confirmed(receiver: Receiver) -> list[Any]:
    """The uploads that the cloud confirmed."""
    return [span for span in receiver.spans("upload cloud") if "error.type" not in attributes(span)]


def check_process_span(span: Any) -> None:
    """As the messaging conventions want it: a CONSUMER that links to the publisher and is not its child."""
    assert span.kind == Span.SPAN_KIND_CONSUMER
    assert span.parent_span_id == b""
    said = attributes(span)
    assert said.pop("messaging.message.id")
    assert said == {
        "messaging.system": "mqtt",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "gatewayd.route": "heat",
    }
    [link] = span.links
    assert (link.trace_id.hex(), link.span_id.hex()) == (TRACE, SPAN)
    assert [each.key for each in link.attributes] == ["messaging.message.id"]


def test_a_failed_upload_is_an_error_in_the_same_trace(
    gateway: Gateway, mosquitto: Mosquitto, cloud: Cloud, receiver: Receiver
) -> None:
    cloud.is_away = True
    publish(mosquitto, gateway)

    wait_until(lambda: receiver.spans("upload cloud") and receiver.spans("process heat"), 30, gateway.describe)

    upload, process = receiver.spans("upload cloud")[0], receiver.spans("process heat")[0]
    assert upload.trace_id == process.trace_id
    assert attributes(upload)["error.type"] == "SinkUnavailable"
    assert upload.status.message == ""


def test_no_span_tells_what_a_message_held_or_where_it_came_from(
    gateway: Gateway, mosquitto: Mosquitto, receiver: Receiver
) -> None:
    publish(mosquitto, gateway)
    wait_until(lambda: receiver.spans("upload cloud"), 30, gateway.describe)

    sent = str(receiver.traces)

    assert "20.5" not in sent
    assert "/oven" not in sent


def test_a_message_without_a_context_or_with_a_wrong_one_is_traced_without_a_link(
    gateway: Gateway, mosquitto: Mosquitto, receiver: Receiver
) -> None:
    publish(mosquitto, gateway, traceparent="00-zz-zz-01")

    wait_until(lambda: receiver.spans("process heat"), 30, gateway.describe)

    assert list(receiver.spans("process heat")[0].links) == []


def test_metrics_come_over_otlp_and_on_a_page_that_a_prometheus_can_read(
    gateway: Gateway, mosquitto: Mosquitto, cloud: Cloud, receiver: Receiver
) -> None:
    publish(mosquitto, gateway)
    wait_until(lambda: cloud.stored and "gatewayd.results.delivered" in receiver.metric_names(), 30, gateway.describe)

    with urllib.request.urlopen(f"http://127.0.0.1:{gateway.web_port}/metrics", timeout=20) as response:
        families = list(text_string_to_metric_families(response.read().decode()))
    documented = set(re.findall(r'<a id="([a-z0-9_]+)"></a>', DOCS.read_text()))

    names = {sample.name for family in families for sample in family.samples}
    plain = {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}
    assert plain <= documented
    assert {"gatewayd_messages_received_total", "gatewayd_results_delivered_total"} <= plain
    assert {"messaging_process_duration_seconds", "gatewayd_spool_commit_duration_seconds"} <= plain
    assert receiver.metric_names() <= set(INSTRUMENTS)
    values = {sample.name: sample.value for family in families for sample in family.samples}
    assert values["gatewayd_messages_received_total"] == values["gatewayd_results_delivered_total"] == 1
