"""Blacking out what must not leave this box, before it leaves. Pure.

Invariants: what a tier outside of this box is shown is `redact(value)`, for every text in it, keys of mappings included
and numbers as they are written; what cannot be looked through (a text that is too long, a value too deep, a value of an
unknown kind) does not leave either. A replacement says what was there, `[email]`, and nothing of it.
"""

import hashlib
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from gatewayd.cascade.patterns import NAMED, Find, Span
from gatewayd.errors import ConfigError

MAX_CHARS = 32_768  # of one text: a tenth of a second for the slowest of our own patterns on x86
MAX_DEPTH = 200  # of lists and mappings in each other
OWN = "redacted"  # the name of an expression without a named group

_NAME = re.compile(r"[a-z_]+")

Finder = Callable[[str], Iterator[tuple[Span, str]]]  # where, and the name of what is there
Count = Callable[[str, int], None]


def redaction(
    patterns: Sequence[str],
    *,
    key: str = "escalation.redact",
    max_chars: int = MAX_CHARS,
    count: Count | None = None,
) -> Callable[[Any], Any]:
    """What to put every value through that leaves.

    Args:
        patterns: names of `gatewayd.cascade.patterns`, or regular expressions; what an expression finds becomes
            `[redacted]`, or the name of its group: `(?P<badge>B-[0-9]+)` gives `[badge]`.
        key: dotted key of the patterns in config.toml, for messages.
        max_chars: a longer text does not leave: `[too long]`.
        count: told how often each pattern was found.

    Raises ConfigError for what is no expression.
    """
    for index, pattern in enumerate(patterns):
        problem = problem_of(pattern)
        if problem:
            raise ConfigError(f"{key}[{index}]", problem)
    redactor = Redactor(patterns, max_chars=max_chars)

    def redact(value: Any) -> Any:
        shown, found = redactor.redact(value)
        if count is not None:
            for name, n in found.items():
                count(name, n)
        return shown

    return redact


def key_that_leaves(key: str, redact: Callable[[Any], Any]) -> str:
    """A message's key as it may leave: itself, or a digest of it where something in it would be blacked out.

    Always the same for the same key: answers are matched by it, and the far side knows a question again.
    """
    return key if redact(key) == key else hashlib.blake2b(key.encode(), digest_size=16).hexdigest()


def problem_of(pattern: str) -> str:
    """What is wrong with an entry of `redact`; "" when nothing is."""
    if pattern in NAMED:
        return ""
    if _NAME.fullmatch(pattern):
        near = get_close_matches(pattern, NAMED, n=1)
        meant = f"did you mean `{near[0]}`?" if near else f"the names are {', '.join(NAMED)}."
        return f"`{pattern}` is no pattern's name: {meant} As an expression it is written (?:{pattern})"
    try:
        compiled = _compile(pattern)
    except (re.error, OverflowError, RecursionError) as failure:
        return f"is no regular expression: {failure}"
    return (
        "the expression matches the empty text: write `+` for `*`, or what must be there" if compiled.match("") else ""
    )


def is_explosive(pattern: str) -> bool:
    """Whether an expression may take time that grows exponentially with the text: a repetition within a repetition.

    A rule of thumb, for a warning: `(a+)+` explodes, and so may what this does not see.
    """
    without_classes = re.sub(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", "x", pattern)
    repeated = r"(?:[*+]|\{\d*,\d*\})"
    while (smaller := re.sub(rf"\((?:\?(?:P<\w+>|[:=!]|<[=!]))?([^()]*)\)(?!{repeated})", r"\1", without_classes)) != (
        without_classes
    ):
        without_classes = smaller
    return re.search(rf"\([^()]*{repeated}[^()]*\){repeated}", without_classes) is not None


class Redactor:
    """Patterns, ready to be used."""

    def __init__(self, patterns: Sequence[str], *, max_chars: int = MAX_CHARS) -> None:
        """`patterns` and `max_chars` as of `redaction`. Own expressions first: they know most about the text."""
        self._max_chars = max_chars
        own = [_own(_compile(pattern)) for pattern in patterns if pattern not in NAMED]
        self._finders: list[Finder] = [*own, *(_named(name, find) for name, find in NAMED.items() if name in patterns)]

    def redact(self, value: Any) -> tuple[Any, Mapping[str, int]]:
        """The value as it may leave, and how often each pattern was found."""
        found: Counter[str] = Counter()
        return self._shown(value, found, MAX_DEPTH), found

    def _shown(self, value: Any, found: Counter[str], depth: int) -> Any:
        if not self._finders or value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return self._text(value, found)
        if isinstance(value, int | float):
            text = repr(value)
            shown = self._text(text, found)
            return value if shown == text else shown
        if isinstance(value, Mapping | list | tuple) and depth > 0:
            return self._container(value, found, depth - 1)
        found["unknown"] += 1
        return "[unknown]"

    def _container(self, value: Mapping[Any, Any] | Sequence[Any], found: Counter[str], depth: int) -> Any:
        if not isinstance(value, Mapping):
            return [self._shown(item, found, depth) for item in value]
        shown: dict[str, Any] = {}
        for key, item in value.items():
            name = self._text(str(key), found)
            shown[_free(name, shown)] = self._shown(item, found, depth)
        return shown

    def _text(self, text: str, found: Counter[str]) -> str:
        if len(text) > self._max_chars:
            found["too_long"] += 1
            return "[too long]"
        for find in self._finders:
            pieces, position = [], 0
            for (start, end), name in find(text):
                pieces += [text[position:start], f"[{name}]"]
                position = end
                found[name] += 1
            if position or pieces:
                text = "".join([*pieces, text[position:]])
        return text


def _free(name: str, taken: Mapping[str, Any]) -> str:
    """Two keys that look the same now stay two."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name} {number}"
    return free


def _named(name: str, find: Find) -> Finder:
    def found(text: str) -> Iterator[tuple[Span, str]]:
        return ((span, name) for span in sorted(find(text)))

    return found


def _own(pattern: re.Pattern[str]) -> Finder:
    def found(text: str) -> Iterator[tuple[Span, str]]:
        return (((match.start(), match.end()), match.lastgroup or OWN) for match in pattern.finditer(text) if match[0])

    return found


def _compile(pattern: str) -> re.Pattern[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of sets within sets, which mean what they mean
        return re.compile(pattern)
