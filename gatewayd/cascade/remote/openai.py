"""The openai tier: an OpenAI-compatible server (llama.cpp, vLLM, a provider) that picks one of the labels.

The labels are offered as letters, one token is asked for, and the probabilities of the letters are the scores: no free
text is read where the server gives probabilities. What the model would rather have said than a letter is divided
evenly among the labels, so that a model that does not understand the task is not sure of anything.

Invariants: one question a request; instruction and labels come first and the text last, so that a server with a prompt
cache computes them once. What a server does not know (logprobs, max_tokens, temperature) is left out from then on.
Source of the format: OpenAI's API reference (chat completions; completions, legacy) and llama.cpp's tools/server.
"""

import math
import string
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import msgspec
import structlog
from yarl import URL

from gatewayd.cascade.remote.dialect import Reply, Request, Said, decoded
from gatewayd.cascade.verdict import Question, Refusal
from gatewayd.config.tiers import OpenAITier
from gatewayd.http_link import Answer

log = structlog.get_logger(__name__)

LETTERS = string.ascii_uppercase
UNTOLD = 0.5  # the confidence of an answer whose probabilities the server does not tell

_BYTES_A_TOKEN = 3  # about: English takes four, JSON and numbers fewer
_TEXT_TOKENS = 8  # asked for where no probabilities are told: enough for a letter with its brackets
_MAX_NAME_CHARS = 200
_MARKS = " \t\r\n\u2581\u0120()[].:*\"'`"  # what tokenizers and models put around a letter


class _Top(msgspec.Struct, frozen=True):
    token: str
    logprob: float


class _Token(msgspec.Struct, frozen=True):
    token: str = ""
    top_logprobs: Sequence[_Top] = ()


class _Logprobs(msgspec.Struct, frozen=True):
    content: Sequence[_Token] | None = None  # chat, and llama.cpp everywhere
    top_logprobs: Sequence[Mapping[str, float] | None] | None = None  # completions


class _Message(msgspec.Struct, frozen=True):
    content: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    message: _Message | None = None
    text: str | None = None
    logprobs: _Logprobs | None = None


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(msgspec.Struct, frozen=True):
    choices: Sequence[_Choice]
    model: str | None = None
    usage: _Usage | None = None


