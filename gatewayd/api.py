"""All that a handler author may import. What is here changes with a major version only.

A handler answers batches of messages. It is a plain class on a plain thread: no asyncio, no clock (`batch.now`), no
network, no files but those of the models it asks for. See handlers/README.md for the first one in ten minutes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import msgspec

from gatewayd.errors import ConfigError, ModelError, RejectedError, TransientError, WorkerCrashed

API_VERSION = 1

__all__ = [
    "API_VERSION",
    "Batch",
    "Completion",
    "ConfigError",
    "GivesEvidence",
    "Handler",
    "LabelScores",
    "Message",
    "Model",
    "ModelError",
    "Models",
    "RejectedError",
    "Rejection",
    "Result",
    "TakesOver",
    "TellsStats",
    "TensorSession",
    "TextSession",
    "TransientError",
    "Window",
    "WorkerCrashed",
]


class Message(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One received datum, decoded as its route says."""

    topic: str
    value: Any  # what the payload decoded to: a mapping (JSON, CBOR, MessagePack, CSV), a str, or a float
    time: float  # seconds since the epoch: the payload's own time where the route maps one, else time of arrival
    key: str  # stable identity of the message; the same again when the broker redelivers it
    payload: bytes = b""  # as it came, for handlers that want the bytes


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """What belongs together in time, when the route has `window` set."""

    key: str  # the topic or the field the window is kept by; "" when there is one for the whole route
    start: float  # seconds since the epoch, inclusive
    end: float  # seconds since the epoch, exclusive; for windows cut by count the time of the last message
    late: int = 0  # messages that arrived after their own window had closed and were put here


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Messages handled together: cut by count or age, or a closed window."""

    route: str
    messages: Sequence[Message]
    now: float  # seconds since the epoch: the only clock a handler reads
    window: Window | None = None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a handler answers.

    `data` must be encodable as JSON; its fields are those of DESIGN.md section 6 where they apply: `label`, `score`,
    `scores`, `model`, `model_version`, `tier`, `provisional`, `summary`, `tokens_in`, `tokens_out`, …
    """

    kind: str  # "classification", "anomaly", "alert", "summary", …: ends up in the event's type
    data: Mapping[str, Any]
    message: Message | None = None  # the message it answers; None for a result about the whole batch or window


class Rejection(msgspec.Struct, frozen=True, kw_only=True):
    """A message of the batch that can never succeed: it is buried with this reason, its neighbours are not."""

    message: Message
    reason: str  # short, stable, for counters: "missing_field", "not_a_number"
    detail: str = ""  # for the person who reads the dead letter


