"""summarize_text: a window of texts becomes one summary of a fixed form, by a language model on this machine.

Every window with a text in it gets exactly one summary. What can be counted is counted (summary_facts); the model puts
it into words, bound by a grammar, and what it invents is found out (summary_grounding). When it cannot run, writes no
whole answer or invents, the summary quotes the window instead: `method = "extractive"`, and `reason` says why. A model
that crashed is asked once more, one that took too long is not: the route goes on.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

import msgspec
from msgspec import Meta

from gatewayd.api import (
    Batch,
    Completion,
    ConfigError,
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
from gatewayd_handlers import extractive, summary_prompt
from gatewayd_handlers.devices import UnusableError, device_of
from gatewayd_handlers.summary_facts import Facts, mine
from gatewayd_handlers.summary_form import Summary, Written, grammar
from gatewayd_handlers.summary_grounding import unsupported
from gatewayd_handlers.summary_prompt import Example
from gatewayd_handlers.text_field import text_of

log = logging.getLogger(__name__)

# "pump-3", "R02-M1-N0", "press_12": letters, then numbers behind a dash or underscore; no part of a host name.
DEVICE_NAMES = r"(?<![\w.-])[A-Za-z]+\d*(?:[-_][A-Za-z]{0,3}\d+)+(?![\w-]|\.\w)"

Answer = TypeVar("Answer")
Reason = Literal["", "no_model", "model_error", "worker_crashed", "timeout", "prompt_too_long", "cut_off", "ungrounded"]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of `summarize_text`."""

    model: Annotated[
        str, Meta(description="Bundle of the language model. Empty: summaries quote the window, no model is run.")
    ] = ""
    require_model: Annotated[
        bool, Meta(description="Do not start without the model, instead of quoting until it can be loaded.")
    ] = False
    field: Annotated[
        str, Meta(description='Path of the field with the text, e.g. "log.message". Empty: the payload is the text.')
    ] = ""
    device: Annotated[
        str, Meta(description='What names the device: "topic", a field, or empty: names found in the text.')
    ] = ""
    device_pattern: Annotated[
        str,
        Meta(min_length=1, description="Regular expression of a device's name in a text; used when device is empty."),
    ] = DEVICE_NAMES
    max_tokens_out: Annotated[int, Meta(ge=32, le=2048, description="Longest answer of the model, in tokens.")] = 160
    max_prompt_tokens: Annotated[
        int,
        Meta(ge=128, le=131072, description="Longest prompt, in tokens; the window's least important texts give way."),
    ] = 1024
    timeout_s: Annotated[float, Meta(gt=0, le=3600, description="How long one answer may take, in seconds.")] = 120.0
    retry_model_s: Annotated[
        float, Meta(ge=1, le=86400, description="After a model could not be loaded: seconds until it is tried again.")
    ] = 300.0
    language: Annotated[
        str, Meta(max_length=40, description='Language to write in, e.g. "German". Empty: English.')
    ] = ""
    examples: Annotated[
        list[Example], Meta(max_length=10, description="Worked examples for the prompt, in place of the built-in ones.")
    ] = []
    ungrounded: Annotated[
        Literal["drop", "mark"],
        Meta(
            description="A summary that says what the window does not: quote the window instead, or keep and mark it."
        ),
    ] = "drop"


class _Attempt(msgspec.Struct, frozen=True):
    """What came of asking the model."""

    written: Written | None = None
    reason: Reason = ""
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0


