"""Facts about a window of texts, counted and not guessed: what was said how often, by which devices, how bad.

Texts of one statement are found as in Drain (He et al. 2017, "Drain: an online log parsing approach with fixed depth
tree"): same number of words, same first word, most of the others alike once numbers and addresses are masked.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gatewayd_handlers.text_masks import masked_words, without_prefix

Severity = Literal["info", "notice", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("info", "notice", "warning", "critical")

MINUTES = 1440  # of a day
MAX_WORDS = 60  # of a text; what comes after does not tell statements apart
_ALIKE = 0.6  # share of words two texts of a statement have in common
# Most statements told apart in a window; texts beyond are counted. A text is compared with those of its length.
MAX_STATEMENTS = 500

_EVIDENCE: tuple[tuple[Severity, re.Pattern[str]], ...] = (
    (
        "critical",
        re.compile(
            r"panic|fatal|emerg|critical|\bcrit\b|out of memory|oom.killer|segfault|overheat|fire\b|smoke|leak detected"
            r"|corrupt|data loss|emergency|shutting down|shut down|tripped",
            re.IGNORECASE,
        ),
    ),
    (
        "warning",
        re.compile(
            r"fail|error|denied|invalid|refused|time[d ]?-?out|unreachable|break-?in|abort|exceed"
            r"|too (?:many|high|low|hot)|lost|unable|cannot|could not|overflow|abnormal|alarm|alert|warn"
            r"|jam|stuck|blocked|leak",
            re.IGNORECASE,
        ),
    ),
    (
        "notice",
        re.compile(
            r"retry|restart|reconnect|disconnect|closed|unknown|notice|changed|degraded|missing|slow|late\b|started|stopped"
            r"|accepted|logged",
            re.IGNORECASE,
        ),
    ),
)
# "no error", "0 errors", "failed: 0", "corrected": the word stands there and nothing is wrong.
_HARMLESS = re.compile(
    r"\b(?:no|0|without) (?:\w+ )?(?:errors?|fail\w*|alarms?|alerts?|warnings?)|(?:errors?|fail\w*|alarms?)[:=] ?0\b"
    r"|errors?(?:\W+\w+){0,4}?\W+corrected",
    re.IGNORECASE,
)


@dataclass(slots=True)
class Statement:
    """Texts that differ in numbers, addresses and a few words only."""

    words: list[str]  # `*` where they differ
    example: str  # the first of them
    severity: Severity
    n: int = 0
    first: float = 0.0  # seconds since the epoch
    last: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known for sure about a window."""

    n_texts: int
    start: float
    end: float
    statements: Sequence[Statement]  # the worst first, then the most frequent
    n_other: int  # texts beyond the most statements that are told apart
    devices: Sequence[str]  # the most frequent first
    device_counts: Sequence[int]  # how many texts named each of them
    minutes: frozenset[int]  # of the day (UTC) in which a text came
    severity: Severity


@dataclass(slots=True)
class _Miner:
    by_shape: dict[tuple[int, str], list[Statement]] = field(default_factory=dict)
    n_statements: int = 0
    n_other: int = 0

    def add(self, text: str, time: float) -> None:
        text = without_prefix(text)
        words = masked_words(text)[:MAX_WORDS]
        group = self.by_shape.setdefault((len(words), words[0] if words else ""), [])
        found = next((known for known in group if alike(known.words, words)), None)
        if found is None:
            if self.n_statements >= MAX_STATEMENTS:
                self.n_other += 1
                return
            self.n_statements += 1
            found = Statement(list(words), text, evidence(text), 0, time, time)
            group.append(found)
        found.words = [a if a == b else "*" for a, b in zip(found.words, words, strict=True)]
        found.n += 1
        found.first, found.last = min(found.first, time), max(found.last, time)


def mine(texts: Sequence[tuple[float, str]], start: float, end: float, devices: Iterable[str]) -> Facts:
    """The facts of a window of (time, text); `devices` names the device of a text wherever one is known."""
    miner = _Miner()
    for time, text in texts:
        miner.add(text, time)
    statements = [statement for group in miner.by_shape.values() for statement in group]
    named = Counter(devices).most_common()
    # Of the same severity, what happened often comes first, then what happened early: the order is stable.
    statements.sort(key=lambda s: (-SEVERITIES.index(s.severity), -s.n, s.first))
    return Facts(
        n_texts=len(texts),
        start=start,
        end=end,
        statements=statements,
        n_other=miner.n_other,
        devices=[name for name, _ in named],
        device_counts=[n for _, n in named],
        minutes=frozenset(int(time // 60) % MINUTES for time, _ in texts),
        severity=statements[0].severity if statements else "info",
    )


def evidence(text: str) -> Severity:
    """How bad a text sounds, by its words."""
    text = _HARMLESS.sub(" ", text)
    return next((severity for severity, pattern in _EVIDENCE if pattern.search(text)), "info")


def alike(known: Sequence[str], words: Sequence[str]) -> bool:
    """Whether two texts of the same number of words are of one statement."""
    if not words:
        return True
    return sum(a in ("*", b) for a, b in zip(known, words, strict=True)) >= _ALIKE * len(words)
