"""classify_llm: a label for each text, by the probabilities a language model gives the labels.

Nothing is written and read back: the label is the one that the model finds most probable as what follows the text, and
its score is that probability among the labels. So no other answer can come out, and how sure the model is comes with
it. A text's answer does not depend on the other texts of its batch.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from gatewayd.api import (
    Batch,
    ConfigError,
    LabelScores,
    Message,
    Model,
    ModelError,
    Models,
    Rejection,
    Result,
    TextSession,
    TransientError,
    WorkerCrashed,
)
from gatewayd_handlers.devices import UnusableError
from gatewayd_handlers.label_prompt import MAX_LETTERS, AnswerWith, Label, LabelPrompt, build, one_line
from gatewayd_handlers.text_field import text_of

# Texts without content. What a model answers to them is its own leaning, not the text's: Zhao et al., "Calibrate
# Before Use", ICML 2021, section 5, whose three these are.
EMPTY_TEXTS = ("N/A", "[MASK]", "")
_LEAST_TEXT_TOKENS = 16  # room that a prompt must leave for its text


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of `classify_llm`."""

    model: Annotated[str, Meta(min_length=1, description="Bundle of the language model.")]
    labels: Annotated[
        dict[str, Label], Meta(max_length=64, description="Each label with its description and examples.")
    ]
    field: Annotated[
        str, Meta(description='Path of the field with the text, e.g. "log.message". Empty: the payload is the text.')
    ] = ""
    instruction: Annotated[
        str, Meta(min_length=1, max_length=2000, description="The prompt's first line: what is asked.")
    ] = "Each text has one of these labels:"
    answer_with: Annotated[
        AnswerWith,
        Meta(description="What the model is asked for: the labels themselves, or a letter for each of them."),
    ] = "labels"
    correct_prior: Annotated[
        bool,
        Meta(description="Divide the scores by those of texts without content: what a model answers to anything."),
    ] = True
    min_score: Annotated[
        float, Meta(ge=0, le=1, description='Below this the label is "unknown"; the scores are handed on as they are.')
    ] = 0.0
    max_prompt_tokens: Annotated[
        int, Meta(ge=64, le=131072, description="Longest prompt, in tokens; the end of a longer text is cut off.")
    ] = 1024
    timeout_s: Annotated[float, Meta(gt=0, le=3600, description="How long one text may take, in seconds.")] = 60.0


