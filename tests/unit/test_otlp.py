"""Metrics and spans at an OTLP receiver that speaks the protocol, and at one that does not."""

import socket
import time
from collections.abc import Iterator

import pytest

from gatewayd.config import read_environment
from gatewayd.config.schema import Telemetry as TelemetryConfig
from gatewayd.ports import RawMessage
from gatewayd.telemetry import Telemetry
from tests.sim.otlp import Receiver


def message(number: int) -> RawMessage:
    return RawMessage(topic="t", payload=b"hunter2", time=0.0, key=f"k{number}")


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
