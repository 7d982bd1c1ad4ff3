"""Config of sinks: where results go. The key `type` says which of them a table is."""

from typing import Annotated, Literal

from msgspec import Meta, field

from gatewayd.config.links import Broker, Secret, Section, Tls

# What every sink has in common, said once.
RetryCeiling = Annotated[
    float,
    Meta(
        gt=0,
        le=86400,
        description="Highest ceiling of the delay between attempts, in seconds (full jitter). Retried for ever.",
    ),
]
ResultsPerSecond = Annotated[float, Meta(ge=0, description="Most results sent in a second, on average. 0: no limit.")]
BytesPerSecond = Annotated[
    float, Meta(ge=0, description="Most bytes sent in a second, on average, as they are on the wire. 0: no limit.")
]
BytesPerMonth = Annotated[
    int,
    Meta(
        ge=0,
        description="Most bytes sent in a month, for metered links; then the sink waits for the next. 0: no limit.",
    ),
]
MonthStart = Annotated[
    int, Meta(ge=1, le=28, description="Day (UTC) on which the month of max_bytes_per_month begins.")
]


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
    retry_max_s: RetryCeiling = 300.0
    refused_wait_s: Annotated[
        float,
        Meta(
            ge=0,
            le=604800,
            description="How long results wait, in seconds, when the far side refuses every one of them (a wrong URL, "
            "say) and not some. Then they become dead letters.",
        ),
    ] = 3600.0
    max_results_per_s: ResultsPerSecond = 0.0
    max_bytes_per_s: BytesPerSecond = 0.0
    max_bytes_per_month: BytesPerMonth = 0
    month_starts_on: MonthStart = 1


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
    retry_max_s: RetryCeiling = 300.0
    max_results_per_s: ResultsPerSecond = 0.0
    max_bytes_per_s: BytesPerSecond = 0.0
    max_bytes_per_month: BytesPerMonth = 0
    month_starts_on: MonthStart = 1


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
    retry_max_s: RetryCeiling = 60.0
    max_results_per_s: ResultsPerSecond = 0.0
    max_bytes_per_s: BytesPerSecond = 0.0
    max_bytes_per_month: BytesPerMonth = 0
    month_starts_on: MonthStart = 1


Sink = HttpSink | MqttSink | FileSink