class ClassifyLlm:
    """The handler."""

    Config: ClassVar[type[msgspec.Struct]] = Options
    journaled: ClassVar[bool] = True  # tens of milliseconds to seconds a text
    inline: ClassVar[bool] = False

    def __init__(self, config: Options) -> None:
        if len(config.labels) < 2:
            raise ConfigError("options.labels", "one label is no choice: describe what the other texts are too")
        if config.answer_with == "letters" and len(config.labels) > MAX_LETTERS:
            raise ConfigError("options.answer_with", f"there are letters for {MAX_LETTERS} labels")
        self._config = config
        self._prompt: LabelPrompt = build(config.labels, config.instruction, config.answer_with)
        self._model: Model | None = None
        self._session: TextSession | None = None
        self._room = 0  # tokens a text may take
        self._prior: Mapping[str, float] = {}
        self._n_texts = self._n_cut = self._n_unknown = 0

    def start(self, models: Models) -> None:
        """Load the model. Raises ModelError, and ConfigError when the labels leave no room for a text."""
        model = models.get(self._config.model)
        session = model.text()
        try:
            session.keep_prefix(self._prompt.static)
            self._room = self._room_for_text(session)
            self._prior = self._leaning(session) if self._config.correct_prior else {}
        except TransientError as exc:
            raise ModelError(f"the labels cannot be tried: {exc}") from exc
        self._model, self._session = model, session

    def stop(self) -> None:
        """Let go of the model."""
        self._model = self._session = None

    def stats(self) -> Mapping[str, float]:
        """Texts answered, those of them that were cut off, and those answered "unknown"."""
        return {
            "texts_total": float(self._n_texts),
            "texts_cut_total": float(self._n_cut),
            "texts_unknown_total": float(self._n_unknown),
        }

    def handle(self, batch: Batch) -> Sequence[Result | Rejection]:
        """One result of kind "classification" a text: `label`, `score`, `scores`, `model`, `model_version`,
        `tokens_in`, `tokens_cached` (of tokens_in: those that were computed for an earlier text).

        `score` is that of the label, for "unknown" that of the label it would have been. Raises TransientError when
        the model cannot be asked; a text that crashes it twice is rejected.
        """
        return [self._answer(message) for message in batch.messages]

    def _answer(self, message: Message) -> Result | Rejection:
        try:
            text = text_of(message, self._config.field)
        except UnusableError as refused:
            return Rejection(message=message, reason=refused.reason, detail=str(refused))
        assert self._session is not None
        try:
            return self._result(message, self._scores(self._session, text))
        except WorkerCrashed as exc:
            return Rejection(message=message, reason="worker_crashed", detail=str(exc))
        except ModelError as exc:  # it was loaded before, and will be again
            raise TransientError(f"the model cannot be asked: {exc}") from exc

    def _scores(self, session: TextSession, text: str) -> LabelScores:
        prompt = self._prompt.with_text(self._fitted(session, one_line(text)))
        try:
            return self._ask(session, prompt)
        except WorkerCrashed:
            return self._ask(session, prompt)  # once more: the worker has been started anew

    def _ask(self, session: TextSession, prompt: str) -> LabelScores:
        """The scores by label. Raises TransientError, RejectedError."""
        endings = self._prompt.endings
        raw = session.label_scores(prompt, list(endings.values()), timeout_s=self._config.timeout_s)
        scores = {label: raw.scores[ending] for label, ending in endings.items()}
        return LabelScores(
            scores=corrected(scores, self._prior), tokens_in=raw.tokens_in, tokens_cached=raw.tokens_cached
        )

    def _leaning(self, session: TextSession) -> Mapping[str, float]:
        """The mean scores of texts without content."""
        found = [self._ask(session, self._prompt.with_text(text)).scores for text in EMPTY_TEXTS]
        return {label: sum(scores[label] for scores in found) / len(found) for label in self._prompt.endings}

    def _room_for_text(self, session: TextSession) -> int:
        longest = max((self._prompt.with_text("") + ending for ending in self._prompt.endings.values()), key=len)
        limit = min(self._config.max_prompt_tokens, session.context_tokens - 1)
        room = limit - session.count_tokens(longest)
        if room < _LEAST_TEXT_TOKENS:
            raise ConfigError(
                "options.labels",
                f"descriptions and examples leave {room} of {limit} tokens for a text: shorten them, or raise "
                "max_prompt_tokens or session.context_tokens in model.toml",
            )
        return room

    def _fitted(self, session: TextSession, text: str) -> str:
        """The text, cut off so that it takes no more than there is room for."""
        if len(text.encode()) <= self._room:
            return text  # a token is a byte at least
        whole = len(text)
        while (n_tokens := session.count_tokens(text)) > self._room:
            text = text[: max(1, len(text) * self._room // (n_tokens + 1))]
        self._n_cut += len(text) < whole
        return text

    def _result(self, message: Message, found: LabelScores) -> Result:
        assert self._model is not None
        label = max(found.scores, key=lambda name: found.scores[name])
        sure = found.scores[label] >= self._config.min_score
        self._n_texts += 1
        self._n_unknown += not sure
        data = {
            "label": label if sure else "unknown",
            "score": round(found.scores[label], 6),
            "scores": {name: round(score, 6) for name, score in found.scores.items()},
            "model": self._model.name,
            "model_version": self._model.version,
            "tokens_in": found.tokens_in,
            "tokens_cached": found.tokens_cached,
        }
        return Result(kind="classification", data=data, message=message)


def corrected(scores: Mapping[str, float], prior: Mapping[str, float]) -> dict[str, float]:
    """The scores divided by the prior's, together 1 again; as they are where there is no prior."""
    if not prior:
        return dict(scores)
    weights = {label: score / max(prior[label], 1e-9) for label, score in scores.items()}
    total = sum(weights.values())
    return {label: weight / total for label, weight in weights.items()} if total > 0 else dict(scores)
