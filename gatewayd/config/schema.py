"""The typed tree of config.toml. A field's annotation is its documentation: reference and example are made from it.

Durations end in `_s` or `_ms`, sizes in `_bytes`, counts start with `max_`. A field without a default is required.
Every struct is importable from here; `links`, `routes` and `sinks` hold those of their own subject.
"""

from typing import Annotated, Literal

from msgspec import Meta, field

from gatewayd.config.board import Board
from gatewayd.config.homeassistant import HomeAssistant
from gatewayd.config.links import Broker, Reconnect, Secret, Section, Source, Tls
from gatewayd.config.routes import BatchLimits, Payload, Route, WindowLimits
from gatewayd.config.sinks import FileSink, HttpSink, MqttSink, Sink
from gatewayd.config.tiers import Escalation, HandlerTier, HttpTier, KServeTier, OpenAITier, Tier
from gatewayd.config.web import Web, WebTls

__all__ = [
    "Audit",
    "BatchLimits",
    "Board",
    "Broker",
    "Config",
    "Escalation",
    "FileSink",
    "Gateway",
    "HandlerTier",
    "Handlers",
    "HomeAssistant",
    "HttpSink",
    "HttpTier",
    "KServeTier",
    "Log",
    "Models",
    "MqttSink",
    "OpenAITier",
    "Payload",
    "Reconnect",
    "Route",
    "Secret",
    "Section",
    "Sink",
    "Source",
    "Spool",
    "Telemetry",
    "Tier",
    "Tls",
    "Web",
    "WebTls",
    "WindowLimits",
]


class Gateway(Section, frozen=True):
    """This machine."""

    id: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z",
            description="Name of this gateway: in topics, in the source of every result, in the MQTT client id. Empty is not allowed; `hostname` takes the machine's host name.",
        ),
    ] = "hostname"
    state_dir: Annotated[
        str,
        Meta(
            description="Folder of the spool. Empty: $STATE_DIRECTORY (systemd), else $XDG_STATE_HOME/gatewayd, else ~/.local/state/gatewayd."
        ),
    ] = ""
    clock_sync_file: Annotated[
        str,
        Meta(
            description="A file that exists once the clock is synchronized, for time daemons that tell nobody else. Empty: the kernel is asked, and systemd-timesyncd."
        ),
    ] = ""
    drain_s: Annotated[
        float,
        Meta(
            ge=0,
            le=600,
            description="At stop: how long stages may take to finish what they hold, in seconds. A handler's call that "
            "takes longer (a slow box that writes a summary) is repeated after the start, and counts as an attempt.",
        ),
    ] = 10.0


class Spool(Section, frozen=True):
    """The durable store between the routes and the cloud."""

    max_bytes: Annotated[
        int, Meta(ge=4194304, description="Cap on everything the spool has on disk (database, WAL, journal), in bytes.")
    ] = 268435456
    ballast_bytes: Annotated[
        int,
        Meta(
            ge=0,
            description="Space held ready, within max_bytes, that a full disk is drained with; at most a sixteenth of max_bytes. Nothing new is taken in until it is there again. 0: none.",
        ),
    ] = 1048576
    max_corrupt_kept: Annotated[
        int, Meta(ge=1, description="Damaged spools kept in corrupt-<n>/ beside the spool; the oldest are removed.")
    ] = 3
    commit_window_ms: Annotated[
        float,
        Meta(
            ge=0,
            le=1000,
            description="Group commit: wait this long for more work before writing, in milliseconds. 0: what piled up during the last commit is the group.",
        ),
    ] = 0.0
    max_group: Annotated[int, Meta(ge=1, le=100000, description="Most pieces of work in one transaction.")] = 512
    max_dead_letters: Annotated[
        int, Meta(ge=0, description="Dead letters kept; the oldest are purged (and stay counted).")
    ] = 10000
    max_dead_bytes: Annotated[int, Meta(ge=0, description="Bytes of dead letters kept.")] = 16777216
    seen_messages: Annotated[
        int,
        Meta(
            ge=0,
            le=65535,
            description="Identities of the last messages kept, to recognise what the broker delivers again after a crash.",
        ),
    ] = 8192
    lease_s: Annotated[
        float,
        Meta(gt=0, le=86400, description="A lease that is neither acked nor nacked lapses after this many seconds."),
    ] = 120.0
    loss_report_s: Annotated[
        float,
        Meta(
            gt=0,
            le=86400,
            description="What was lost (evicted, expired, dropped) is reported to a route's sinks as a result of kind `loss`, at most this often, in seconds.",
        ),
    ] = 60.0


