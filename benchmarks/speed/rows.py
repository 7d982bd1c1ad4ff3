"""One figure as a row of the table, and how often it was taken."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

REPEATS = 5


@dataclass(frozen=True, kw_only=True)
class Row:
    """A median, what it was measured beside, and what it is to reach."""

    id: str  # the number, and a letter where a number has several figures
    what: str
    value: float
    unit: str
    baseline: str = ""  # what ran beside it
    ratio: float | None = None  # value : baseline, the median of pairs taken one after the other
    reach: str = ""
    ok: bool | None = None  # None: reported, nothing to reach
    spread: str = ""  # least and most of the values

    def as_dict(self) -> dict[str, Any]:
        """The row as it stands in the JSON file."""
        return asdict(self)


@dataclass(frozen=True)
class Taken:
    """What was measured of one thing, once a round."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The one to quote."""
        return statistics.median(self.values)

    @property
    def spread(self) -> str:
        """Least and most."""
        return f"{number(min(self.values))} to {number(max(self.values))}"

    def over(self, other: "Taken") -> float:
        """The median of this : other, round by round."""
        return statistics.median([mine / its for mine, its in zip(self.values, other.values, strict=True)])


def rounds(takes: Sequence[Callable[[], float]], n_rounds: int = REPEATS) -> list[Taken]:
    """Each taken once a round, in turn, so that a machine that slows down does so for all of them."""
    values: list[list[float]] = [[] for _ in takes]
    for _ in range(n_rounds):
        for kept, take in zip(values, takes, strict=True):
            kept.append(take())
    return [Taken(tuple(kept)) for kept in values]


def number(value: float) -> str:
    """For people."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
