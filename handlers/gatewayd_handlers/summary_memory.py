"""What is remembered from window to window: which statements were seen in how many windows, and the last headlines.

All of it is bounded, changes after a window was summarized and not before, and is forgotten by a restart: everything
is new then.
"""

import dataclasses
from collections import OrderedDict
from collections.abc import Sequence

from gatewayd_handlers.summary_facts import SEVERITIES, Facts, Statement, alike

_RARE = 0.1  # a statement seen in less than this share of the windows is rare
Words = tuple[str, ...]


class Familiar:
    """Statements of earlier windows. The one unseen for the longest is evicted."""

    def __init__(self, max_statements: int) -> None:
        self._max_statements = max_statements
        self._windows: OrderedDict[Words, int] = OrderedDict()  # how many windows had the statement
        self._by_shape: dict[tuple[int, str], list[Words]] = {}
        self._n_windows = 0

    def __len__(self) -> int:
        return len(self._windows)

    def rank(self, facts: Facts) -> Facts:
        """The facts with what matters most first: the worst; of those what was never seen before, then what is rare
        over the windows; of those the most frequent in this one, then the earliest."""
        ordered = sorted(
            facts.statements, key=lambda s: (-SEVERITIES.index(s.severity), self._familiarity(s), -s.n, s.first)
        )
        return dataclasses.replace(facts, statements=ordered)

    def remember(self, statements: Sequence[Statement]) -> None:
        """One more window had these."""
        self._n_windows += 1
        for statement in statements:
            words = tuple(statement.words)
            known = self._find(words)
            n_windows = 1
            if known is not None:
                n_windows += self._forget(known)
                words = tuple(a if a == b else "*" for a, b in zip(known, words, strict=True))
            self._windows[words] = n_windows + self._windows.pop(words, 0)
            group = self._by_shape.setdefault(_shape(words), [])
            if words not in group:
                group.append(words)
        while len(self._windows) > self._max_statements:
            self._forget(next(iter(self._windows)))

    def _familiarity(self, statement: Statement) -> int:
        """0 new, 1 rare, 2 usual."""
        known = self._find(tuple(statement.words))
        if known is None:
            return 0
        return 1 if self._windows[known] < _RARE * self._n_windows else 2

    def _find(self, words: Words) -> Words | None:
        return next((known for known in self._by_shape.get(_shape(words), ()) if alike(known, words)), None)

    def _forget(self, words: Words) -> int:
        group = self._by_shape[_shape(words)]
        group.remove(words)
        if not group:
            del self._by_shape[_shape(words)]
        return self._windows.pop(words)


def _shape(words: Words) -> tuple[int, str]:
    return len(words), words[0] if words else ""


class Headlines:
    """The last headline of each of the `max_devices` devices whose windows came last."""

    def __init__(self, max_devices: int) -> None:
        self._max_devices = max_devices
        self._by_device: OrderedDict[str, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_device)

    def of(self, device: str) -> str:
        """What was reported of the device's window before, or ""."""
        return self._by_device.get(device, "")

    def remember(self, device: str, headline: str) -> None:
        """This is the last one now."""
        self._by_device[device] = headline
        self._by_device.move_to_end(device)
        while len(self._by_device) > self._max_devices:
            self._by_device.popitem(last=False)
