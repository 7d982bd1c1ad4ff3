"""Ask a language model for the summary of a window: in one prompt where it fits, else part by part.

What matters most stands in the first part, which is what would be told if there were no others; so whatever goes wrong
with the others (time is over, an answer is cut off or invents), the first part's report is the summary. The time limit
is for all calls together: each gets its share of what is left.
"""

import time
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import msgspec

from gatewayd.api import Completion, TextSession, TransientError, WorkerCrashed
from gatewayd_handlers import summary_prompt
from gatewayd_handlers.summary_facts import Facts
from gatewayd_handlers.summary_form import Written, grammar, sentences
from gatewayd_handlers.summary_grounding import Grounds

Answer = TypeVar("Answer")
Argument = TypeVar("Argument")
Reason = Literal[
    "", "no_model", "model_error", "worker_crashed", "timeout", "hot", "prompt_too_long", "cut_off", "ungrounded"
]


class Attempt(msgspec.Struct, frozen=True):
    """What came of asking the model."""

    written: Written | None = None
    reason: Reason = ""
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    n_parts: int = 0  # of the window that were reported


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a window may cost: see the options of summarize_text."""

    max_tokens_out: int
    max_prompt_tokens: int
    max_lines: int
    max_parts: int
    timeout_s: float


class Writer:
    """Writes one summary with a session; `static` is what every prompt begins with. It counts the tokens."""

    def __init__(
        self,
        session: TextSession,
        static: str,
        limits: Limits,
        grounds: Grounds,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._static = static
        self._limits = limits
        self._grounds = grounds
        self._monotonic = monotonic
        self._ends_s = monotonic() + limits.timeout_s
        self._completions: list[Completion] = []

    def write(self, facts: Facts, before: str = "") -> Attempt:
        """The summary of the window. `before` is what was reported of the device's window before it.

        Raises WorkerCrashed or TransientError where nothing was written, not even of the most important part.
        """
        lines = summary_prompt.digest(facts, self._limits.max_lines)
        parts = summary_prompt.split(lines, lambda some: self._fits(some, before), self._limits.max_parts)
        if not parts:
            return self._attempt(None, "prompt_too_long", 0)
        first = self._report(parts[0], before, n_calls=len(parts) + (len(parts) > 1))
        if first is None or len(parts) == 1:
            return self._attempt(first, "" if first is not None else "cut_off", 1)
        told = [self._grounds.keep(first), *self._further(parts[1:], before)]
        together = self._together([each for each in told if each is not None], before)
        return self._attempt(together or first, "", len(told) if together else 1)

    def _further(self, parts: Sequence[Sequence[str]], before: str) -> list[Written | None]:
        """Reports of the other parts, as long as there is time."""
        told: list[Written | None] = []
        try:
            for index, part in enumerate(parts):
                report = self._report(part, before, n_calls=len(parts) - index + 1)
                told.append(None if report is None else self._grounds.keep(report))
        except TransientError:  # the first part is told, and that will do
            pass
        return told

    def _together(self, told: Sequence[Written], before: str) -> Written | None:
        """One report out of those of the parts; None when there is nothing to put together, or it is no good."""
        lines = list(dict.fromkeys(sentences(each.what_happened)[0] for each in told))
        parts = summary_prompt.split(lines, lambda some: self._fits(some, before), 1)
        if len(told) < 2 or not parts:
            return None
        try:
            report = self._report(parts[0], before, n_calls=1)
        except TransientError:
            return None
        return report if report is not None and self._grounds.keep(report) is not None else None

    def _report(self, lines: Sequence[str], before: str, *, n_calls: int) -> Written | None:
        """What the model writes of these lines; once more, and shorter, when it was cut off."""
        prompt = self._static + summary_prompt.variable_part(lines, before)
        written = self._complete(prompt, grammar(), n_calls)
        return written or self._complete(prompt, grammar(max_sentences=1, sentence_chars=80), n_calls)

    def _complete(self, prompt: str, form: str, n_calls: int) -> Written | None:
        def ask(text: str) -> Completion:
            left_s = self._ends_s - self._monotonic()
            if left_s <= 0:
                raise TransientError("the time for this window is over")
            return self._session.complete(
                text, max_tokens=self._limits.max_tokens_out, grammar=form, timeout_s=left_s / n_calls
            )

        self._completions.append(twice(ask, prompt))
        return parse(self._completions[-1])

    def _fits(self, lines: Sequence[str], before: str) -> bool:
        room = min(self._limits.max_prompt_tokens, self._session.context_tokens - self._limits.max_tokens_out)
        prompt = self._static + summary_prompt.variable_part(lines, before)
        return twice(self._session.count_tokens, prompt) <= room

    def _attempt(self, written: Written | None, reason: Reason, n_parts: int) -> Attempt:
        return Attempt(
            written,
            reason,
            sum(completion.tokens_in for completion in self._completions),
            sum(completion.tokens_out for completion in self._completions),
            sum(completion.tokens_cached for completion in self._completions),
            n_parts,
        )


def parse(completion: Completion) -> Written | None:
    """What the model wrote, tidied; None when it was cut off or has not the form."""
    try:
        written = msgspec.json.decode(completion.text.strip(), type=Written)
    except msgspec.DecodeError:
        return None
    return Written(headline=written.headline.strip(), what_happened=" ".join(sentences(written.what_happened)))


def twice(call: Callable[[Argument], Answer], argument: Argument) -> Answer:
    """Call once more after a crash: the worker has been started anew."""
    try:
        return call(argument)
    except WorkerCrashed:
        return call(argument)


def shorter(text: str, max_tokens: int, count_tokens: Callable[[str], int]) -> str:
    """As many of its first words as `max_tokens` allow."""
    words = text.split()
    while words and twice(count_tokens, " ".join(words)) > max_tokens:
        words = words[: len(words) * 3 // 4]
    return " ".join(words)
