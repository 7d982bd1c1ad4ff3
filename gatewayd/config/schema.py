"""The typed tree of config.toml. A field's annotation is its documentation: reference and example are made from it.

Durations end in `_s` or `_ms`, sizes in `_bytes`, counts start with `max_`. A field without a default is required.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, field


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of config.toml."""


class Secret(Section, frozen=True):
    """A value that is never in config.toml: read from a file (`$CREDENTIALS_DIRECTORY` first) or the environment."""

    file: Annotated[
        str | None,
        Meta(
            description="File that holds the secret. A bare name is looked up in $CREDENTIALS_DIRECTORY, then beside config.toml."
        ),
    ] = None
    env: Annotated[str | None, Meta(description="Environment variable that holds the secret.")] = None


class Gateway(Section, frozen=True):
    """This machine."""

    id: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
            description="Name of this gateway: in topics, in the source of every result, in the MQTT client id. Empty is not allowed; `hostname` takes the machine's host name.",
        ),
    ] = "hostname"
    state_dir: Annotated[
        str,
        Meta(
            description="Folder of the spool. Empty: $STATE_DIRECTORY (systemd), else $XDG_STATE_HOME/gatewayd, else ~/.local/state/gatewayd."
        ),
    ] = ""
    drain_s: Annotated[
        float, Meta(ge=0, le=600, description="At stop: how long stages may take to finish what they hold, in seconds.")
    ] = 10.0


class Tls(Section, frozen=True):
    """Transport security towards a broker or a cloud."""

    ca_file: Annotated[
        str | None, Meta(description="PEM file of the certificate authorities to trust. Unset: the system's.")
    ] = None
    cert_file: Annotated[str | None, Meta(description="PEM file of our own certificate chain (mutual TLS).")] = None
    key_file: Annotated[str | None, Meta(description="PEM file of our own private key (mutual TLS).")] = None
    server_name: Annotated[
        str | None, Meta(description="Name the far side's certificate must carry, when it is not the host's.")
    ] = None
    insecure: Annotated[
        bool, Meta(description="Accept any certificate. For a bench, never for a gateway in the field.")
    ] = False


class Reconnect(Section, frozen=True):
    """How to come back after the connection was lost. The delay is drawn from 0 to the current ceiling (full jitter)."""

    initial_s: Annotated[float, Meta(gt=0, le=60, description="Ceiling of the first delay, in seconds.")] = 1.0
    max_s: Annotated[float, Meta(gt=0, le=3600, description="Highest ceiling of a delay, in seconds.")] = 60.0
    stable_s: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="A connection must last this long, in seconds, before the ceiling goes back to the first.",
        ),
    ] = 30.0


