"""Every number and span gatewayd reports. Stages call a method that says what happened; no other file names a metric.

A call costs a few hundred nanoseconds (a dictionary entry), one with a duration a few microseconds, so a stage makes
one call a batch and not one a message.
"""

import platform
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from opentelemetry.trace import Tracer

from gatewayd.config.environment import Environment
from gatewayd.config.schema import Telemetry as TelemetryConfig
from gatewayd.instruments import INSTRUMENTS, handler_instrument
from gatewayd.otel import Meters, Reading, build_meters, build_tracer, resource
from gatewayd.ports import RawMessage, StoredResult
from gatewayd.spans import NO_SPAN, BatchSpan, completion_span, current_headers, process_span, upload_span

_MAX_HANDLER_STATS = 200  # names of figures over all handlers: a handler may make up any number of them


class Telemetry:
    """All that is counted, and the spans. Counters may be called from any thread."""

    def __init__(self, meters: Meters, tracer: Tracer | None, *, max_links: int = 16, joins: bool = False) -> None:
        """`tracer`: None makes no spans."""
        self._joins = joins
        self._meters = meters
        self._tracer = tracer
        self._max_links = max_links
        self._end_tracer: Callable[[], None] = lambda: None
        self._counts = meters.counts
        self._fixed: dict[tuple[str, str], dict[str, str]] = {}  # attributes of histograms, made once
        self._reachable: dict[tuple[str, ...], float] = {}
        self._failures: dict[str, tuple[float, str]] = {}  # by sink
        self._connected = 0.0
        self.observe("gatewayd.source.connected", lambda: self._connected)
        self.observe("gatewayd.sink.reachable", self._reachable.copy)

    @classmethod
    def build(cls, config: TelemetryConfig, environment: Environment, gateway: str, version: str) -> "Telemetry":
        """Telemetry as configured. Starts the sending threads when there is an endpoint."""
        endpoint = config.otlp_endpoint or environment.otlp_endpoint
        who = resource(gateway, version)
        meters = build_meters(config, endpoint, who)
        telemetry = cls(meters, None, max_links=config.max_links, joins=config.join_publisher)
        if endpoint and config.traces:
            telemetry._tracer, telemetry._end_tracer = build_tracer(endpoint, who)
        versions = (version, platform.python_version(), _sqlite_version())
        telemetry.observe("gatewayd.build.info", lambda: {versions: 1.0})
        return telemetry

    def shutdown(self, timeout_s: float = 5.0) -> None:
        """Send what is left, for at most `timeout_s`: a receiver that is away must not hold up the stop. Blocks."""
        # A daemon thread, because the SDK's own time-outs add up: 17 s were measured with nobody listening.
        ending = threading.Thread(target=self._end, name="telemetry-shutdown", daemon=True)
        ending.start()
        ending.join(timeout_s)

    def _end(self) -> None:
        self._end_tracer()
        self._meters.shutdown()

    def prometheus(self) -> bytes:
        """The text of /metrics. Blocks for milliseconds."""
        return self._meters.prometheus()

    def observe(self, name: str, callback: Callable[[], Reading]) -> None:
        """What `name` reads: a number, or numbers by attribute values. Called from other threads.

        A gauge, or a counter whose total is kept elsewhere (and never falls).
        """
        if INSTRUMENTS[name].kind == "histogram":
            raise ValueError(f"{name} is a histogram: it cannot be read, only recorded")
        self._meters.callbacks[name] = callback

    def total(self, name: str, *labels: str) -> float:
        """What the counter has come to with these attribute values, for status pages and tests."""
        return self._counts[name].copy().get(labels, 0.0)

    def totals(self, name: str) -> dict[tuple[str, ...], float]:
        """What the counter has come to, by attribute values."""
        return self._counts[name].copy()

    # Intake and routes.

    def message_received(self, route: str, n: int) -> None:
        """`n` messages came to the route."""
        self._counts["gatewayd.messages.received"].add((route,), n)

    def handled(self, route: str, n: int) -> None:
        """`n` messages are answered, and that is on disk."""
        self._counts["gatewayd.messages.handled"].add((route,), n)

    def journaled(self, route: str, n: int) -> None:
        """`n` raw messages are in the journal."""
        self._counts["gatewayd.messages.journaled"].add((route,), n)

    def dropped(self, route: str, reason: str, n: int) -> None:
        """`n` messages were lost on purpose."""
        self._counts["gatewayd.messages.dropped"].add((route, reason), n)

    def buried(self, route: str, reason: str, n: int) -> None:
        """`n` messages became dead letters."""
        self._counts["gatewayd.messages.buried"].add((route, reason), n)

    def duplicates(self, n: int) -> None:
        """`n` messages had been taken before."""
        self._counts["gatewayd.messages.duplicates"].add((), n)

    def spooled(self, route: str, n: int) -> None:
        """`n` results are in the spool."""
        self._counts["gatewayd.results.spooled"].add((route,), n)

    def batch_handled(self, route: str, n: int, seconds: float) -> None:  # noqa: ARG002 - the count has its own metrics
        """A handler answered a batch of `n` messages."""
        self._record("messaging.process.duration", route, seconds)

    def batch_late(self, route: str) -> None:
        """A batch's first message was answered after `batch.budget_ms`."""
        self._counts["gatewayd.batches.late"].add((route,), 1)

    def process(self, route: str, messages: Sequence[RawMessage]) -> AbstractContextManager[BatchSpan]:
        """Around a handler's call: its span."""
        if self._tracer is None:
            return nullcontext(NO_SPAN)
        return process_span(self._tracer, route, messages, self._max_links, joins=self._joins)

    def live_published(self, route: str, n: int) -> None:
        """`n` results went to the local bus."""
        self._counts["gatewayd.live.published"].add((route,), n)

    def live_failed(self, route: str, n: int) -> None:
        """`n` live results found no bus."""
        self._counts["gatewayd.live.failed"].add((route,), n)

    # Spool.

    def committed(self, works: int, results: int, n_bytes: int, seconds: float) -> None:
        """One transaction of the writer."""
        counts = self._counts
        counts["gatewayd.spool.commits"].add((), 1)
        counts["gatewayd.spool.committed.works"].add((), works)
        counts["gatewayd.spool.committed.results"].add((), results)
        counts["gatewayd.spool.committed"].add((), n_bytes)
        self._record("gatewayd.spool.commit.duration", "", seconds)

    def evicted(self, route: str, reason: str, n: int) -> None:
        """The spool gave up `n` rows."""
        self._counts["gatewayd.spool.evicted"].add((route, reason), n)

    def spool_event(self, name: str, attributes: Mapping[str, Any]) -> None:
        """What the spool tells: "commit", "evicted" and "expired" have their own metrics, the rest is by name."""
        if name == "commit":
            works, results = int(attributes.get("works", 0)), int(attributes.get("results", 0))
            self.committed(works, results, int(attributes.get("bytes", 0)), float(attributes.get("seconds", 0.0)))
        elif name in ("evicted", "expired"):
            reason = str(attributes.get("reason", name))
            self.evicted(str(attributes.get("route", "")), reason, int(attributes.get("n", 1)))
        else:
            self._counts["gatewayd.spool.events"].add((name,), int(attributes.get("n", 1)))

    # Cascade.

    def decided(self, route: str, tier: str, cause: str, n: int) -> None:
        """`n` answers of a tier were taken or handed on."""
        self._counts["gatewayd.cascade.decisions"].add((route, tier, cause), n)

    def corrected(self, route: str, outcome: str, n: int) -> None:
        """`n` provisional answers were settled."""
        self._counts["gatewayd.cascade.corrections"].add((route, outcome), n)

    def redacted(self, route: str, pattern: str, n: int) -> None:
        """A pattern was found `n` times in what was about to leave, and blacked out."""
        self._counts["gatewayd.cascade.redactions"].add((route, pattern), n)

    # Tiers that escalations wait for.

    def tier_answered(self, tier: str, n: int, seconds: float) -> None:
        """A tier answered `n` questions that it was asked at once."""
        self._counts["gatewayd.tier.answers"].add((tier,), n)
        self._record("gatewayd.tier.duration", tier, seconds)

    def tier_refused(self, tier: str, reason: str, n: int) -> None:
        """A tier will never answer `n` questions."""
        self._counts["gatewayd.tier.refusals"].add((tier, reason), n)

    def tier_recalled(self, tier: str, n: int) -> None:
        """`n` questions were not asked: the answer was remembered."""
        self._counts["gatewayd.tier.recalled"].add((tier,), n)

    def tier_failed(self, tier: str, reason: str) -> None:
        """A request brought no answers, and will be made again."""
        self._counts["gatewayd.tier.failures"].add((tier, reason), 1)

    def tier_tokens(self, tier: str, tokens_in: int, tokens_out: int) -> None:
        """What a request took."""
        self._counts["gatewayd.tier.tokens"].add((tier, "input"), tokens_in)
        self._counts["gatewayd.tier.tokens"].add((tier, "output"), tokens_out)

    def tier_down(self, tier: str, reason: str) -> None:
        """A tier stopped answering."""
        self._counts["gatewayd.tier.outages"].add((tier, reason), 1)

    def tier_up(self, tier: str) -> None:
        """A tier answers again: see the gauge gatewayd.tier.answering."""

    # Uplink.

    def sent(self, sink: str, route: str, n: int, n_bytes: int, seconds: float) -> None:
        """A sink confirmed `n` results."""
        self._counts["gatewayd.results.delivered"].add((sink, route), n)
        self._counts["gatewayd.uplink.sent"].add((sink, route), n_bytes)
        self._reachable[sink,] = 1.0
        self._record("gatewayd.uplink.duration", sink, seconds)

    def retried(self, sink: str, route: str, reason: str, delay_s: float, words: str = "") -> None:  # noqa: ARG002 - the log has the delay
        """A request was not confirmed; `words`: why, for people."""
        self._counts["gatewayd.uplink.retries"].add((sink, route, reason), 1)
        self._failures[sink] = (time.time(), words or reason)

    def last_failure(self, sink: str) -> tuple[float, str] | None:
        """When a request to the sink was last not confirmed (seconds since the epoch), and why; None: never yet."""
        return self._failures.get(sink)

    def refused(self, sink: str, route: str, n: int) -> None:
        """A sink refused `n` results for good."""
        self._counts["gatewayd.results.refused"].add((sink, route), n)

    def away(self, sink: str, reason: str) -> None:
        """A sink stopped confirming."""
        self._counts["gatewayd.sink.outages"].add((sink, reason), 1)
        self._reachable[sink,] = 0.0

    def back(self, sink: str, after_s: float, attempts: int) -> None:  # noqa: ARG002 - the log has both
        """A sink confirms again."""
        self._reachable[sink,] = 1.0

    def reachable(self, sink: str) -> bool | None:
        """Whether a sink confirms; None before anything was sent to it."""
        known = self._reachable.get((sink,))
        return None if known is None else known > 0

    def upload(self, sink: str, route: str, results: Sequence[StoredResult]) -> AbstractContextManager[BatchSpan]:
        """Around a request to a sink: its span."""
        if self._tracer is None:
            return nullcontext(NO_SPAN)
        return upload_span(self._tracer, sink, route, results, self._max_links)

    def current_headers(self) -> dict[str, str]:
        """Headers that carry the current span to the far side: `traceparent`, or nothing."""
        return current_headers() if self._tracer is not None else {}

    # Source, models, loop.

    def source_event(self, name: str, attributes: Mapping[str, object]) -> None:
        """What a source tells: "connected", "lost" (cause), anything else is counted by its name."""
        if name == "connected":
            self._connected = 1.0
            self._counts["gatewayd.source.connects"].add((), 1)
        elif name == "lost":
            self._connected = 0.0
            self._counts["gatewayd.source.losses"].add((str(attributes.get("cause", "")),), 1)
        else:
            self._counts["gatewayd.source.events"].add((name,), 1)

    def sparkplug_event(self, route: str, event: str, n: int) -> None:
        """What a route saw of Sparkplug edge nodes: "births", "deaths", "gaps", "missed", "rebirths", "forgotten"."""
        self._counts["gatewayd.sparkplug.events"].add((route, event), n)

    def commanded(self, outcome: str) -> None:
        """A command came over the bus: it was "obeyed", or not ("retained", "unknown")."""
        self._counts["gatewayd.bus.commands"].add((outcome,), 1)

    def model_event(self, model: str, event: str) -> None:
        """A model was loaded, its worker crashed, was started …"""
        self._counts["gatewayd.model.events"].add((model, event), 1)

    def audit_event(self, event: str, n: int) -> None:
        """What the audit trail did: "written" and "dropped" count decisions, anything else is counted by its name."""
        if event in ("written", "dropped"):
            self._counts[f"gatewayd.audit.{event}"].add((), n)
        else:
            self._counts["gatewayd.audit.events"].add((event,), n)

    def lessons_event(self, route: str, event: str, n: int) -> None:
        """`n` lessons of a route were "kept", or given up for the reason `event`."""
        if event == "kept":
            self._counts["gatewayd.lessons.kept"].add((route,), n)
        else:
            self._counts["gatewayd.lessons.dropped"].add((route, event), n)

    def web_denied(self, reason: str) -> None:
        """Somebody was turned away from the page."""
        self._counts["gatewayd.web.denied"].add((reason,), 1)

    def web_changed(self, what: str, n: int) -> None:
        """`n` dead letters were requeued or purged over the page."""
        self._counts["gatewayd.web.changed"].add((what,), n)

    def generated(self, model: str, seconds: float) -> None:
        """A language model wrote a completion. Its tokens are read by `observe_models`, not counted here."""
        self._record("gen_ai.server.request.duration", model, seconds)
        if self._tracer is not None:
            completion_span(self._tracer, model, seconds)

    def observe_models(self, stats: Callable[[], Mapping[str, Mapping[str, float]]]) -> None:
        """Where the figures of loaded models are read: by model, then `tokens_in`, `resident_bytes` …"""
        self.observe("gatewayd.model.calls", lambda: _figures(stats(), ("calls",)))
        self.observe("gatewayd.model.loaded", lambda: _figures(stats(), ("loaded",)))
        self.observe("gatewayd.model.memory", lambda: _figures(stats(), ("memory_bytes",)))
        reasons = {"unloads_idle": "idle", "unloads_budget": "budget"}
        self.observe("gatewayd.model.unloads", lambda: _figures(stats(), tuple(reasons), reasons))
        self.observe("gatewayd.worker.memory", lambda: _figures(stats(), ("resident_bytes",)))
        self.observe("gatewayd.llm.waiting", lambda: _figures(stats(), ("waiting",)))
        self.observe("gatewayd.llm.waited", lambda: _figures(stats(), ("waited_s",)))
        self.observe("gatewayd.llm.preempted", lambda: _figures(stats(), ("preempted",)))
        refused = {f"refused_{reason}": reason for reason in ("deadline", "queue_full", "queue_bytes")}
        self.observe("gatewayd.llm.refused", lambda: _figures(stats(), tuple(refused), refused))
        kinds = {"tokens_in": "input", "tokens_cached": "cached", "tokens_out": "output"}
        self.observe("gatewayd.llm.tokens", lambda: _figures(stats(), tuple(kinds), kinds))
        sources = {"prefixes_restored": "file", "prefixes_computed": "computed"}
        self.observe("gatewayd.llm.prefixes", lambda: _figures(stats(), tuple(sources), sources))

    def observe_handlers(self, stats: Callable[[], Mapping[str, Mapping[str, float]]]) -> None:
        """Where handlers' own figures are read: by route, then by name. Which names there are is asked now."""
        names = sorted({name for figures in stats().values() for name in figures})
        for name in names[:_MAX_HANDLER_STATS]:
            self._meters.read(handler_instrument(name), partial(_handler_figures, stats, name))

    def loop_lagged(self, seconds: float) -> None:
        """The event loop woke a timer this late."""
        self._record("gatewayd.loop.lag", "", seconds)

    def _record(self, name: str, label: str, seconds: float) -> None:
        attributes = self._fixed.get((name, label))
        if attributes is None:
            instrument = INSTRUMENTS[name]
            attributes = {**instrument.fixed, **dict(zip(instrument.attributes, (label,), strict=False))}
            self._fixed[name, label] = attributes
        self._meters.histograms[name].record(seconds, attributes)


def _handler_figures(stats: Callable[[], Mapping[str, Mapping[str, float]]], name: str) -> dict[tuple[str, ...], float]:
    return _figures(stats(), (name,))


def _figures(
    stats: Mapping[str, Mapping[str, float]], names: tuple[str, ...], labels: Mapping[str, str] | None = None
) -> dict[tuple[str, ...], float]:
    """The named figures of the models that have them, by model, and by label where there are labels."""
    return {
        (model, labels[name]) if labels else (model,): figures[name]
        for model, figures in stats.items()
        for name in names
        if name in figures
    }


def _sqlite_version() -> str:
    """Of the SQLite that the spool uses: apsw carries its own."""
    try:
        import apsw
    except ImportError:
        return sqlite3.sqlite_version
    return str(apsw.sqlite_lib_version())
