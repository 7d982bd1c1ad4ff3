"""Config of tiers: the models of a cascade, from small to large. The key `type` says what kind a table is.

A route names its tiers in `tiers`, instead of a handler; what may be escalated is said in its `escalation`.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, field

from gatewayd.config.links import Secret, Section, Tls

Accept = Annotated[
    Annotated[float, Meta(ge=0, le=1)] | None,
    Meta(
        description="Confidence from which on this tier's answer is taken. Unset: what `gatewayd models calibrate` "
        "wrote into the bundle, else 0.9. The last tier's answer is always taken."
    ),
]
MaxCalls = Annotated[int, Meta(ge=0, description="Most calls a day (UTC). 0: no limit.")]
MaxTokens = Annotated[int, Meta(ge=0, description="Most tokens a day, prompt and answer. 0: no limit.")]
MaxBytes = Annotated[int, Meta(ge=0, description="Most bytes a day on the wire, both ways. 0: no limit.")]
MaxCost = Annotated[float, Meta(ge=0, description="Most money a day, in the unit of cost_*. 0: no limit.")]
Timeout = Annotated[float, Meta(gt=0, le=600, description="How long one request may take, in seconds.")]


class HandlerTier(Section, frozen=True, tag_field="type", tag="handler"):
    """A handler on this gateway that answers with `label` and `scores`."""

    handler: Annotated[str, Meta(min_length=1, description="Name of the handler; `gatewayd handlers` lists them.")]
    options: Annotated[dict[str, Any], Meta(description="The handler's own options.")] = field(default_factory=dict)
    accept: Accept = None
    max_novelty: Annotated[
        float,
        Meta(
            ge=0,
            description="An input further than this from those the confidence was fitted on is handed on, however sure "
            "the tier is; 1 is the far edge of that set. 0: no guard.",
        ),
    ] = 1.0
    abstain: Annotated[
        Annotated[list[float], Meta(min_length=2, max_length=2)] | None,
        Meta(description="Of two labels: a score of the second one between these bounds is handed on. Unset: no band."),
    ] = None


class RemoteTier(Section, frozen=True):
    """What every tier outside of this box has."""

    place: Annotated[
        Literal["site", "cloud"],
        Meta(
            description="Where it computes: in the same building, or beyond. A route's `privacy` decides who is asked."
        ),
    ] = "cloud"
    accept: Accept = None
    timeout_s: Timeout = 30.0
    max_batch: Annotated[
        int,
        Meta(ge=1, le=1000, description="Most questions in one request; where it takes one alone, requests at once."),
    ] = 16
    max_answer_bytes: Annotated[
        int, Meta(ge=1024, le=67108864, description="Largest answer to a request, in bytes; a larger one is no answer.")
    ] = 1048576
    max_calls_per_day: MaxCalls = 0
    max_tokens_per_day: MaxTokens = 0
    max_bytes_per_day: MaxBytes = 0
    max_cost_per_day: MaxCost = 0.0
    cost_per_call: Annotated[float, Meta(ge=0, description="Price of a question.")] = 0.0
    cost_per_1k_tokens_in: Annotated[float, Meta(ge=0, description="Price of a thousand tokens of prompt.")] = 0.0
    cost_per_1k_tokens_out: Annotated[float, Meta(ge=0, description="Price of a thousand tokens of answer.")] = 0.0
    retry_max_s: Annotated[
        float, Meta(gt=0, le=86400, description="Highest ceiling of the delay between attempts, in seconds.")
    ] = 300.0
    recall: Annotated[
        Literal["off", "exact", "template"],
        Meta(
            description="Whether what was answered before is asked again. exact: not the same value of the same topic; "
            "template: not a text that differs in numbers alone, so not where a number decides. off: always."
        ),
    ] = "off"
    max_recalled: Annotated[int, Meta(ge=1, le=1000000, description="Answers remembered for `recall`.")] = 4096
    max_recall_age_s: Annotated[
        float, Meta(gt=0, description="An answer older than this is asked for again, in seconds.")
    ] = 604800.0
    token: Annotated[Secret | None, Meta(description="Sent as `Authorization: Bearer …`.")] = None
    tls: Annotated[Tls | None, Meta(description="Own certificate authority, mutual TLS.")] = None


class OpenAITier(RemoteTier, frozen=True, kw_only=True, tag_field="type", tag="openai"):
    """An OpenAI-compatible server: a neighbor's llama.cpp, vLLM, or a provider."""

    url: Annotated[str, Meta(pattern=r"^https?://", description="Base URL, e.g. http://box:8080/v1.")]
    model: Annotated[str, Meta(min_length=1, description="Name of the model there.")]
    labels: Annotated[
        dict[str, str],
        Meta(min_length=2, max_length=26, description="The labels to choose from, each with what it means, or empty."),
    ]
    endpoint: Annotated[
        Literal["chat", "completions"],
        Meta(description="`completions` suits base models, and servers whose chat tells no probabilities."),
    ] = "chat"
    instruction: Annotated[str, Meta(max_length=4000, description="What the model is told before the text.")] = (
        "Which of these labels fits the text best?"
    )
    max_chars: Annotated[int, Meta(ge=16, le=1000000, description="Characters sent of a text.")] = 4000


