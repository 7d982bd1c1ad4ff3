"""What a summary says and its window does not: the check that a language model needs. Pure.

Looked at is what a small model is known to invent: names with digits in them, numbers and times ("door-7", "41 times",
"at 23:10"), words it has from the prompt's examples ("compressor"), and words of trouble ("failed") where nothing of
the kind was said. That a summary passes does not make it true; that it does not pass makes it unusable. Names without
a digit are not looked at; what can be derived is counted, no more: see benchmarks/grounding.py for the figures.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Literal, get_args

import msgspec

from gatewayd_handlers.summary_counts import Subjects
from gatewayd_handlers.summary_facts import MINUTES, SEVERITIES, Facts
from gatewayd_handlers.summary_form import Written, sentences

# "1,200", or a run of what names, numbers, addresses and times are made of: "door-7", "10.0.0.1:80", "0x1f".
# Possessive, because a text may be one word of a million letters.
_RUN = re.compile(r"(?<![\w,])\d{1,3}(?:,\d{3})++(?![\w,])|[\w.:/-]++")
_DIGIT = re.compile(r"\d")
_PLAIN_NUMBER = re.compile(r"\d+(?:,\d{3})*")
_ADDRESS = re.compile(r"\d+(?:\.\d+){2,}(?::\d+)?")
_PARTS = re.compile(r"\W+|_|(?<=[a-z])(?=\d)")
_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?")
_WORD = re.compile(r"[^\W\d_]{4,}")
# Stems: "fail" stands for failed, failure, failing.
_TROUBLE = re.compile(
    r"fail|error|fatal|panic|crash|denied|invalid|refus|unreachable|abort|exceed|lost|unable|overflow|abnormal|alarm"
    r"|corrupt|attack|break-in|timed? ?out|restart|reboot|shut ?down|unauthori[sz]ed|unsuccessful|stuck|jammed|leak",
    re.IGNORECASE,
)
_FROM_TWO = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_NUMBER_WORDS = {word: n for n, word in enumerate(_FROM_TWO, start=2)} | {"twice": 2, "thrice": 3, "dozen": 12}
_TIMES = ("twice", "thrice")  # "times" included
_IN_WORDS = re.compile(rf"\b(?:{'|'.join(_NUMBER_WORDS)})\b", re.IGNORECASE)
_COUNTED = re.compile(r"\s*(?:x\b|times\b|messages\b|lines\b|entries\b|occurrences\b)", re.IGNORECASE)
_PERCENT = re.compile(r"\s*(?:%|percent\b)")


class Span(msgspec.Struct, frozen=True):
    """A part of a text: `text[start:end]`."""

    start: int
    end: int
    text: str


Field = Literal["headline", "what_happened"]


class Unsupported(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a summary as the model wrote it: `written.<field>[start:end]`, and what stands there."""

    field: Field
    start: int
    end: int
    text: str


