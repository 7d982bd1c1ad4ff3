"""Rates and the last minutes, out of counters that are looked at now and then. Pure: times come in as arguments.

Invariant: everything is bounded: points, routes' labels, results shown. A counter that is younger than a point counts
from 0.
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gatewayd.flow.glance import Committed

EVERY_S = 5.0  # a point of the charts
MAX_LABELS = 8  # of a route's chart; the rest is one line, "other"
_RATE_S = 5.0  # rates are over so long, where there are looks enough
_MAX_LOOKS = 16
_MAX_KNOWN_LABELS = 64  # of a point; what a handler makes up beyond that is "other"
OTHER = "other"

Key = tuple[str, str]  # what is counted, and of whom: ("received", "heat")


class _Label(msgspec.Struct):
    label: Any = None


_decode_label = msgspec.json.Decoder(_Label).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A result for people: `number` counts those of the route, so that gaps show."""

    number: int
    route: str
    time: float
    key: str
    kind: str
    subject: str
    label: str
    data: bytes

    def shown(self) -> dict[str, Any]:
        """As JSON has it; `data` is the result's own."""
        return {
            "route": self.route,
            "number": self.number,
            "time": self.time,
            "key": self.key,
            "kind": self.kind,
            "subject": self.subject,
            "label": self.label,
            "data": msgspec.Raw(self.data),
        }


class Rates:
    """How fast counters grow."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, Mapping[Key, float]]] = deque(maxlen=_MAX_LOOKS)

    def look(self, now_s: float, counts: Mapping[Key, float]) -> None:
        """The counters as they are now."""
        self._looks.append((now_s, counts))

    def per_s(self, what: str, whom: str) -> float:
        """Growth a second over the last few seconds; 0 before there were two looks."""
        if len(self._looks) < 2:
            return 0.0
        now_s, counts = self._looks[-1]
        before = next((look for look in self._looks if now_s - look[0] <= _RATE_S + 0.5), self._looks[-2])
        if before[0] >= now_s:
            before = self._looks[-2]
        grown = counts.get((what, whom), 0.0) - before[1].get((what, whom), 0.0)
        return round(grown / max(now_s - before[0], 1e-3), 2)


class Points:
    """The last minutes: a column of numbers every `EVERY_S`."""

    def __init__(self, history_s: float) -> None:
        self._max = max(2, round(history_s / EVERY_S))
        self._columns: dict[Key, deque[float]] = {}
        self.n = 0

    def add(self, column: Mapping[Key, float]) -> None:
        """One more point. Who is not in it stands at 0, who is new stood at 0 before."""
        self.n += 1
        length = min(self.n, self._max)
        for key in column.keys() - self._columns.keys():
            self._columns[key] = deque([0.0] * (length - 1), maxlen=self._max)
        for key, values in self._columns.items():
            values.append(column.get(key, 0.0))
        for key in [key for key, values in self._columns.items() if not any(values)]:
            if key not in column:
                del self._columns[key]

    def of(self, what: str, whom: str = "") -> list[float]:
        """The numbers, the oldest first; none before the first point."""
        return list(self._columns.get((what, whom), ()))


@dataclass(slots=True)
class Sight:
    """The latest results of one route, and its labels by point."""

    route: str
    history_s: float
    max_results: int
    latest: deque[Seen] = field(init=False)
    is_sampled: bool = False  # some results were not looked at: counts of labels are estimates
    _now: Counter[str] = field(default_factory=Counter)
    _points: deque[Counter[str]] = field(init=False)

    def __post_init__(self) -> None:
        self.latest = deque(maxlen=self.max_results)
        self._points = deque(maxlen=max(2, round(self.history_s / EVERY_S)))

    def see(self, commits: Sequence[Committed], n_new: int) -> list[Seen]:
        """Take in what the route noted; `n_new` results were made, of which these are the ones that were kept."""
        seen: list[Seen] = []
        n_noted = sum(commit.n for commit in commits)
        for commit in commits:
            if not commit.newest:
                continue
            share = commit.n / len(commit.newest) * (n_new / n_noted)
            first = commit.n_before + commit.n - len(commit.newest)
            for index, result in enumerate(commit.newest):
                label = label_of(result.data) or result.kind
                self._count(label, share)
                seen.append(
                    Seen(
                        number=first + index + 1,
                        route=self.route,
                        time=result.time,
                        key=result.key,
                        kind=result.kind,
                        subject=result.subject,
                        label=label,
                        data=result.data,
                    )
                )
        self.is_sampled = self.is_sampled or len(seen) < n_new
        self.latest.extend(seen)
        return seen

    def _count(self, label: str, share: float) -> None:
        known = label in self._now or len(self._now) < _MAX_KNOWN_LABELS
        self._now[label if known else OTHER] += share  # type: ignore[assignment]  # shares of sampled batches

    def point(self) -> None:
        """A point of the charts is full."""
        self._points.append(self._now)
        self._now = Counter()

    def labels(self) -> dict[str, list[int]]:
        """The most frequent labels with their counts by point, the oldest first; the rest is "other"."""
        total: Counter[str] = Counter()
        for point in self._points:
            total.update(point)
        top = [label for label, _ in total.most_common(MAX_LABELS + 1) if label != OTHER][:MAX_LABELS]
        said = {label: [round(point.get(label, 0)) for point in self._points] for label in top}
        rest = [round(sum(n for label, n in point.items() if label not in said)) for point in self._points]
        return {**said, OTHER: rest} if any(rest) else said


def label_of(data: bytes) -> str:
    """The label of a result's data; "" where it has none."""
    try:
        label = _decode_label(data).label
    except msgspec.MsgspecError:
        return ""
    return label[:80] if isinstance(label, str) else ""
