"""One lease on its way: which parts are still to be sent, and what became of the others. Pure.

A part that is refused or too large is cut in two until the culprit stands alone; the parts are tried oldest first, so
that order within a route is kept. With k culprits among n results that takes at most 1 + 2k·ceil(log2 n) requests.
What is settled is remembered over a failed attempt: results that the far side has confirmed are not sent again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gatewayd.ports import StoredResult

Part = tuple[StoredResult, ...]

TOO_LARGE = "too_large"


@dataclass(slots=True)
class Settled:
    """What the far side said about results that are still leased or nacked, by row; None: it stored them.

    Bounded by one lease: rows leave with their lease's ack, or when the spool has moved past them (eviction).
    """

    verdicts: dict[int, str | None] = field(default_factory=dict)

    def forget_before(self, row: int) -> None:
        """Rows before `row` are no longer in the spool."""
        self.verdicts = {known: why for known, why in self.verdicts.items() if known >= row}


class Delivery:
    """The parts of one lease. Take `next()`, send it, and say what happened."""

    def __init__(self, results: Sequence[StoredResult], settled: Settled) -> None:
        if results:
            settled.forget_before(results[0].row)
        self._results = results
        self._settled = settled
        todo = tuple(result for result in results if result.row not in settled.verdicts)
        self._parts: list[Part] = [todo] if todo else []  # a stack: the oldest part is last

    def next(self) -> Part | None:
        """The oldest part not yet settled; None when all are."""
        return self._parts[-1] if self._parts else None

    def stored(self, refused: Mapping[str, str]) -> None:
        """The far side stored the part, but for the keys in `refused` (key -> why)."""
        for result in self._parts.pop():
            self._settled.verdicts[result.row] = refused.get(result.key)

    def too_large(self) -> None:
        """The part is too large: cut it in two; a single result will never go."""
        self._cut(TOO_LARGE)

    def refused(self, why: str) -> None:
        """Something in the part is refused: cut it in two; a single result is the culprit."""
        self._cut(why)

    def outcome(self) -> dict[str, str]:
        """The keys refused for good and why. Only when `next()` is None; the lease's results are then forgotten."""
        verdicts = ((result.key, self._settled.verdicts.pop(result.row)) for result in self._results)
        return {key: why for key, why in verdicts if why is not None}

    def _cut(self, why: str) -> None:
        part = self._parts.pop()
        if len(part) == 1:
            self._settled.verdicts[part[0].row] = why
            return
        middle = len(part) // 2
        self._parts += [part[middle:], part[:middle]]