class Models(Section, frozen=True):
    """Where model bundles are, and how their sessions run."""

    dir: Annotated[str, Meta(description="Folder of the bundles, one folder each. Relative: beside config.toml.")] = (
        "models"
    )
    threads: Annotated[int, Meta(ge=0, le=256, description="Threads of one ONNX session. 0: one.")] = 0
    llm_threads: Annotated[
        int, Meta(ge=0, le=256, description="Threads of a language model. 0: all cores but one, at least one.")
    ] = 0
    llm_max_threads: Annotated[
        int,
        Meta(
            ge=0,
            le=256,
            description="Threads of all language models that generate at the same time: one that does not fit beside the others waits its turn, and one that has more generates alone. 0: as many as one of them has.",
        ),
    ] = 0
    llm_max_waiting: Annotated[
        int,
        Meta(
            ge=0,
            le=10000,
            description="Calls of one language model that may wait for it, all routes together. Beyond: the one of the lowest route `priority` is refused for now (counted).",
        ),
    ] = 64
    llm_max_waiting_bytes: Annotated[
        int, Meta(ge=0, description="The same limit for the prompts of those that wait, in bytes.")
    ] = 4194304
    llm_max_preemptions: Annotated[
        int,
        Meta(
            ge=0,
            le=100,
            description="How often one call may be ended between two tokens, and begun again later, because a route of a higher `priority` waits. After that it runs to its end. 0: nothing that runs is ended.",
        ),
    ] = 2
    llm_draft_measure_s: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="How long the first load of a language model may take longer, in seconds, to measure whether speculative decoding is faster on this box; the choice is remembered. 0: never used.",
        ),
    ] = 20.0
    llm_max_prefixes: Annotated[
        int,
        Meta(
            ge=1,
            le=1000,
            description="Static beginnings of prompts that a language model keeps computed; beyond it the one asked for first is given up.",
        ),
    ] = 16
    llm_prefix_cache_bytes: Annotated[
        int,
        Meta(
            ge=0,
            description="Disk for those computed beginnings of all models, in bytes (state folder, `cache/llm`), so that a restart does not compute them again. 0: none on disk.",
        ),
    ] = 268435456
    max_resident_bytes: Annotated[
        int,
        Meta(
            ge=0,
            description="Memory that loaded models may take together, in bytes; beyond it those that are in no call are unloaded, the least recently used first, and loaded again when they are called. 0: no limit.",
        ),
    ] = 0
    idle_unload_s: Annotated[
        float,
        Meta(
            ge=0,
            le=604800,
            description="A model that was not called for this long is unloaded, in seconds; the next call loads it again. 0: never.",
        ),
    ] = 0.0
    watch_s: Annotated[
        float,
        Meta(
            ge=0,
            le=86400,
            description="How often to look whether a model in use was replaced by a newer version, in seconds; it is then taken over while running. 0: on SIGHUP alone.",
        ),
    ] = 0.0
    worker_start_s: Annotated[
        float, Meta(gt=0, le=3600, description="How long a worker process may take to load its model, in seconds.")
    ] = 120.0
    worker_memory_bytes: Annotated[
        int, Meta(ge=0, description="Most memory of a worker process (address space), in bytes. 0: no limit of ours.")
    ] = 0
    worker_nice: Annotated[
        int,
        Meta(
            ge=0,
            le=19,
            description="Niceness of worker processes, from 0 to 19: how far a language model steps back for everything else. Added to the daemon's own.",
        ),
    ] = 10
    worker_policy: Annotated[
        Literal["other", "batch", "idle"],
        Meta(
            description="How the kernel schedules worker processes: see sched(7). idle: what nothing else on the box wants, and at once out of the way; a box that is always busy then never gets a summary. batch: as other, and never ahead of what was just woken."
        ),
    ] = "other"
    worker_cpus: Annotated[
        str,
        Meta(
            pattern=r"^([0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*)?\Z",
            description='Cores that worker processes may use, e.g. "1-3" or "2,3". Empty: all that the daemon has.',
        ),
    ] = ""
    worker_restart_max_s: Annotated[
        float,
        Meta(gt=0, le=3600, description="Highest pause before a worker that crashed is started again, in seconds."),
    ] = 60.0
    worker_grace_s: Annotated[
        float,
        Meta(
            gt=0,
            le=600,
            description="A worker that has not answered this long after a call's time-out hangs and is killed, in seconds.",
        ),
    ] = 15.0


