"""Of what a summary says that it happened "N times": whether N was counted of that, or of something else. Pure.

What a clause is about is found by the words it shares with the window's statements. Where it shares too few, it may be
about anything, and any count of the window will do: rather a wrong count unmarked than a right one marked.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable

from gatewayd_handlers.summary_facts import Facts

_WORD = re.compile(r"[^\W\d_]{3,}")
_BOUNDARY = re.compile(r"[.;,](?=\s|$)|\n|\b(?:and|but|while|then)\b", re.IGNORECASE)
_STEM_CHARS = 5  # "fails", "failed" and "failure" are one word
_LEAST_WORDS = 2  # shared with a statement, and at least …
_LEAST_SHARE = 0.5  # … so much of the clause
_NEARLY_BEST = 0.7  # of the best share: such statements are meant, too


class Subjects:
    """What was counted in a window, by the words it was said in."""

    def __init__(self, facts: Facts) -> None:
        self._statements = [(_stems(statement.words), statement.n) for statement in facts.statements]
        self._statements_with = Counter(stem for stems, _ in self._statements for stem in stems)
        self._by_device = {name.lower(): n for name, n in zip(facts.devices, facts.device_counts, strict=True)}

    def may_be(self, n: int, written: str, at: int) -> bool:
        """Whether `n`, which stands at `written[at:]` before "times", is a count of what its clause is about."""
        clause = _clause(written, at).lower()
        words = _stems([clause])
        shared = [(self._weight(words & known), count) for known, count in self._statements]
        best = max((weight for weight, _ in shared), default=0.0)
        n_most = max((len(words & known) for known, _ in self._statements), default=0)
        if n_most < _LEAST_WORDS or best < _LEAST_SHARE * self._weight(words):
            return True
        counts = [count for weight, count in shared if weight >= _NEARLY_BEST * best]
        counts += [sum(counts)]
        return n in counts or any(n == count for name, count in self._by_device.items() if name in clause)

    def _weight(self, stems: Iterable[str]) -> float:
        """A word that every statement has tells none of them apart: inverse document frequency (Spärck Jones 1972)."""
        n_statements = len(self._statements)
        return sum(math.log((n_statements + 1) / (self._statements_with[stem] or 1)) for stem in stems)


def _clause(written: str, at: int) -> str:
    begins = max((match.end() for match in _BOUNDARY.finditer(written, 0, at)), default=0)
    ends = _BOUNDARY.search(written, at)
    return written[begins : ends.start() if ends else len(written)]


def _stems(texts: Iterable[str]) -> frozenset[str]:
    words = (word.lower() for text in texts for word in _WORD.findall(text))
    return frozenset(word[:_STEM_CHARS] for word in words if word not in _EMPTY)


# Words that say nothing of what happened.
_EMPTY = frozenset(
    re.findall(
        r"\w+",
        "the was were has have had been for from with that this there its times time seen happened reported once again"
        " also about after before during more most than other others",
    )
)
