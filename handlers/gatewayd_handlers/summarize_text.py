"""summarize_text: a window of texts becomes one summary of a fixed form, by a language model on this machine.

Every window with a text in it gets exactly one summary. What can be counted is counted (summary_facts); the model puts
it into words, bound by a grammar (summary_writer), and what it invents is found out (summary_grounding). When it
cannot run, writes no whole answer or invents, the summary quotes the window instead: `method = "extractive"`, and
`reason` says why. A model that crashed is asked once more, one that took too long is not: the route goes on. What is
remembered from window to window (summary_memory) says what is new, and changes after the summary.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, get_args

import msgspec
from msgspec import Meta

from gatewayd.api import (
    Batch,
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
from gatewayd_handlers.summary_form import Summary
from gatewayd_handlers.summary_grounding import Grounds, Unsupported
from gatewayd_handlers.summary_memory import Familiar, Headlines
from gatewayd_handlers.summary_prompt import Example
from gatewayd_handlers.summary_writer import Attempt, Limits, Reason, Writer, shorter
from gatewayd_handlers.text_field import text_of

log = logging.getLogger(__name__)

# "pump-3", "R02-M1-N0", "press_12": letters, then numbers behind a dash or underscore; no part of a host name.
DEVICE_NAMES = r"(?<![\w.-])[A-Za-z]+\d*(?:[-_][A-Za-z]{0,3}\d+)+(?![\w-]|\.\w)"


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
        Meta(ge=128, le=131072, description="Longest prompt, in tokens; what does not fit is summarized in parts."),
    ] = 1024
    max_lines: Annotated[
        int,
        Meta(
            ge=1, le=500, description="Statements told to the model, the most important; 6 are enough for a small one."
        ),
    ] = 6
    max_parts: Annotated[
        int, Meta(ge=1, le=50, description="Most parts of a window; each costs an answer, and one puts them together.")
    ] = 4
    timeout_s: Annotated[
        float, Meta(gt=0, le=3600, description="How long the model may take for a window, all its parts, in seconds.")
    ] = 120.0
    retry_model_s: Annotated[
        float, Meta(ge=1, le=86400, description="After a model could not be loaded: seconds until it is tried again.")
    ] = 300.0
    language: Annotated[
        str, Meta(max_length=40, description='Language to write in, e.g. "German". Empty: English.')
    ] = ""
    examples: Annotated[
        list[Example], Meta(max_length=10, description="Worked examples for the prompt, in place of the built-in ones.")
    ] = []
    max_known: Annotated[
        int, Meta(ge=0, le=1000000, description="Statements remembered: new and rare ones matter more. 0: all alike.")
    ] = 2000
    carry: Annotated[
        bool, Meta(description="Tell the model the headline of the same device's window before, as context.")
    ] = False
    max_carried: Annotated[
        int, Meta(ge=1, le=1000000, description="Devices whose last headline is remembered, where it is carried.")
    ] = 1000
    max_carried_tokens: Annotated[
        int, Meta(ge=1, le=1000, description="Longest carried headline in a prompt, in tokens; its end is cut off.")
    ] = 48
    ungrounded: Annotated[
        Literal["drop", "mark"],
        Meta(
            description="A summary that says what the window does not: quote the window instead, or keep and mark it."
        ),
    ] = "drop"


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
        self._limits = Limits(
            max_tokens_out=config.max_tokens_out,
            max_prompt_tokens=config.max_prompt_tokens,
            max_lines=config.max_lines,
            max_parts=config.max_parts,
            timeout_s=config.timeout_s,
        )
        self._familiar = Familiar(config.max_known)
        self._headlines = Headlines(config.max_carried)
        self.summaries: Counter[str] = Counter()
        self.n_parts = 0

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
        by_reason = {f"summaries_{reason or 'model'}_total": self.summaries[reason] for reason in get_args(Reason)}
        known = {"known_statements": len(self._familiar), "carried_headlines": len(self._headlines)}
        return {**by_reason, **known, "summarized_parts_total": self.n_parts}

    def handle(self, batch: Batch) -> Sequence[Result | Rejection]:
        """One result of kind "summary" for all texts of the batch, and a Rejection for each message without a text.

        Data: `summary` (see summary_form.Summary), `method` ("model", "extractive"), `reason`, `provisional` (a model
        is configured and could not run), `unsupported`, `model`, `model_version`, `tokens_in`, `tokens_out`,
        `tokens_cached`, `parts` (of the window that the model reported), `window_start` and `window_end` (seconds since
        the epoch), `messages`. `unsupported` has a table for each span that the window does not support: `field`
        ("headline", "what_happened"), `start`, `end`, `text`, in the text as the model wrote it; sentences with one are
        left out of the summary, unless `ungrounded` is "mark".
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
        mined = mine([(message.time, text) for message, text in texts], start, end, self._devices(texts))
        facts = self._familiar.rank(mined)
        device = batch.window.key if batch.window is not None else ""
        before = self._headlines.of(device) if self._config.carry else ""
        # What is carried is no source: its words count as those of the prompt's examples.
        grounds = Grounds([text for _, text in texts], facts, [*self._example_texts(), before])
        attempt = self._ask(facts, grounds, before, batch.now)
        summary, reason, spans = self._grounded(attempt, grounds, facts)
        self.summaries[reason] += 1
        self.n_parts += attempt.n_parts
        self._familiar.remember(facts.statements)
        if self._config.carry:
            self._headlines.remember(device, summary.headline)
        return Result(kind="summary", data=self._data(summary, attempt, reason, spans, facts))

    def _grounded(self, attempt: Attempt, grounds: Grounds, facts: Facts) -> tuple[Summary, Reason, list[Unsupported]]:
        """The summary with what may be kept of what the model wrote, why it is not the model's, and what was found."""
        quoted = extractive.summarize(facts)
        if attempt.written is None:
            return quoted, attempt.reason, []
        spans = grounds.check(attempt.written)
        kept = attempt.written if self._config.ungrounded == "mark" else grounds.keep(attempt.written)
        if kept is None:
            return quoted, "ungrounded", spans
        written = msgspec.structs.replace(quoted, headline=kept.headline, what_happened=kept.what_happened)
        return written, "", spans

    def _data(
        self, summary: Summary, attempt: Attempt, reason: Reason, spans: Sequence[Unsupported], facts: Facts
    ) -> Mapping[str, Any]:
        return {
            "summary": msgspec.to_builtins(summary),
            "method": "extractive" if reason else "model",
            "reason": reason,
            "provisional": reason in {"model_error", "worker_crashed", "timeout", "hot"},
            "unsupported": msgspec.to_builtins(spans),
            "model": self._model.name if self._model else "",
            "model_version": self._model.version if self._model else "",
            "tokens_in": attempt.tokens_in,
            "tokens_out": attempt.tokens_out,
            "tokens_cached": attempt.tokens_cached,
            "parts": attempt.n_parts,
            "window_start": facts.start,
            "window_end": facts.end,
            "messages": facts.n_texts,
        }

    def _load(self) -> None:
        if self._config.model and self._models is not None:
            self._model = self._models.get(self._config.model)
            session = self._model.text()
            session.keep_prefix(self._static)
            self._session = session

    def _ask(self, facts: Facts, grounds: Grounds, before: str, now: float) -> Attempt:
        """What the model writes, or why it writes nothing. Never raises what is the model's own trouble."""
        if not self._config.model:
            return Attempt(reason="no_model")
        try:
            if self._session is None and now >= self._retry_at:
                self._load()
        except ModelError as exc:
            self._retry_at = now + self._config.retry_model_s
            log.warning("the model cannot be loaded, next attempt in %s s: %s", self._config.retry_model_s, exc)
        if self._session is None:
            return Attempt(reason="model_error")
        try:
            before = shorter(before, self._config.max_carried_tokens, self._session.count_tokens)
            return Writer(self._session, self._static, self._limits, grounds).write(facts, before)
        except WorkerCrashed as exc:
            log.warning("the model crashed twice on a window, which is quoted: %s", exc)
            return Attempt(reason="worker_crashed")
        except TransientError as exc:
            if exc.reason == "hot":  # told once where it was found out
                return Attempt(reason="hot")
            log.warning("the model took too long for a window, which is quoted: %s", exc)
            return Attempt(reason="timeout")
        except ModelError as exc:
            self._session, self._retry_at = None, now + self._config.retry_model_s
            log.warning("the model failed, next attempt in %s s: %s", self._config.retry_model_s, exc)
            return Attempt(reason="model_error")

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


def _span(batch: Batch, texts: Sequence[tuple[Message, str]]) -> tuple[float, float]:
    if batch.window is not None:
        return batch.window.start, batch.window.end
    times = [message.time for message, _ in texts]
    return min(times), max(times)