class OpenAIDialect:
    """Implements remote.dialect.Dialect."""

    max_questions = 1
    wants = None

    def __init__(self, tier: str, config: OpenAITier) -> None:
        self.n_at_once = config.max_batch
        self._tier = tier
        self._config = config
        self._is_chat = config.endpoint == "chat"
        base = URL(config.url)
        parts = ("chat", "completions") if self._is_chat else ("completions",)
        self._url = base.joinpath(*parts).with_query(base.query)
        # Each entry is what to do without next, and what remains.
        self._n_logprobs = 20
        self._limit_key = "max_tokens"
        self._has_temperature = True

    def check(self, question: Question) -> Refusal | None:
        """See Dialect."""
        if len(self._labels(question)) < 2:
            return Refusal(reason="no_labels", detail=f"fewer than two of its labels are in tiers.{self._tier}.labels")
        return None

    def group(self, _question: Question) -> Hashable:
        """See Dialect: any may share a request."""
        return ""

    def compose(self, questions: Sequence[Question]) -> Request:
        """See Dialect."""
        prompt = self._prompt(questions[0])
        max_tokens = 1 if self._n_logprobs else _TEXT_TOKENS
        body: dict[str, Any] = {"model": self._config.model}
        body |= {"messages": [{"role": "user", "content": prompt}]} if self._is_chat else {"prompt": prompt}
        body[self._limit_key] = max_tokens
        if self._has_temperature:
            body["temperature"] = 0
        if self._n_logprobs:
            top = self._n_logprobs
            body |= {"logprobs": True, "top_logprobs": top} if self._is_chat else {"logprobs": top}
        encoded = msgspec.json.encode(body)
        return Request(
            body=encoded, url=self._url, n_tokens_in=len(encoded) // _BYTES_A_TOKEN, max_tokens_out=max_tokens
        )

    def read(self, questions: Sequence[Question], answer: Answer) -> Sequence[Reply]:
        """See Dialect."""
        completion: _Completion = decoded(answer.body, _Completion)
        if not completion.choices:
            return [None]
        choice = completion.choices[0]
        labels = self._labels(questions[0])
        tops = _tops(choice.logprobs)
        if not tops:
            return [self._by_text(choice, labels, completion)]
        scores = _scores(tops, labels)
        label = max(scores, key=scores.__getitem__)
        return [self._said(label, scores, scores[label], completion)]

    def yields(self, answer: Answer) -> bool:
        """See Dialect: without probabilities, with the newer name of max_tokens, without a temperature."""
        text = answer.body.decode(errors="replace").lower()
        if "max_completion_tokens" in text and self._limit_key == "max_tokens":
            self._limit_key = "max_completion_tokens"
        elif "logprobs" in text and self._n_logprobs:
            self._n_logprobs = 5 if self._n_logprobs > 5 and not self._is_chat else 0
            if not self._n_logprobs:
                self._say_untold()
        elif "temperature" in text and self._has_temperature:
            self._has_temperature = False
        else:
            return False
        return True

    def learn(self, _answer: Answer) -> None:
        """There is nothing to learn."""

    def forget(self) -> None:
        """There is nothing to forget."""

    def _labels(self, question: Question) -> list[str]:
        known = self._config.labels
        return [label for label in known if not question.labels or label in question.labels]

    def _prompt(self, question: Question) -> str:
        offered = (
            f"{letter}) {label}: {meaning}" if (meaning := self._config.labels[label]) else f"{letter}) {label}"
            for letter, label in zip(LETTERS, self._labels(question), strict=False)
        )
        choices = "\n".join(offered)
        text = as_text(question.value)[: self._config.max_chars]
        return f"{self._config.instruction}\n\n{choices}\n\nText:\n{text}\n\nThe letter of the answer:"

    def _by_text(self, choice: _Choice, labels: Sequence[str], completion: _Completion) -> Reply:
        """The server tells no probabilities: what it wrote, without knowing how sure it was."""
        if self._n_logprobs:
            self._n_logprobs = 0  # from now on with room for more than a letter
            self._say_untold()
        written = (choice.message.content if choice.message else choice.text) or ""
        label = _label_in(written, labels)
        if label is None:
            return Refusal(reason="unknown_label", detail="what it wrote is neither a letter nor a label")
        return self._said(label, {}, UNTOLD, completion)

    def _said(self, label: str, scores: Mapping[str, float], confidence: float, completion: _Completion) -> Said:
        usage = completion.usage or _Usage()
        told = (completion.model or "")[:_MAX_NAME_CHARS]
        return Said(
            label=label,
            scores=scores,
            confidence=confidence,
            model=self._config.model,
            model_version="" if told == self._config.model else told,
            tokens_in=max(0, usage.prompt_tokens),
            tokens_out=max(0, usage.completion_tokens),
        )

    def _say_untold(self) -> None:
        log.warning(
            "tier tells no probabilities",
            tier=self._tier,
            hint=f"its answers count with a confidence of {UNTOLD}; another server or `endpoint` may tell them",
        )


def as_text(value: Any) -> str:
    """A value as a model may read it."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _tops(logprobs: _Logprobs | None) -> Sequence[tuple[str, float]]:
    """The most probable first tokens with their logarithms, in either form; empty where none are told."""
    if logprobs is None:
        return ()
    if logprobs.content:
        return [(top.token, top.logprob) for top in logprobs.content[0].top_logprobs]
    if logprobs.top_logprobs and logprobs.top_logprobs[0]:
        return list(logprobs.top_logprobs[0].items())
    return ()


def _scores(tops: Sequence[tuple[str, float]], labels: Sequence[str]) -> dict[str, float]:
    """Probabilities by label, which add up to 1: those of its letter's tokens, and an equal share of the rest."""
    offered = dict(zip(LETTERS, labels, strict=False))
    scores = dict.fromkeys(labels, 0.0)
    for token, logprob in tops:
        label = offered.get(token.strip(_MARKS))
        if label is not None and logprob < 0.01:  # rounded, some are above 0; what is not a number is left out
            scores[label] += math.exp(logprob)
    mass = sum(scores.values())
    if mass > 1.0:  # rounding, or a server that means something else
        return {label: score / mass for label, score in scores.items()}
    share = (1.0 - mass) / len(labels)
    return {label: score + share for label, score in scores.items()}


def _label_in(written: str, labels: Sequence[str]) -> str | None:
    """The label whose letter comes first, else the one label that is named."""
    first = written.strip(_MARKS)[:2].strip(_MARKS)
    offered = dict(zip(LETTERS, labels, strict=False))
    if first in offered:
        return offered[first]
    named = [label for label in labels if label.casefold() in written.casefold()]
    return named[0] if len(named) == 1 else None