class Grounds:
    """What a summary of a window may say. `examples` are the texts of the prompt's examples."""

    def __init__(self, texts: Iterable[str], facts: Facts, examples: Sequence[str]) -> None:
        self._window = "\n".join(texts).lower()
        self._squeezed = self._window.replace(" ", "")
        self._facts = facts
        self._counts = _counts(facts)
        self._subjects = Subjects(facts)
        self._echoes = {word.lower() for example in examples for word in _WORD.findall(example)}

    @cached_property
    def _numbers(self) -> frozenset[str]:
        """Numbers that stand alone, and parts of names: "3" of "pump-3", for it may be written "pump 3". What stands in
        an address or a time is neither. Looked for when something was written: most windows are large."""
        tokens = {token for token, _, _ in _with_digit(self._window)}
        names = [token for token in tokens if not _ADDRESS.fullmatch(token) and not _TIME.fullmatch(token)]
        return frozenset(part for name in names for part in (name, *_PARTS.split(name)))

    def unsupported(self, written: str) -> list[Span]:
        """The parts of `written` that neither the window's texts nor its facts support, in order."""
        found = {(start, end) for start, end in self._unsupported(written)}
        return [Span(start, end, written[start:end]) for start, end in sorted(found)]

    def check(self, written: Written) -> list[Unsupported]:
        """The same for both texts of a summary."""
        return [
            Unsupported(field=field, start=span.start, end=span.end, text=span.text)
            for field in get_args(Field)
            for span in self.unsupported(getattr(written, field))
        ]

    def keep(self, written: Written) -> Written | None:
        """What may be kept: a sentence with such a part is left out, and nothing is kept when the headline has one or
        no sentence is left."""
        kept = " ".join(each for each in sentences(written.what_happened) if not self.unsupported(each))
        if not kept or self.unsupported(written.headline):
            return None
        return Written(headline=written.headline, what_happened=kept)

    def _unsupported(self, written: str) -> Iterator[tuple[int, int]]:
        for name, start, end in _with_digit(written):
            if not self._has(name.lower(), written, start, end):
                yield start, end
        for match in _IN_WORDS.finditer(written):
            word = match.group().lower()
            n, is_times = _NUMBER_WORDS[word], word in _TIMES or _COUNTED.match(written, match.end())
            if not self._stands(word) and not self._is_count(n, written, match.start(), bool(is_times)):
                yield match.span()
        for match in _WORD.finditer(written):
            if match.group().lower() in self._echoes and not self._is_known(match.group()):
                yield match.span()
        for match in _TROUBLE.finditer(written):
            if match.group().lower().replace(" ", "") not in self._squeezed:
                yield match.span()

    def _has(self, name: str, written: str, start: int, end: int) -> bool:
        """Whether a name, number or time is the window's; it stands at `written[start:end]`."""
        if _PLAIN_NUMBER.fullmatch(name):
            return self._has_number(name.replace(",", ""), written, start, end)
        if (time := _TIME.fullmatch(name)) and self._is_within(time):
            return True
        if name.endswith("x") and name[:-1].isdigit():
            return int(name[:-1]) in self._counts
        return self._stands(name)

    def _has_number(self, number: str, written: str, start: int, end: int) -> bool:
        n = int(number) if len(number) < 16 else -1
        if counted := _COUNTED.match(written, end):
            is_count = self._is_count(n, written, start, is_times="times" in counted.group().lower())
            return is_count or self._stands(f"{number}{counted.group().lower()}")
        percents = {round(100 * count / max(1, self._facts.n_texts)) for count in self._counts}
        if _PERCENT.match(written, end) and n in percents:
            return True
        return n in self._counts or number in self._numbers

    def _is_count(self, n: int, written: str, at: int, is_times: bool) -> bool:
        return n in self._counts and (not is_times or self._subjects.may_be(n, written, at))

    def _is_within(self, time: re.Match[str]) -> bool:
        """Whether something came in that minute of the day (UTC), or the window begins or ends there; of a full hour:
        whether something came in the hour before or after."""
        hours, minutes, seconds = time.groups()
        minute = int(hours) * 60 + int(minutes)
        bounds = (int(self._facts.start // 60) % MINUTES, int(self._facts.end // 60) % MINUTES)
        if minute in self._facts.minutes or minute in bounds:
            return True
        if minutes != "00" or seconds:
            return False
        return any((each - minute + 60) % MINUTES < 120 for each in self._facts.minutes)

    def _stands(self, name: str) -> bool:
        """Whether the window has it as a name of its own or the whole beginning of one: "r02-m1" of "r02-m1-n0"."""
        return re.search(rf"(?<![^\W_]){re.escape(name)}(?![^\W_]|[.,]\d)", self._window) is not None

    def _is_known(self, word: str) -> bool:
        """Whether the window has the word, or one with the same beginning ("sensors" for "sensor"), or needs none."""
        word = word.lower()
        return word in _PLAIN or word[: max(4, len(word) - 2)] in self._window


def _with_digit(text: str) -> Iterator[tuple[str, int, int]]:
    """Names, numbers and times with a digit in them, and where each stands: `text[start:end]`."""
    for match in _RUN.finditer(text):
        name = match.group().rstrip(".:/-")
        start = match.end() - len(match.group().lstrip(".:/-"))
        name = name[start - match.start() :]
        if _DIGIT.search(name):
            yield name, start, start + len(name)


def _counts(facts: Facts) -> set[int]:
    """What was counted may be said: how often each statement was made, how many there were of which severity, how many
    messages named a device, how many statements and devices there were, and how many messages in all."""
    by_severity = (sum(each.n for each in facts.statements if each.severity == level) for level in SEVERITIES)
    counted = {facts.n_texts, len(facts.statements), len(facts.devices), *facts.device_counts, *by_severity}
    return counted | {statement.n for statement in facts.statements}


# Words that say nothing about a device.
_PLAIN = frozenset(
    re.findall(
        r"\w+",
        "about after again also been before between both during each ever every first from gave have into last many"
        " more most none once only other over same seen some still than that their them then there these they this"
        " three time times twice under until very went were what when where which while with without would found normal"
        " normally message messages problem problems",
    )
)
