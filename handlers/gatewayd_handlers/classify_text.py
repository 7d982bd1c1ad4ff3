"""classify_text: a label for each text, by a sentence encoder that runs on this machine.

Either zero-shot (`labels`: each with a description and a few examples; no training) or with a head fitted by
`gatewayd models fit --text` (`head`). What is learned or configured once is never changed by messages, and a text's
answer does not depend on the other texts of its batch.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import Annotated, ClassVar

import msgspec
import numpy as np
from msgspec import Meta

from gatewayd.api import Batch, ConfigError, Message, Model, Models, Rejection, Result
from gatewayd_handlers.devices import UnusableError
from gatewayd_handlers.novelty import NoveltyGuard, guard_of
from gatewayd_handlers.text_encoder import STATS, Encode, TextEncoder, Vectors
from gatewayd_handlers.text_field import text_of
from gatewayd_handlers.text_heads import ExampleHead, FittedHead, Head, Judgment


class Label(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What belongs to a label. Examples written the way the real texts are written help most."""

    description: Annotated[str, Meta(max_length=2000, description="What the label means, in a sentence.")] = ""
    examples: Annotated[
        list[str], Meta(max_length=1000, description="Texts that belong to it, written as the real ones are.")
    ] = []

    def __post_init__(self) -> None:
        if not self.texts():
            raise ValueError("a label needs a description or examples")

    def texts(self) -> list[str]:
        """Description and examples, those that say anything."""
        return [text for text in (self.description, *self.examples) if text.strip()]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of `classify_text`: `model`, and exactly one of `labels` and `head`."""

    model: Annotated[str, Meta(min_length=1, description="Bundle of the sentence encoder.")] = "minilm-int8"
    field: Annotated[
        str, Meta(description='Path of the field with the text, e.g. "log.message". Empty: the payload is the text.')
    ] = ""
    labels: Annotated[
        dict[str, Label], Meta(max_length=1000, description="Zero-shot: each label with its description and examples.")
    ] = {}
    head: Annotated[str, Meta(description="Bundle of a head fitted by `gatewayd models fit --text`.")] = ""
    min_score: Annotated[
        float, Meta(ge=0, le=1, description='Below this the label is "unknown"; the scores are handed on as they are.')
    ] = 0.0
    temperature: Annotated[
        float, Meta(gt=0, le=10, description="Zero-shot: smaller makes scores more extreme, the order stays.")
    ] = 0.05
    mask_numbers: Annotated[
        bool,
        Meta(description="Read every number as 0: log lines of one statement become one text. A head has its own."),
    ] = True
    mask_ids: Annotated[
        bool,
        Meta(
            description="Read UUIDs, addresses, paths with digits as 0, too: fewer different texts. A head has its own."
        ),
    ] = False
    max_tokens: Annotated[
        int, Meta(ge=8, le=512, description="Tokens read of a text, the rest is cut off. A head has its own.")
    ] = 128
    max_chars: Annotated[int, Meta(ge=16, le=1000000, description="Characters read of a text.")] = 2000
    max_cached_texts: Annotated[
        int, Meta(ge=0, le=1000000, description="Texts whose vector is remembered; equal ones cost no model run.")
    ] = 4096
    max_measure_ms: Annotated[
        float,
        Meta(
            ge=0,
            le=10000,
            description="Longest time to measure at the start if texts run faster in groups, in ms. 0: one by one.",
        ),
    ] = 300.0


class ClassifyText:
    """The handler. `encoder_hits` and `encoder_misses` count texts answered from memory and by the model."""

    Config: ClassVar[type[msgspec.Struct]] = Options
    journaled: ClassVar[bool] = False  # some milliseconds a text
    inline: ClassVar[bool] = False

    def __init__(self, config: Options) -> None:
        if bool(config.labels) == bool(config.head):
            raise ConfigError("options", "give `labels` (zero-shot) or `head` (a fitted one), and not both")
        if len(config.labels) == 1:
            raise ConfigError("options.labels", "one label is no choice: describe what the other texts are too")
        self._config = config
        self._encoder: TextEncoder | None = None
        self._head: Head | None = None
        self._guard: NoveltyGuard | None = None

    @staticmethod
    def encoder(models: Models, name: str, *, max_tokens: int = 128, mask_numbers: bool = True) -> Encode:
        """Texts to unit vectors as this handler makes them, for `gatewayd models fit --text`. Raises ModelError.

        One by one: who fits tells statements apart by their vectors, to the last bit.
        """
        return TextEncoder(models.get(name), max_tokens=max_tokens, mask=mask_numbers).encode

    @property
    def encoder_hits(self) -> int:
        """Texts whose vector was remembered."""
        return self._encoder.hits if self._encoder else 0

    @property
    def encoder_misses(self) -> int:
        """Texts the model ran for."""
        return self._encoder.misses if self._encoder else 0

    def start(self, models: Models) -> None:
        """Load the encoder and the head. Raises ModelError, also when the two do not fit each other."""
        config = self._config
        encoder = models.get(config.model)
        if config.head:
            head = models.get(config.head)
            self._encoder = self._new_encoder(
                encoder,
                mask=bool(head.input.get("mask_numbers", config.mask_numbers)),
                mask_more=bool(head.input.get("mask_ids", False)),  # heads without it were fitted before there was one
                max_tokens=int(head.input.get("max_tokens", config.max_tokens)),
            )
            self._head = FittedHead(head, encoder)
            self._guard = guard_of(head)
            return
        self._encoder = self._new_encoder(
            encoder, mask=config.mask_numbers, mask_more=config.mask_ids, max_tokens=config.max_tokens
        )
        labels = {name: label.texts() for name, label in config.labels.items()}
        self._head = ExampleHead(encoder, self._encoder.encode, labels, config.temperature)
        self._guard = guard_of(encoder)

    def _new_encoder(self, model: Model, *, mask: bool, mask_more: bool, max_tokens: int) -> TextEncoder:
        config = self._config
        return TextEncoder(
            model,
            max_tokens=max_tokens,
            mask=mask,
            mask_more=mask_more,
            max_cached=config.max_cached_texts,
            max_chars=config.max_chars,
            measure_s=config.max_measure_ms / 1000,
        )

    def stats(self) -> Mapping[str, float]:
        """What the cache saved, and how texts are run: see TextEncoder.stats."""
        return self._encoder.stats() if self._encoder else dict.fromkeys(STATS, 0.0)

    def stop(self) -> None:
        """Let go of the models."""
        self._encoder = self._head = self._guard = None

    def handle(self, batch: Batch) -> Sequence[Result | Rejection]:
        """One result of kind "classification" a text: `label`, `score`, `scores`, `model`, `model_version`.

        `score` is that of the label, for "unknown" that of the label it would have been. `novelty` is there when the
        model's bundle has a guard (gatewayd_handlers.novelty).
        """
        assert self._encoder is not None
        assert self._head is not None
        read = [self._read(message) for message in batch.messages]
        texts = [text for text in read if isinstance(text, str)]
        judged = iter(self._judged(texts) if texts else ())
        return [
            self._result(message, *next(judged)) if isinstance(text, str) else text
            for message, text in zip(batch.messages, read, strict=True)
        ]

    def points(self, batch: Batch) -> tuple[Sequence[Message], Vectors]:
        """The messages that get a result, and the points [k, dimensions] their novelty is measured by."""
        assert self._encoder is not None
        read = [(message, text) for message in batch.messages if isinstance(text := self._read(message), str)]
        vectors = self._encoder.encode([text for _, text in read]) if read else np.empty((0, 1), np.float32)
        return [message for message, _ in read], vectors

    def _judged(self, texts: Sequence[str]) -> Iterable[tuple[Judgment, float | None]]:
        assert self._encoder is not None
        assert self._head is not None
        vectors = self._encoder.encode(texts)
        judgments = self._head.judge(vectors)
        return zip(judgments, repeat(None) if self._guard is None else self._guard.of(vectors), strict=False)

    def _read(self, message: Message) -> str | Rejection:
        try:
            return text_of(message, self._config.field)
        except UnusableError as refused:
            return Rejection(message=message, reason=refused.reason, detail=str(refused))

    def _result(self, message: Message, judgment: Judgment, novelty: float | None) -> Result:
        assert self._head is not None
        score = judgment.scores[judgment.label]
        sure = max(judgment.scores.values()) >= self._config.min_score
        data = {
            "label": judgment.label if sure else "unknown",
            "score": round(score, 6),
            "scores": {label: round(value, 6) for label, value in judgment.scores.items()},
            "model": self._head.name,
            "model_version": self._head.version,
        }
        if novelty is not None:
            data["novelty"] = novelty
        return Result(kind="classification", data=data, message=message)