class SummarizeText:
    """The handler. `summaries` counts them by reason; "" are those that the model wrote."""

    Config: ClassVar[type[msgspec.Struct]] = Options
    journaled: ClassVar[bool] = True  # seconds a window
    inline: ClassVar[bool] = False

    def __init__(self, config: Options) -> None:
        try:
            self._device_names = re.compile(config.device_pattern)
        except re.error as exc:
            raise ConfigError("options.device_pattern", f"no regular expression: {exc}") from exc
        self._config = config
        self._examples = config.examples or list(summary_prompt.EXAMPLES)
        self._static = summary_prompt.static_part(self._examples, config.language)
        self._models: Models | None = None
        self._model: Model | None = None
        self._session: TextSession | None = None
        self._retry_at = 0.0
        self.summaries: Counter[str] = Counter()

    def start(self, models: Models) -> None:
        """Load the model. Raises ModelError where `require_model` is set."""
        self._models = models
        try:
            self._load()
        except ModelError as exc:
            if self._config.require_model:
                raise
            log.warning("summaries quote their window until the model can be loaded: %s", exc)

    def stop(self) -> None:
        """Let go of the model."""
        self._models = self._model = self._session = None

    def stats(self) -> Mapping[str, float]:
        """Summaries so far, by who wrote them and why: `summaries_model_total`, `summaries_timeout_total` …"""
        return {f"summaries_{reason or 'model'}_total": self.summaries[reason] for reason in get_args(Reason)}

    def handle(self, batch: Batch) -> Sequence[Result | Rejection]:
        """One result of kind "summary" for all texts of the batch, and a Rejection for each message without a text.

        Data: `summary` (see summary_form.Summary), `method` ("model", "extractive"), `reason`, `provisional` (a model
        is configured and could not run), `unsupported`, `model`, `model_version`, `tokens_in`, `tokens_out`,
        `tokens_cached`, `window_start` and `window_end` (seconds since the epoch), `messages`.
        """
        rejections: list[Result | Rejection] = []
        texts: list[tuple[Message, str]] = []
        for message in batch.messages:
            try:
                texts.append((message, text_of(message, self._config.field)))
            except UnusableError as refused:
                rejections.append(Rejection(message=message, reason=refused.reason, detail=str(refused)))
        return [self._summarize(batch, texts), *rejections] if texts else rejections

    def _summarize(self, batch: Batch, texts: Sequence[tuple[Message, str]]) -> Result:
        start, end = _span(batch, texts)
        facts = mine([(message.time, text) for message, text in texts], start, end, self._devices(texts))
        attempt = self._ask(facts, batch.now)
        written, spans = self._grounded(attempt.written, [text for _, text in texts], facts)
        reason: Reason = "ungrounded" if attempt.written is not None and written is None else attempt.reason
        summary = extractive.summarize(facts)
        if written is not None:
            summary = msgspec.structs.replace(summary, headline=written.headline, what_happened=written.what_happened)
        self.summaries[reason] += 1
        return Result(kind="summary", data=self._data(summary, attempt, reason, spans, facts))

    def _grounded(
        self, written: Written | None, texts: Sequence[str], facts: Facts
    ) -> tuple[Written | None, list[str]]:
        """What may be kept of what the model wrote, and every span in it that the window does not support.

        A sentence with such a span is left out. Nothing is kept when the headline has one, or no sentence is left.
        """
        if written is None:
            return None, []

        def invented(text: str) -> list[str]:
            return unsupported(text, texts, facts, self._example_texts())

        spans = invented(f"{written.headline}\n{written.what_happened}")
        if not spans or self._config.ungrounded == "mark":
            return written, spans
        kept = " ".join(sentence for sentence in sentences(written.what_happened) if not invented(sentence))
        if not kept or invented(written.headline):
            return None, spans
        return Written(headline=written.headline, what_happened=kept), spans

    def _data(
        self, summary: Summary, attempt: _Attempt, reason: Reason, spans: list[str], facts: Facts
    ) -> Mapping[str, Any]:
        return {
            "summary": msgspec.to_builtins(summary),
            "method": "extractive" if reason else "model",
            "reason": reason,
            "provisional": reason in {"model_error", "worker_crashed", "timeout"},
            "unsupported": spans,
            "model": self._model.name if self._model else "",
            "model_version": self._model.version if self._model else "",
            "tokens_in": attempt.tokens_in,
            "tokens_out": attempt.tokens_out,
            "tokens_cached": attempt.tokens_cached,
            "window_start": facts.start,
            "window_end": facts.end,
            "messages": facts.n_texts,
        }

    def _load(self) -> None:
        if self._config.model and self._models is not None:
            self._model = self._models.get(self._config.model)
            self._session = self._model.text()

    def _ask(self, facts: Facts, now: float) -> _Attempt:
        """What the model writes, or why it writes nothing. Never raises what is the model's own trouble."""
        if not self._config.model:
            return _Attempt(reason="no_model")
        try:
            if self._session is None and now >= self._retry_at:
                self._load()
        except ModelError as exc:
            self._retry_at = now + self._config.retry_model_s
            log.warning("the model cannot be loaded, next attempt in %s s: %s", self._config.retry_model_s, exc)
        if self._session is None:
            return _Attempt(reason="model_error")
        try:
            return self._write(self._session, facts)
        except WorkerCrashed as exc:
            log.warning("the model crashed twice on a window, which is quoted: %s", exc)
            return _Attempt(reason="worker_crashed")
        except TransientError as exc:
            log.warning("the model took too long for a window, which is quoted: %s", exc)
            return _Attempt(reason="timeout")
        except ModelError as exc:
            self._session, self._retry_at = None, now + self._config.retry_model_s
            log.warning("the model failed, next attempt in %s s: %s", self._config.retry_model_s, exc)
            return _Attempt(reason="model_error")

    def _write(self, session: TextSession, facts: Facts) -> _Attempt:
        config = self._config
        room = min(config.max_prompt_tokens, session.context_tokens - config.max_tokens_out)
        prompt = summary_prompt.build(facts, self._static, lambda text: _twice(session.count_tokens, text), room)
        if prompt is None:
            return _Attempt(reason="prompt_too_long")
        first = self._complete(session, prompt, grammar())
        written = parse(first)
        if written is not None:
            return _attempt(written, first)
        second = self._complete(session, prompt, grammar(max_sentences=1, sentence_chars=80))
        return _attempt(parse(second), first, second)

    def _complete(self, session: TextSession, prompt: str, form: str) -> Completion:
        def ask(text: str) -> Completion:
            return session.complete(
                text, max_tokens=self._config.max_tokens_out, grammar=form, timeout_s=self._config.timeout_s
            )

        return _twice(ask, prompt)

    def _devices(self, texts: Sequence[tuple[Message, str]]) -> Iterable[str]:
        for message, text in texts:
            if self._config.device:
                try:
                    yield device_of(message, self._config.device)
                except UnusableError:
                    continue  # a text counts without a device, too
            else:
                yield from sorted(set(self._device_names.findall(text)))

    def _example_texts(self) -> list[str]:
        return [line for e in self._examples for line in (*e.digest, e.headline, e.what_happened)]