class KServeTier(RemoteTier, frozen=True, kw_only=True, tag_field="type", tag="kserve"):
    """A KServe v2 inference server over HTTP: Triton, OpenVINO, MLServer."""

    url: Annotated[str, Meta(pattern=r"^https?://", description="Base URL, e.g. http://box:8000.")]
    model: Annotated[str, Meta(min_length=1, description="Name of the model there.")]
    version: Annotated[str, Meta(description="Version of the model there. Empty: the server's choice.")] = ""
    labels: Annotated[list[str], Meta(min_length=2, description="Labels in the order of the model's scores.")]
    input: Annotated[
        str,
        Meta(
            description="Name of the input tensor. Empty: the only one; where there are several, what is sent has a "
            "key of each name."
        ),
    ] = ""
    scores: Annotated[
        Literal["probabilities", "logits"],
        Meta(description="What the output holds. Of two labels one number may be there: that of the second."),
    ] = "probabilities"
    output: Annotated[str, Meta(description="Name of the output tensor with the scores. Empty: the only one.")] = ""
    field: Annotated[
        str, Meta(description="Path of the number, list or text that is sent. Empty: the value as a whole.")
    ] = ""


class HttpTier(RemoteTier, frozen=True, kw_only=True, tag_field="type", tag="http"):
    """A service of your own: questions as a CloudEvents batch by POST, verdicts as JSON in the answer."""

    url: Annotated[str, Meta(pattern=r"^https?://", description="Where questions are posted.")]


Tier = HandlerTier | OpenAITier | KServeTier | HttpTier


class Escalation(Section, frozen=True):
    """What a route may hand on to tiers that are slow or outside of this box, and for how long it waits."""

    privacy: Annotated[
        Literal["local", "site", "cloud"],
        Meta(
            description="How far a payload may go, whatever the score: local never leaves this box, site goes to tiers "
            'with place = "site", cloud to all.'
        ),
    ] = "local"
    redact: Annotated[
        list[str],
        Meta(
            description="What is blacked out before a payload leaves: regular expressions, or the names email, ip, "
            "mac, uuid, phone, card, iban, number."
        ),
    ] = field(default_factory=list)
    redact_max_chars: Annotated[
        int,
        Meta(ge=64, description="Where `redact` is set, a longer text does not leave, in characters: `[too long]`."),
    ] = 32768
    max_latency_ms: Annotated[
        float,
        Meta(ge=0, description="A tier whose answers usually take longer than this is not asked, in ms. 0: no limit."),
    ] = 0.0
    max_age_s: Annotated[
        float,
        Meta(
            gt=0,
            description="An escalation that waited this long is settled with the local answer, in seconds. "
            "Also see `ttl_s`.",
        ),
    ] = 86400.0
    when_spent: Annotated[
        Literal["settle", "wait"],
        Meta(description="A tier's budget of the day is spent: take the local answer, or wait for the next day."),
    ] = "settle"
    max_waiting: Annotated[
        int,
        Meta(
            ge=1,
            le=10000000,
            description="Most escalations of this route that wait; beyond, the local answer is taken.",
        ),
    ] = 100000
    lessons: Annotated[
        bool,
        Meta(description="Keep what higher tiers answered, with the payload, on this box: `gatewayd models distill`."),
    ] = False
    max_lessons_bytes: Annotated[int, Meta(ge=0, description="Bytes of lessons kept; the oldest go.")] = 16777216
    audit: Annotated[bool, Meta(description="Write every decision into the audit trail.")] = True