class Broker(Section, frozen=True):
    """How to reach an MQTT broker."""

    host: Annotated[str, Meta(description="Host name or address of the broker.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535, description="TCP port: 1883 is usual, 8883 with TLS.")] = 1883
    unix_socket: Annotated[str | None, Meta(description="Path of a Unix socket to use instead of host and port.")] = (
        None
    )
    protocol: Annotated[
        Literal["5", "3.1.1"],
        Meta(description="MQTT version. 3.1.1 has no user properties: no trace context, no content type."),
    ] = "5"
    username: Annotated[str | None, Meta(description="User name, where the broker wants one.")] = None
    password: Annotated[Secret | None, Meta(description="Password, from a file or the environment.")] = None
    client_id: Annotated[
        str,
        Meta(
            max_length=128,
            description="Stable MQTT client id; the broker keeps our mqtt_session under it. Empty: gatewayd-<gateway>.",
        ),
    ] = ""
    keepalive_s: Annotated[
        int,
        Meta(
            ge=2,
            le=3600,
            description="Seconds of silence after which a ping is due; half as long again without an answer and the link counts as dead.",
        ),
    ] = 20
    connect_timeout_s: Annotated[
        float, Meta(gt=0, le=300, description="How long a connection attempt may take, in seconds.")
    ] = 15.0
    session_expiry_s: Annotated[
        int,
        Meta(
            ge=0,
            le=4294967295,
            description="How long the broker keeps our mqtt_session while we are away, in seconds (MQTT 5).",
        ),
    ] = 604800
    tls: Annotated[Tls | None, Meta(description="Transport security; the table's presence switches it on.")] = None
    reconnect: Reconnect = field(default_factory=Reconnect)


class Source(Broker, frozen=True):
    """The local bus: where messages come from and live results go."""

    adapter: Annotated[
        Literal["mqttium", "aiomqtt"],
        Meta(
            description="MQTT client. aiomqtt acknowledges before our code runs: a crash may lose what was in flight."
        ),
    ] = "mqttium"
    share_group: Annotated[
        Annotated[str, Meta(pattern=r"^[^/+#]+$")] | None,
        Meta(
            description="Shared subscription group ($share/<group>/…): several gatewayds with the same group split the load.",
        ),
    ] = None
    max_payload_bytes: Annotated[
        int,
        Meta(ge=1, le=268435455, description="Larger payloads become dead letters (their first bytes kept), in bytes."),
    ] = 1048576
    max_waiting_messages: Annotated[
        int,
        Meta(
            ge=1,
            le=1000000,
            description="Messages read from the socket and not yet taken by intake. When full, the socket is left unread.",
        ),
    ] = 4096
    max_waiting_bytes: Annotated[int, Meta(ge=1024, description="The same, in bytes of payload.")] = 16777216
    status_topic: Annotated[
        bool, Meta(description="Publish a retained birth and set a retained Last Will on gatewayd/<gateway>/status.")
    ] = True


class Payload(Section, frozen=True):
    """How a route's payloads are decoded. What does not decode becomes a dead letter with its reason."""

    format: Annotated[
        Literal["auto", "json", "text", "number", "cbor", "msgpack", "csv"],
        Meta(description="`auto` follows the content type and else tries JSON, then a number, then UTF-8 text."),
    ] = "auto"
    fields: Annotated[
        dict[str, str],
        Meta(
            description='New value made of paths into the decoded one, e.g. {temperature = "data.temp", device = "meta.ids[0]"}; `$topic[1]` is the second level of the topic. Empty: the value as it is.'
        ),
    ] = field(default_factory=dict)
    optional: Annotated[
        list[str],
        Meta(
            description="Names of `fields` that may be missing; they are left out. Any other missing field makes a dead letter."
        ),
    ] = field(default_factory=list)
    columns: Annotated[list[str], Meta(description="Names of the columns of a CSV line, in order.")] = field(
        default_factory=list
    )
    delimiter: Annotated[
        str, Meta(min_length=1, max_length=1, description="What separates the columns of a CSV line.")
    ] = ","
    time: Annotated[
        str | None,
        Meta(
            description="Path of the message's own time: seconds or milliseconds since the epoch, or ISO 8601. Unset: time of arrival."
        ),
    ] = None
    id: Annotated[
        str | None,
        Meta(
            description="Path of the message's own id, for stable result ids. Unset: the publisher's CloudEvents id, else one of ours."
        ),
    ] = None
    max_bytes: Annotated[int, Meta(ge=1, description="Largest payload after decompression, in bytes.")] = 4194304
    max_depth: Annotated[int, Meta(ge=1, le=500, description="Deepest nesting of a decoded payload.")] = 64


class BatchLimits(Section, frozen=True):
    """When a batch is cut: by count or by the age of its first message, whichever comes first."""

    max_messages: Annotated[int, Meta(ge=1, le=100000, description="Most messages in a batch.")] = 256
    max_age_ms: Annotated[
        float,
        Meta(ge=0, le=60000, description="Longest wait for a batch to fill, in milliseconds. 0: take what is there."),
    ] = 0.0


class WindowLimits(Section, frozen=True):
    """What belongs together in time. Its presence makes the route journaled."""

    every_s: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(
            description="Length of a window, in seconds; windows are aligned to the epoch. Unset: cut by count alone.",
        ),
    ] = None
    max_messages: Annotated[
        int, Meta(ge=1, le=100000, description="A window is closed early when it holds this many messages.")
    ] = 1000
    max_bytes: Annotated[
        int, Meta(ge=1, description="A window is closed early when its payloads reach this many bytes.")
    ] = 1048576
    key: Annotated[
        str,
        Meta(
            description='One window for each: "" = the whole route, "topic" = each topic, any other = a path into the decoded value, e.g. "device".'
        ),
    ] = ""
    grace_s: Annotated[
        float, Meta(ge=0, description="How long after its end a window stays open for late messages, in seconds.")
    ] = 0.0
    late: Annotated[
        Literal["next", "drop", "bury"],
        Meta(
            description="A message whose window is already closed: goes into the next one (counted in it), is dropped (counted), or buried."
        ),
    ] = "next"
    idle_close_s: Annotated[
        float,
        Meta(
            gt=0,
            description="With the payload's own time: close windows when nothing has arrived for this long, in seconds of the wall clock.",
        ),
    ] = 60.0
    max_open: Annotated[
        int,
        Meta(
            ge=1,
            le=1000000,
            description="Most windows open at once in a route; when one more is needed the oldest is closed early.",
        ),
    ] = 1000


class Route(Section, frozen=True):
    """Topic filters, a handler, and where its results go."""

    topics: Annotated[
        list[str], Meta(min_length=1, description='MQTT topic filters, e.g. ["plant/+/vibration", "logs/#"].')
    ]
    handler: Annotated[str, Meta(min_length=1, description="Name of the handler; `gatewayd handlers` lists them.")]
    options: Annotated[
        dict[str, Any], Meta(description="The handler's own options: see handlers/README.md and `gatewayd handlers`.")
    ] = field(default_factory=dict)
    enabled: Annotated[bool, Meta(description="false: the route is left out.")] = True
    qos: Annotated[Literal[0, 1], Meta(description="QoS of the subscription. Only 1 is kept over a crash.")] = 1
    mode: Annotated[
        Literal["auto", "direct", "journaled"],
        Meta(
            description="direct: acknowledged when its results are on disk. journaled: acknowledged when the raw message is. auto: as the handler says."
        ),
    ] = "auto"
    payload: Payload = field(default_factory=Payload)
    batch: BatchLimits = field(default_factory=BatchLimits)
    window: Annotated[WindowLimits | None, Meta(description="Cut windows instead of batches.")] = None
    live: Annotated[
        bool, Meta(description="Publish each result at once on the local bus, gatewayd/<gateway>/results/<route>.")
    ] = True
    live_qos: Annotated[Literal[0, 1], Meta(description="QoS of live results.")] = 0
    sinks: Annotated[
        list[str], Meta(description="Sinks that get the results through the spool. Empty: they stay on the local bus.")
    ] = field(default_factory=list)
    include_input: Annotated[
        bool, Meta(description="Put the message's payload into the result as `input`. Private by default: off.")
    ] = False
    max_queue: Annotated[
        int,
        Meta(
            ge=1,
            le=1000000,
            description="Messages waiting in memory for this route. When full, QoS 0 drops its oldest (counted) and QoS 1 holds the source back.",
        ),
    ] = 4096
    max_attempts: Annotated[
        int,
        Meta(ge=1, le=100, description="A message is buried after this many attempts, crashes of the process counted."),
    ] = 3
    retry_s: Annotated[
        float,
        Meta(
            gt=0,
            le=3600,
            description="Longest pause before a handler that failed for a passing reason is called again, in seconds.",
        ),
    ] = 30.0
    when_full: Annotated[
        Literal["evict_oldest", "block"],
        Meta(
            description="At the spool's cap: evict the oldest results (counted), or hold QoS 1 back. A gateway that stops acknowledging for long harms every publisher on the bus."
        ),
    ] = "evict_oldest"


class HttpSink(Section, frozen=True, tag_field="type", tag="http"):
    """CloudEvents batches by HTTP POST."""

    url: Annotated[str, Meta(pattern=r"^https?://", description="Where batches are posted.")]
    max_batch: Annotated[int, Meta(ge=1, le=10000, description="Most results in one request.")] = 256
    max_batch_bytes: Annotated[int, Meta(ge=1024, description="Most bytes of results in one request.")] = 524288
    timeout_s: Annotated[float, Meta(gt=0, le=600, description="How long one request may take, in seconds.")] = 30.0
    gzip_above_bytes: Annotated[int, Meta(ge=0, description="Bodies larger than this are compressed, in bytes.")] = 1024
    headers: Annotated[
        dict[str, str], Meta(description="More headers for each request. Secrets do not belong here: see `token`.")
    ] = field(default_factory=dict)
    token: Annotated[Secret | None, Meta(description="Sent as `Authorization: Bearer …`.")] = None
    tls: Annotated[Tls | None, Meta(description="Own certificate authority, mutual TLS.")] = None
    retry_max_s: Annotated[
        float,
        Meta(
            gt=0,
            le=86400,
            description="Highest ceiling of the delay between attempts, in seconds (full jitter). Retried for ever.",
        ),
    ] = 300.0


class MqttSink(Broker, frozen=True, tag_field="type", tag="mqtt"):
    """CloudEvents on another broker: binary mode on MQTT 5, structured JSON on 3.1.1."""

    topic: Annotated[
        str, Meta(min_length=1, description="Topic to publish to; {gateway}, {route} and {kind} are filled in.")
    ] = "gateways/{gateway}/{route}"
    qos: Annotated[Literal[1], Meta(description="1: a result is delivered when the broker acknowledged it.")] = 1
    max_batch: Annotated[int, Meta(ge=1, le=10000, description="Most results in flight at once.")] = 256
    max_batch_bytes: Annotated[int, Meta(ge=1024, description="Most bytes of results in flight at once.")] = 524288
    timeout_s: Annotated[
        float, Meta(gt=0, le=600, description="How long the broker may take to acknowledge, in seconds.")
    ] = 30.0
    retry_max_s: Annotated[
        float,
        Meta(
            gt=0,
            le=86400,
            description="Highest ceiling of the delay between attempts, in seconds (full jitter). Retried for ever.",
        ),
    ] = 300.0


class FileSink(Section, frozen=True, tag_field="type", tag="file"):
    """One CloudEvent a line (NDJSON) in files that rotate by size."""

    path: Annotated[
        str,
        Meta(
            min_length=1,
            description="File to append to; a relative one lies in the state folder. `-` is standard output.",
        ),
    ]
    max_file_bytes: Annotated[int, Meta(ge=4096, description="Size at which a new file is begun, in bytes.")] = 16777216
    max_files: Annotated[
        int,
        Meta(
            ge=1,
            le=10000,
            description="Files kept, the current one included; the oldest is removed (its results were delivered).",
        ),
    ] = 8
    max_batch: Annotated[int, Meta(ge=1, le=10000, description="Most results in one write.")] = 256
    max_batch_bytes: Annotated[int, Meta(ge=1024, description="Most bytes of results in one write.")] = 524288
    timeout_s: Annotated[float, Meta(gt=0, le=600, description="How long one write may take, in seconds.")] = 30.0
    retry_max_s: Annotated[
        float,
        Meta(
            gt=0,
            le=86400,
            description="Highest ceiling of the delay between attempts, in seconds (full jitter). Retried for ever.",
        ),
    ] = 60.0


Sink = HttpSink | MqttSink | FileSink


class Spool(Section, frozen=True):
    """The durable store between the routes and the cloud."""

    max_bytes: Annotated[
        int, Meta(ge=4194304, description="Cap on everything the spool has on disk (database, WAL, journal), in bytes.")
    ] = 268435456
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


class Models(Section, frozen=True):
    """Where model bundles are, and how their sessions run."""

    dir: Annotated[str, Meta(description="Folder of the bundles, one folder each. Relative: beside config.toml.")] = (
        "models"
    )
    threads: Annotated[int, Meta(ge=0, le=256, description="Threads of one ONNX session. 0: one.")] = 0
    llm_threads: Annotated[
        int, Meta(ge=0, le=256, description="Threads of a language model. 0: all cores but one, at least one.")
    ] = 0
    worker_start_s: Annotated[
        float, Meta(gt=0, le=3600, description="How long a worker process may take to load its model, in seconds.")
    ] = 120.0
    worker_memory_bytes: Annotated[
        int, Meta(ge=0, description="Most memory of a worker process (address space), in bytes. 0: no limit of ours.")
    ] = 0
    worker_restart_max_s: Annotated[
        float,
        Meta(gt=0, le=3600, description="Highest pause before a worker that crashed is started again, in seconds."),
    ] = 60.0


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


class Web(Section, frozen=True):
    """The local HTTP endpoints /metrics, /healthz, /readyz and /status."""

    enabled: Annotated[bool, Meta(description="false: no HTTP at all.")] = True
    host: Annotated[
        str, Meta(description="Address to listen on. Anything but loopback shows your data to the network.")
    ] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="Port to listen on. 0: any free one.")] = 8686


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
    spool: Spool = field(default_factory=Spool)
    models: Models = field(default_factory=Models)
    handlers: Handlers = field(default_factory=Handlers)
    telemetry: Telemetry = field(default_factory=Telemetry)
    web: Web = field(default_factory=Web)
    log: Log = field(default_factory=Log)