@runtime_checkable
class TensorSession(Protocol):
    """A loaded model that maps named arrays to named arrays (ONNX Runtime)."""

    inputs: Sequence[str]
    outputs: Sequence[str]

    def run(self, arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        """Run once. `arrays` are numpy arrays by input name, batch first; so are the answers, by output name."""


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """What a language model wrote."""

    text: str
    tokens_in: int
    tokens_out: int
    tokens_cached: int = 0  # of tokens_in: those whose state was reused from an earlier prompt
    finish: str = "stop"  # "stop", or "length" when max_tokens ended it


class LabelScores(msgspec.Struct, frozen=True, kw_only=True):
    """How probable a language model finds each label."""

    scores: Mapping[str, float]  # by label, together 1
    tokens_in: int
    tokens_cached: int = 0  # of tokens_in: those whose state was reused from an earlier prompt


@runtime_checkable
class TextSession(Protocol):
    """A loaded language model, usually in a worker process."""

    context_tokens: int  # the most a prompt and its answer may take together

    def complete(
        self,
        prompt: str,
        *,
        max_tokens: int,
        json_schema: Mapping[str, Any] | None = None,
        grammar: str | None = None,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seed: int = 0,
        timeout_s: float = 120.0,
    ) -> Completion:
        """Write on from `prompt`; `json_schema` or `grammar` (GBNF) bind the answer's form.

        Raises WorkerCrashed when the worker process died (one retry makes sense), TransientError on a time-out.
        """

    def label_scores(self, prompt: str, labels: Sequence[str], *, timeout_s: float = 120.0) -> LabelScores:
        """How probable each of `labels` is as what follows `prompt`, spaces included: " error", not "error".

        The model's own probabilities, every token of a label counted, divided by their sum. Nothing is written, so
        nothing but a label can come out. Raises RejectedError when a label is the beginning of another, and as
        `complete` does.
        """

    def keep_prefix(self, text: str) -> None:
        """Say that prompts will begin with `text`: its state is then computed once, kept over restarts where the
        runtime can, and found again by each prompt that begins with it. A wish: it raises nothing.
        """

    def count_tokens(self, text: str) -> int:
        """How many tokens `text` takes."""


class Model(Protocol):
    """A verified bundle and, on demand, its session."""

    name: str
    version: str
    labels: Sequence[str]
    input: Mapping[str, Any]  # the bundle's `[input]` table: what the model expects, written by who fitted it
    calibration: Mapping[str, Any]  # the bundle's `[calibration]` table: thresholds, temperature …

    def file(self, role: str) -> str:
        """Absolute path of the bundle's file with that role ("model", "tokenizer", …), already verified.

        Raises ModelError when the bundle has none.
        """

    def tensors(self) -> TensorSession:
        """The session of a `runtime = "onnx"` bundle. Raises ModelError when it cannot be loaded."""

    def text(self) -> TextSession:
        """The session of a language model. Raises ModelError when it cannot be loaded."""


class Models(Protocol):
    """The models a box has."""

    def get(self, name: str) -> Model:
        """The bundle of that name, verified. Raises ModelError when there is none or a digest does not match."""


class Handler(Protocol):
    """A plug-in: batch in, results out.

    Life: constructed with its own config (cheap, no I/O), `start` once (load models here), `handle` many times, always
    on one and the same thread and never twice at once, `stop` once. A handler keeps its own state bounded.
    """

    Config: ClassVar[type[msgspec.Struct]]  # typed options of `[routes.<name>.options]`, unknown keys refused
    journaled: ClassVar[bool]  # True when one call may take longer than ~50 ms: the route is then journaled
    inline: ClassVar[bool]  # True when a call takes microseconds and never blocks: run without a thread hop

    def __init__(self, config: Any) -> None: ...

    def start(self, models: Models) -> None:
        """Load what is needed. Raises ModelError or ConfigError."""

    def handle(self, batch: Batch) -> Sequence[Result | Rejection]:
        """Answer a batch: any number of results for each message, none included.

        Raises RejectedError when the whole batch can never succeed, TransientError to be called again later. Any other
        exception: the messages are tried once more one by one, and those that raise again are buried. So do not change
        state before the last thing that can raise.
        """

    def stop(self) -> None:
        """Let go of what `start` took."""


class GivesEvidence(Protocol):
    """What a handler may have besides, to be a good tier of a cascade.

    A handler that keeps state from message to message says `stateful = True`: as a tier above the first it is then
    given every message of a batch, and not only those that the tiers below are unsure of.
    """

    def evidence(self, message: Message) -> Mapping[str, Any] | None:
        """What a tier above should judge instead of the payload, encodable as JSON; None: the payload will do.

        Called after `handle`, on its thread, for messages of that batch.
        """


@runtime_checkable
class TakesOver(Protocol):
    """What a handler may have besides, to go on where the one before it stood: a model was swapped, or it reloaded."""

    def take_over(self, before: Any) -> None:
        """Remember what `before` remembers, as far as that is of use here: a started handler of the same class.

        Called once, after `start`, before the first `handle`, after the last `handle` of `before`, on the thread of
        `before`. It changes nothing of `before`; whatever it raises is logged, and this handler begins anew.
        """


@runtime_checkable
class TellsStats(Protocol):
    """What a handler may have besides: figures of its own, on /status and as metrics `gatewayd.handler.<name>`."""

    def stats(self) -> Mapping[str, float]:
        """Figures by name; the same names always, from construction on: small letters, digits and underscores.

        A name that ends in `_total` counts since the handler was made and never falls, any other goes up and down.
        Called from other threads at any time, so it reads plain numbers and nothing else.
        """
