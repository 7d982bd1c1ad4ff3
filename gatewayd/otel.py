"""OpenTelemetry, wired: instruments out of the table, a Prometheus registry, OTLP/HTTP where there is an endpoint.

Counters are plain dictionaries that the readers look at when they collect: counting on the hot path costs no call into
the SDK. Only histograms go through it. Nothing here is global: two daemons in one process (tests) do not meet.
"""

from collections.abc import Callable, Iterable, Mapping
from threading import Lock
from typing import Any

from opentelemetry.metrics import CallbackOptions, Histogram, Meter, Observation
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import Tracer
from prometheus_client import CollectorRegistry, generate_latest

from gatewayd.config.schema import Telemetry as TelemetryConfig
from gatewayd.instruments import INSTRUMENTS, Instrument

Labels = tuple[str, ...]
Reading = float | Mapping[Labels, float]  # one number, or one for each combination of attribute values

_MAX_SERIES = 1000  # of one counter: a reason comes from a handler, and a handler may make up any number of them
_EXPORT_TIMEOUT_S = 5.0


class Count:
    """One counter's values, by attribute values. May be added to from any thread."""

    __slots__ = ("_lock", "values")

    def __init__(self) -> None:
        self.values: dict[Labels, float] = {}
        self._lock = Lock()

    def add(self, labels: Labels, n: float) -> None:
        with self._lock:
            known = self.values.get(labels)
            if known is None and len(self.values) >= _MAX_SERIES:
                labels = ("other",) * len(labels)
                known = self.values.get(labels)
            self.values[labels] = n if known is None else known + n

    def copy(self) -> dict[Labels, float]:
        with self._lock:
            return dict(self.values)


class Meters:
    """All instruments of the table, and what they hold."""

    def __init__(self, provider: MeterProvider, registry: CollectorRegistry) -> None:
        self._provider = provider
        self._registry = registry
        self.counts: dict[str, Count] = {}
        self.histograms: dict[str, Histogram] = {}
        self.callbacks: dict[str, Callable[[], Reading]] = {}
        self._meter = provider.get_meter("gatewayd")
        for instrument in INSTRUMENTS.values():
            self._create(self._meter, instrument)

    def read(self, instrument: Instrument, callback: Callable[[], Reading]) -> None:
        """One more instrument, besides those of the table, and where it is read."""
        is_new = instrument.name not in self.callbacks
        self.callbacks[instrument.name] = callback
        if is_new:
            self._create(self._meter, instrument)

    def _create(self, meter: Meter, instrument: Instrument) -> None:
        name, unit, description = instrument.name, instrument.unit, instrument.description
        if instrument.kind == "histogram":
            bounds = list(instrument.bounds)
            self.histograms[name] = meter.create_histogram(
                name, unit, description, explicit_bucket_boundaries_advisory=bounds
            )
        elif instrument.kind == "counter":
            self.counts.setdefault(instrument.same_as or name, Count())
            meter.create_observable_counter(name, [self._observer(instrument)], unit, description)
        else:
            meter.create_observable_gauge(name, [self._observer(instrument)], unit, description)

    def _observer(self, instrument: Instrument) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            reading = self._read(instrument)
            return [
                Observation(value, {**instrument.fixed, **dict(zip(instrument.attributes, labels, strict=True))})
                for labels, value in (reading.items() if isinstance(reading, Mapping) else [((), reading)])
            ]

        return observe

    def _read(self, instrument: Instrument) -> Reading:
        callback = self.callbacks.get(instrument.name)
        if callback is not None:
            return callback()
        return self.counts[instrument.same_as or instrument.name].copy() if instrument.kind == "counter" else {}

    def prometheus(self) -> bytes:
        """The text of /metrics. Takes milliseconds and calls the gauges' callbacks."""
        return bytes(generate_latest(self._registry))

    def shutdown(self) -> None:
        """Send what is left and end the sending thread."""
        self._provider.shutdown(timeout_millis=_EXPORT_TIMEOUT_S * 1000)


def resource(gateway: str, version: str) -> Resource:
    """Who reports."""
    return Resource.create(
        {"service.name": "gatewayd", "service.version": version, "service.instance.id": gateway, "host.name": gateway}
    )


def build_meters(config: TelemetryConfig, endpoint: str | None, who: Resource) -> Meters:
    """Instruments with a Prometheus reader, and with an OTLP/HTTP one when there is somewhere to send to."""
    from opentelemetry.exporter.prometheus import PrometheusMetricReader

    registry = CollectorRegistry()
    readers: list[MetricReader] = [
        PrometheusMetricReader(disable_target_info=True, scope_info_enabled=False, registry=registry)
    ]
    if endpoint and config.metrics:
        readers.append(_otlp_metrics(endpoint, config.metrics_every_s))
    provider = MeterProvider(
        metric_readers=readers,
        resource=who,
        exemplar_filter=AlwaysOffExemplarFilter(),
        shutdown_on_exit=False,
    )
    return Meters(provider, registry)


def _otlp_metrics(endpoint: str, every_s: float) -> MetricReader:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    exporter = OTLPMetricExporter(endpoint=f"{endpoint.rstrip('/')}/v1/metrics", timeout=_EXPORT_TIMEOUT_S)
    return PeriodicExportingMetricReader(exporter, export_interval_millis=every_s * 1000)


def build_tracer(endpoint: str, who: Resource) -> tuple[Tracer, Callable[[], None]]:
    """A tracer that sends to `endpoint`, and what ends it. Spans that cannot be sent are dropped, never waited for."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=_EXPORT_TIMEOUT_S)
    return tracer_of(BatchSpanProcessor(exporter), TracerProvider(resource=who, shutdown_on_exit=False))


def tracer_of(processor: Any, provider: Any) -> tuple[Tracer, Callable[[], None]]:
    """A tracer of `provider` whose spans go to `processor`."""
    provider.add_span_processor(processor)
    return provider.get_tracer("gatewayd"), provider.shutdown
