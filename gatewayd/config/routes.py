"""Config of routes: topic filters, payload, batch or window, handler, and where results go.

What of it leaves the gateway is said in `sinks`, and nowhere else.
"""

# ruff: noqa: E501 - a description is one sentence on one line, so that it reads as prose

from typing import Annotated, Any, Literal

from msgspec import Meta, field

from gatewayd.config.links import Section
from gatewayd.config.tiers import Escalation


class Sparkplug(Section, frozen=True):
    """With `format = "sparkplug"`: what is kept of edge nodes, and when their births are asked for."""

    max_edge_nodes: Annotated[
        int,
        Meta(
            ge=1,
            le=100000,
            description="Edge nodes whose births are kept; beyond, the one silent for longest is forgotten (counted).",
        ),
    ] = 256
    max_metrics: Annotated[
        int,
        Meta(
            ge=1,
            le=1000000,
            description="Metrics kept of one edge node with its devices; the data of one that has more become dead letters.",
        ),
    ] = 10000
    rebirth: Annotated[
        bool,
        Meta(
            description="Ask an edge node for its births (NCMD `Node Control/Rebirth`) when a message is missing, or a name is not known. The route's user must be allowed to publish that."
        ),
    ] = True
    rebirth_s: Annotated[
        float, Meta(gt=0, le=86400, description="One edge node is asked no more often than this, in seconds.")
    ] = 30.0


class Payload(Section, frozen=True):
    """How a route's payloads are decoded. What does not decode becomes a dead letter with its reason."""

    format: Annotated[
        Literal["auto", "json", "text", "number", "cbor", "msgpack", "csv", "sparkplug"],
        Meta(
            description="`auto` follows the content type and else tries JSON, then a number, then UTF-8 text. sparkplug: Sparkplug B, see docs/guides/sparkplug.md."
        ),
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
    sparkplug: Sparkplug = field(default_factory=Sparkplug)


class BatchLimits(Section, frozen=True):
    """When a batch is cut: by count or by the age of its first message, whichever comes first."""

    max_messages: Annotated[int, Meta(ge=1, le=100000, description="Most messages in a batch.")] = 256
    max_age_ms: Annotated[
        float,
        Meta(ge=0, le=60000, description="Longest wait for a batch to fill, in milliseconds. 0: take what is there."),
    ] = 0.0
    budget_ms: Annotated[
        float,
        Meta(
            ge=0,
            le=60000,
            description="Longest time from a message's arrival to its answer, in milliseconds, by which a direct route cuts its batches: no longer wait and no more messages than the handler can answer in what is left for the first. A message that is late all the same is answered, and counted. 0: none.",
        ),
    ] = 0.0


class WindowLimits(Section, frozen=True):
    """What belongs together in time. Its presence makes the route journaled."""

    every_s: Annotated[
        Annotated[float, Meta(ge=0.001)] | None,
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
    max_ahead_s: Annotated[
        float,
        Meta(
            ge=0,
            description="With the payload's own time: a time further than this ahead of the arrival is not believed, the time of arrival counts instead, in seconds.",
        ),
    ] = 3600.0
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
    handler: Annotated[
        str, Meta(description="Name of the handler; `gatewayd handlers` lists them. Empty where the route has `tiers`.")
    ] = ""
    tiers: Annotated[
        list[str],
        Meta(
            description="Instead of a handler: tiers from small to large, the next one asked where the one before is not sure. The first is a handler that answers in milliseconds."
        ),
    ] = field(default_factory=list)
    escalation: Escalation = field(default_factory=Escalation)
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
    max_queue_bytes: Annotated[
        int, Meta(ge=1, description="The same limit for the payloads that wait in memory, in bytes.")
    ] = 67108864
    deadline_s: Annotated[
        Annotated[float, Meta(gt=0, le=31536000)] | None,
        Meta(
            description="An answer is worth nothing after so long, in seconds since the message arrived: one whose turn comes later is buried with the reason `deadline`, and a language model that it asks gets no more time than what is left. Of a window its last message counts. Unset: for ever."
        ),
    ] = None
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
    parallel: Annotated[
        int,
        Meta(
            ge=1,
            le=64,
            description="How many windows, or messages of different topics, are handled at once, each by an instance of the handler of its own: those of one key by the same one and in order. For a journaled route whose language model has as many slots (`session.parallel` in its model.toml).",
        ),
    ] = 1
    max_call_s: Annotated[
        Annotated[float, Meta(gt=0, le=86400)] | None,
        Meta(
            description="A handler that has not come back from a call after this long hangs, in seconds: the watchdog ends the process, and what it hung on is tried alone. Unset: 60 on a direct route, 1800 on a journaled one."
        ),
    ] = None
    when_full: Annotated[
        Literal["evict_oldest", "evict_lowest_priority", "thin", "block"],
        Meta(
            description="When this route needs room at the spool's cap, of routes with its priority or a lower one: evict_oldest takes the oldest results, evict_lowest_priority those of the lowest priority first; thin replaces its own oldest results by aggregates, and is thinned, not evicted, for others too; block: this route loses nothing, and its QoS 1 messages wait. All counted. A gateway that stops acknowledging for long harms every publisher on the bus."
        ),
    ] = "evict_oldest"
    priority: Annotated[
        int,
        Meta(
            ge=0,
            le=9,
            description="What is lost first when there is not room for all: 0 first, 9 last. Nothing is lost for a route of a lower priority; `when_full` says how. It is also the order in which routes get a language model they share.",
        ),
    ] = 4
    ttl_s: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(
            description="How long this route's results and journaled messages matter, in seconds; older ones expire (counted), whatever the wall clock says, time that the gateway is switched off included where its clock is synchronized before and after. A row may expire late by a hundredth of it (at least 1 s, at most a minute), and never early. Unset: for ever."
        ),
    ] = None
    drain: Annotated[
        Literal["oldest_first", "live_first"],
        Meta(
            description="After an outage: oldest_first keeps strict order; live_first sends what is new at once and what waited beside it, each in order."
        ),
    ] = "oldest_first"
    write: Annotated[
        Literal["always", "when_offline"],
        Meta(
            description="when_offline spares flash: while every sink confirms, results stay in memory and a power cut loses at most `write_max_s` or `write_max_results` of them. always: nothing acknowledged is lost."
        ),
    ] = "always"
    write_max_s: Annotated[
        float, Meta(gt=0, le=3600, description='With write = "when_offline": longest stay in memory alone, in seconds.')
    ] = 5.0
    write_max_results: Annotated[
        int, Meta(ge=1, le=100000, description='With write = "when_offline": most results in memory alone.')
    ] = 1000