def parse(completion: Completion) -> Written | None:
    """What the model wrote, tidied; None when it was cut off or has not the form."""
    try:
        written = msgspec.json.decode(completion.text.strip(), type=Written)
    except msgspec.DecodeError:
        return None
    return Written(headline=written.headline.strip(), what_happened=" ".join(sentences(written.what_happened)))


def sentences(text: str) -> list[str]:
    """The sentences of a text, each once: a small model likes to say things again."""
    found = (sentence.strip() for sentence in re.findall(r".+?\.(?=\s|$)", text))
    return list(dict.fromkeys(found)) or [text.strip()]


def _attempt(written: Written | None, *completions: Completion) -> _Attempt:
    return _Attempt(
        written,
        "" if written is not None else "cut_off",
        sum(completion.tokens_in for completion in completions),
        sum(completion.tokens_out for completion in completions),
        sum(completion.tokens_cached for completion in completions),
    )


def _twice(call: Callable[[str], Answer], argument: str) -> Answer:
    """Call once more after a crash: the worker has been started anew."""
    try:
        return call(argument)
    except WorkerCrashed:
        return call(argument)


def _span(batch: Batch, texts: Sequence[tuple[Message, str]]) -> tuple[float, float]:
    if batch.window is not None:
        return batch.window.start, batch.window.end
    times = [message.time for message, _ in texts]
    return min(times), max(times)
