"""Every metric gatewayd has: the single definition, of which docs/reference/metrics.md is made.

Names: `messaging.*` and `gen_ai.*` are OpenTelemetry's semantic conventions (messaging as of v1.44, GenAI as of v1.41;
both in development), the rest is ours, `gatewayd.<noun>.<past verb>`. Attributes have few values: a route, a sink, a
reason, never a topic.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]

# Bounds of the conventions: messaging.process.duration and gen_ai.server.request.duration.
MESSAGING_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
GEN_AI_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
# fsync: 100 µs on a good SSD, seconds on an SD card that erases.
COMMIT_SECONDS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
LAG_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)


# As opentelemetry-exporter-prometheus makes them of UCUM units.
_SUFFIXES = {"s": "_seconds", "By": "_bytes", "Cel": "_celsius", "J": "_joules", "W": "_watts", "Hz": "_hertz"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Instrument:
    """One metric."""

    name: str
    kind: Kind
    unit: str  # UCUM, as OpenTelemetry wants it: "s", "By", "{message}"
    description: str
    attributes: tuple[str, ...] = ()
    fixed: Mapping[str, str] = field(default_factory=dict)  # attributes with the same value always
    bounds: tuple[float, ...] = ()
    same_as: str = ""  # counts what that one counts, under the convention's name

    @property
    def prometheus_name(self) -> str:
        """The name on /metrics."""
        suffix = _SUFFIXES.get(self.unit, "")
        name = self.name.replace(".", "_")
        if not name.endswith(suffix):
            name += suffix
        return name + ("_total" if self.kind == "counter" else "")


def _counter(name: str, unit: str, description: str, *attributes: str) -> Instrument:
    return Instrument(name=name, kind="counter", unit=unit, description=description, attributes=attributes)


def _gauge(name: str, unit: str, description: str, *attributes: str) -> Instrument:
    return Instrument(name=name, kind="gauge", unit=unit, description=description, attributes=attributes)


_COUNTERS = (
    _counter("gatewayd.messages.received", "{message}", "Messages that came to a route.", "route"),
    _counter("gatewayd.messages.handled", "{message}", "Messages a handler answered and that are done with.", "route"),
    _counter("gatewayd.messages.journaled", "{message}", "Raw messages put into the journal before handling.", "route"),
    _counter("gatewayd.messages.dropped", "{message}", "Messages lost on purpose.", "route", "reason"),
    _counter("gatewayd.messages.buried", "{message}", "Messages put aside as dead letters.", "route", "reason"),
    _counter("gatewayd.messages.duplicates", "{message}", "Redelivered messages that had been taken before."),
    _counter(
        "gatewayd.batches.late", "{batch}", "Batches whose first message was answered after `batch.budget_ms`.", "route"
    ),
    _counter("gatewayd.results.spooled", "{result}", "Results committed to the spool.", "route"),
    _counter("gatewayd.results.delivered", "{result}", "Results a sink confirmed as stored.", "sink", "route"),
    _counter(
        "gatewayd.results.refused", "{result}", "Results a sink refused for good (dead letters).", "sink", "route"
    ),
    _counter("gatewayd.live.published", "{result}", "Results published at once on the local bus.", "route"),
    _counter("gatewayd.live.failed", "{result}", "Live results that could not be handed to the bus.", "route"),
    _counter("gatewayd.spool.evicted", "{row}", "Rows the spool gave up at its cap or their age.", "route", "reason"),
    _counter("gatewayd.spool.commits", "{commit}", "Transactions of the spool's writer."),
    _counter("gatewayd.spool.committed.works", "{work}", "Pieces of work committed; by commits: the group's size."),
    _counter("gatewayd.spool.committed.results", "{result}", "Results in committed work."),
    _counter("gatewayd.spool.committed", "By", "Bytes of committed work."),
    _counter(
        "gatewayd.spool.written",
        "By",
        "Bytes the spool has written: its log, and what was folded from it into the file.",
    ),
    _counter(
        "gatewayd.process.written",
        "By",
        "Bytes the kernel wrote for this process. By messages received: what flash pays for a message.",
    ),
    _counter("gatewayd.spool.events", "{event}", "What else happened in the spool.", "event"),
    _counter(
        "gatewayd.cascade.decisions",
        "{decision}",
        "Answers that were taken or handed on, by the tier that gave them and why.",
        "route",
        "tier",
        "cause",
    ),
    _counter(
        "gatewayd.cascade.corrections",
        "{result}",
        "Provisional answers settled: changed, confirmed, or why nobody better answered.",
        "route",
        "outcome",
    ),
    _counter(
        "gatewayd.cascade.redactions",
        "{match}",
        "Places that were blacked out in what left the box.",
        "route",
        "pattern",
    ),
    _counter("gatewayd.tier.answers", "{message}", "Messages that a tier above answered.", "tier"),
    _counter("gatewayd.tier.refusals", "{message}", "Messages that a tier above will never answer.", "tier", "reason"),
    _counter("gatewayd.tier.recalled", "{message}", "Messages whose answer was remembered, and not asked for.", "tier"),
    _counter("gatewayd.tier.failures", "{request}", "Requests to a tier that brought no answers.", "tier", "reason"),
    _counter("gatewayd.tier.outages", "{outage}", "Times that a tier stopped answering.", "tier", "reason"),
    _counter("gatewayd.tier.tokens", "{token}", "Tokens that a tier says its answers took.", "tier", "type"),
    _counter("gatewayd.tier.wire", "By", "Bytes on the wire for a tier: both ways, failed requests too.", "tier"),
    _counter("gatewayd.uplink.sent", "By", "Bytes of results a sink confirmed.", "sink", "route"),
    _counter(
        "gatewayd.uplink.wire",
        "By",
        "Bytes on the wire for a sink: both ways, compressed, headers, failed attempts too.",
        "sink",
    ),
    _counter("gatewayd.uplink.retries", "{request}", "Requests that were not confirmed.", "sink", "route", "reason"),
    _counter("gatewayd.sink.outages", "{outage}", "Times a sink went away.", "sink", "reason"),
    _counter("gatewayd.source.connects", "{connection}", "Connections made to the local bus."),
    _counter("gatewayd.source.losses", "{connection}", "Connections to the local bus that were lost.", "cause"),
    _counter("gatewayd.source.events", "{event}", "What else the source tells.", "event"),
    _counter("gatewayd.bus.commands", "{command}", "Commands that came over the bus.", "outcome"),
    _counter(
        "gatewayd.sparkplug.events",
        "{event}",
        "Of Sparkplug edge nodes: births, deaths, gaps in the sequence, messages missed, rebirths asked for.",
        "route",
        "event",
    ),
    _counter("gatewayd.audit.written", "{decision}", "Decisions handed to the disk in the audit trail."),
    _counter("gatewayd.audit.dropped", "{decision}", "Decisions that the audit trail had no room for in memory."),
    _counter(
        "gatewayd.audit.events",
        "{event}",
        "What the audit trail tells of itself: started, stopped, failed, torn, put aside, removed.",
        "event",
    ),
    _counter("gatewayd.web.denied", "{request}", "Requests to the page that were turned away.", "reason"),
    _counter("gatewayd.web.changed", "{letter}", "Dead letters requeued or purged over the page.", "what"),
    _counter("gatewayd.lessons.kept", "{lesson}", "What higher tiers answered, kept to learn from.", "route"),
    _counter("gatewayd.lessons.dropped", "{lesson}", "Lessons given up.", "route", "reason"),
    _counter("gatewayd.model.events", "{event}", "Loads, crashes and restarts of models.", "model", "event"),
    _counter(
        "gatewayd.model.unloads", "{unload}", "Models unloaded: idle for long, or for the budget.", "model", "reason"
    ),
    _counter("gatewayd.model.calls", "{call}", "Calls of a loaded model.", "model"),
    _counter("gatewayd.llm.waited", "s", "How long calls have waited for a slot of a language model.", "model"),
    _counter("gatewayd.llm.preempted", "{call}", "Calls ended midway for one of a higher priority.", "model"),
    _counter(
        "gatewayd.llm.prefixes", "{prompt}", "Static prompts made ready: from a file or computed.", "model", "source"
    ),
    _counter("gatewayd.llm.refused", "{call}", "Calls that got no slot.", "model", "reason"),
    _counter(
        "gatewayd.llm.tokens", "{token}", "Tokens: type is input, cached (part of input) or output.", "model", "type"
    ),
)

_CONVENTIONS = (
    Instrument(
        name="messaging.client.consumed.messages",
        kind="counter",
        unit="{message}",
        description="Messages that came to a route, under the convention's name.",
        attributes=("route",),
        fixed={"messaging.system": "mqtt", "messaging.operation.name": "process"},
        same_as="gatewayd.messages.received",
    ),
    Instrument(
        name="messaging.client.sent.messages",
        kind="counter",
        unit="{message}",
        description="Live results published, under the convention's name.",
        attributes=("route",),
        fixed={"messaging.system": "mqtt", "messaging.operation.name": "publish"},
        same_as="gatewayd.live.published",
    ),
    Instrument(
        name="messaging.process.duration",
        kind="histogram",
        unit="s",
        description="How long a handler took for a batch.",
        attributes=("route",),
        fixed={"messaging.system": "mqtt", "messaging.operation.name": "process"},
        bounds=MESSAGING_SECONDS,
    ),
    Instrument(
        name="gen_ai.server.request.duration",
        kind="histogram",
        unit="s",
        description="How long a language model took for a completion.",
        attributes=("gen_ai.request.model",),
        fixed={"gen_ai.operation.name": "text_completion", "gen_ai.provider.name": "llama_cpp"},
        bounds=GEN_AI_SECONDS,
    ),
)

_HISTOGRAMS = (
    Instrument(
        name="gatewayd.uplink.duration",
        kind="histogram",
        unit="s",
        description="How long a sink took to confirm a batch.",
        attributes=("sink",),
        bounds=MESSAGING_SECONDS,
    ),
    Instrument(
        name="gatewayd.tier.duration",
        kind="histogram",
        unit="s",
        description="How long a tier took to answer what it was asked at once.",
        attributes=("tier",),
        bounds=MESSAGING_SECONDS,
    ),
    Instrument(
        name="gatewayd.spool.commit.duration",
        kind="histogram",
        unit="s",
        description="How long a commit took, fsync included.",
        bounds=COMMIT_SECONDS,
    ),
    Instrument(
        name="gatewayd.loop.lag",
        kind="histogram",
        unit="s",
        description="How late the event loop woke a timer: what blocks it shows here.",
        bounds=LAG_SECONDS,
    ),
)

_GAUGES = (
    _gauge("gatewayd.build.info", "", "Always 1; the versions are in the attributes.", "version", "python", "sqlite"),
    _gauge("gatewayd.source.connected", "", "1 while the local bus is connected, else 0."),
    _gauge("gatewayd.sink.reachable", "", "1 while a sink confirms, 0 after it stopped to.", "sink"),
    _gauge("gatewayd.uplink.month", "By", "Bytes on the wire for a sink in the month that is.", "sink"),
    _gauge("gatewayd.uplink.quota", "By", "Its cap, `max_bytes_per_month`, where there is one.", "sink"),
    _gauge("gatewayd.queue.messages", "{message}", "Messages waiting in memory.", "route"),
    _gauge("gatewayd.journal.messages", "{message}", "Messages waiting in the journal.", "route"),
    _gauge("gatewayd.cascade.waiting", "{message}", "Messages that wait for a better answer.", "route"),
    _gauge("gatewayd.tier.state", "", "1 for what its circuit breaker is: up, down, half-open.", "tier", "state"),
    _gauge("gatewayd.tier.budget", "", "The most a tier may cost a day, where there is a limit.", "tier", "kind"),
    _gauge("gatewayd.tier.answering", "", "1 while a tier answers, 0 after it stopped to.", "tier"),
    _gauge("gatewayd.tier.day", "", "What a tier has cost today: calls, tokens, bytes, cost.", "tier", "kind"),
    _gauge("gatewayd.spool.pending", "{result}", "Results not yet delivered.", "sink"),
    _gauge("gatewayd.ring.results", "{result}", "Results in memory alone: what a power cut would take.", "route"),
    _gauge("gatewayd.spool.oldest.age", "s", "Age of the oldest result not yet delivered."),
    _gauge("gatewayd.spool.size", "By", "All that the spool has on disk."),
    _gauge("gatewayd.spool.limit", "By", "The cap, `spool.max_bytes`."),
    _gauge("gatewayd.spool.wal", "By", "Of it: the write-ahead log."),
    _gauge("gatewayd.dead_letters.kept", "{letter}", "Dead letters kept for a person."),
    _gauge("gatewayd.llm.waiting", "{call}", "Calls waiting for a slot of a language model.", "model"),
    _gauge("gatewayd.worker.memory", "By", "Resident memory of a model's worker process.", "model"),
    _gauge("gatewayd.model.loaded", "", "1 while a model is in memory, 0 after it was unloaded.", "model"),
    _gauge(
        "gatewayd.model.memory",
        "By",
        "What a loaded model takes: measured when it was loaded, of a worker now.",
        "model",
    ),
    _gauge("gatewayd.models.limit", "By", "The budget, `models.max_resident_bytes`, where there is one."),
    _gauge("gatewayd.process.memory", "By", "Resident memory of the daemon itself."),
)


def handler_instrument(stat: str) -> Instrument:
    """The metric of a figure that handlers tell of themselves: see gatewayd.api.TellsStats."""
    name, meaning = f"gatewayd.handler.{stat.removesuffix('_total')}", "What handlers tell of themselves."
    return _counter(name, "", meaning, "route") if stat.endswith("_total") else _gauge(name, "", meaning, "route")


# What a board may offer: OpenTelemetry's conventions for hardware and, for the load, its host metrics receiver.
_BOARD = (
    _gauge("hw.temperature", "Cel", "A temperature of the board.", "hw.id", "hw.name"),
    _gauge(
        "hw.temperature.limit",
        "Cel",
        "Its trip points: slowed down, switched off.",
        "hw.id",
        "hw.name",
        "hw.limit_type",
    ),
    _gauge("hw.power", "W", "Power of a rail of the board.", "hw.id", "hw.name", "hw.type"),
    _gauge("hw.host.power", "W", "Power of the rail that feeds the whole board.", "hw.id", "hw.name"),
    _counter("hw.energy", "J", "Energy of a part of the board since the start.", "hw.id", "hw.name", "hw.type"),
    _counter("hw.host.energy", "J", "Energy of the whole board since the start.", "hw.id", "hw.name"),
    _gauge("system.cpu.frequency", "Hz", "Frequency of a processor as its driver has it.", "cpu.logical_number"),
    _gauge("system.cpu.load_average.1m", "{thread}", "Load over 1 minute."),
    _gauge("system.cpu.load_average.5m", "{thread}", "Load over 5 minutes."),
    _gauge("system.cpu.load_average.15m", "{thread}", "Load over 15 minutes."),
    _gauge("gatewayd.board.hot", "", "1 while the board is hot or throttled, and low priorities give way."),
    _gauge("gatewayd.board.throttled", "", "1 while this holds the processor back, where the board tells.", "cause"),
    _counter(
        "gatewayd.model.refused", "{call}", "Calls of a language model that a route did without.", "route", "reason"
    ),
    _gauge(
        "gatewayd.model.call.energy",
        "J",
        "Energy of the board by calls of a model, over the times in which it alone computed.",
        "model",
    ),
    _gauge(
        "gatewayd.model.token.energy",
        "J",
        "Energy of the board by tokens a model wrote, over the times in which it alone computed.",
        "model",
    ),
)

INSTRUMENTS: Mapping[str, Instrument] = {
    each.name: each for each in (*_COUNTERS, *_CONVENTIONS, *_HISTOGRAMS, *_GAUGES, *_BOARD)
}