class Audit(Section, frozen=True):
    """The audit trail: every decision of routes with tiers, hash-chained. In the state folder, `audit/`."""

    max_file_bytes: Annotated[int, Meta(ge=4096, description="Size at which a new file is begun, in bytes.")] = 4194304
    max_files: Annotated[
        int, Meta(ge=2, le=10000, description="Files kept; the oldest is removed, and the next one says so.")
    ] = 16
    flush_s: Annotated[
        float,
        Meta(gt=0, le=3600, description="A power cut loses at most the decisions of this long, in seconds."),
    ] = 5.0
    max_waiting: Annotated[
        int,
        Meta(
            ge=1,
            le=1000000,
            description="Decisions in memory that are not in the trail yet, as when the disk is full; beyond, new ones are dropped (counted, and told in the trail).",
        ),
    ] = 10000
    max_scores: Annotated[
        int,
        Meta(
            ge=1, le=10000, description="Scores kept of a decision, the highest ones; how many were left out is said."
        ),
    ] = 16
    max_aside: Annotated[
        int,
        Meta(
            ge=1,
            le=1000,
            description="Trails that did not verify at a start are kept in `aside-<n>/`; of more than this the oldest is removed (told in the trail).",
        ),
    ] = 3


class Handlers(Section, frozen=True):
    """Where handlers are looked for beside the entry point group `gatewayd.handlers`."""

    paths: Annotated[
        list[str],
        Meta(description="Python files with site handlers. Refused when others than the owner may write them."),
    ] = field(default_factory=list)


class Telemetry(Section, frozen=True):
    """OpenTelemetry."""

    otlp_endpoint: Annotated[
        str | None,
        Meta(
            description="Base URL of an OTLP/HTTP receiver, e.g. http://127.0.0.1:4318. Unset: $OTEL_EXPORTER_OTLP_ENDPOINT, else nothing is sent."
        ),
    ] = None
    traces: Annotated[bool, Meta(description="Send traces, where there is an endpoint.")] = True
    metrics: Annotated[bool, Meta(description="Send metrics, where there is an endpoint.")] = True
    metrics_every_s: Annotated[float, Meta(gt=0, le=86400, description="How often metrics are sent, in seconds.")] = (
        60.0
    )
    max_links: Annotated[int, Meta(ge=0, le=1000, description="Most messages a batch's span is linked to.")] = 16
    join_publisher: Annotated[
        bool,
        Meta(
            description="Where all messages of a batch carry the same trace context, its span joins that trace: one trace from the device to the cloud's answer. false: it is linked alone, as OpenTelemetry's conventions prefer."
        ),
    ] = False


class Log(Section, frozen=True):
    """What is logged, and how."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="Least level that is logged.")] = (
        "info"
    )
    format: Annotated[
        Literal["auto", "json", "console"], Meta(description="auto: coloured on a terminal, JSON otherwise (journald).")
    ] = "auto"
    repeat_s: Annotated[
        float,
        Meta(
            ge=0,
            le=86400,
            description="The same failure is logged again after this many seconds at the earliest; the count of those left out goes with it.",
        ),
    ] = 30.0
    repeat_burst: Annotated[
        int,
        Meta(
            ge=1,
            le=100000,
            description="Warnings and errors of the same event, route and sink that are logged within repeat_s; further ones are left out and counted.",
        ),
    ] = 5


class Config(Section, frozen=True):
    """config.toml."""

    gateway: Gateway = field(default_factory=Gateway)
    source: Source = field(default_factory=Source)
    routes: Annotated[dict[str, Route], Meta(description="One table a route: [routes.<name>].")] = field(
        default_factory=dict
    )
    sinks: Annotated[dict[str, Sink], Meta(description="One table a sink: [sinks.<name>].")] = field(
        default_factory=dict
    )
    tiers: Annotated[dict[str, Tier], Meta(description="One table a tier of a cascade: [tiers.<name>].")] = field(
        default_factory=dict
    )
    spool: Spool = field(default_factory=Spool)
    audit: Audit = field(default_factory=Audit)
    models: Models = field(default_factory=Models)
    board: Board = field(default_factory=Board)
    handlers: Handlers = field(default_factory=Handlers)
    telemetry: Telemetry = field(default_factory=Telemetry)
    web: Web = field(default_factory=Web)
    homeassistant: HomeAssistant = field(default_factory=HomeAssistant)
    log: Log = field(default_factory=Log)
