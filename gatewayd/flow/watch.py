"""Looks at the flow: every few seconds while nobody asks, every second while somebody does.

Invariant: nothing here happens for a message. A look reads counters and drains what routes noted
(gatewayd.flow.glance); what it cannot keep is counted (`n_left_out` of a listener, `is_sampled` of a route).
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gatewayd.config import schema
from gatewayd.flow.glance import DEPTH_WATCHED
from gatewayd.flow.history import EVERY_S, Key, Points, Rates, Seen, Sight
from gatewayd.flow.snapshot import flow_of, history_of
from gatewayd.models.digest import ManifestDigests
from gatewayd.status import Depths
from gatewayd.wiring import Parts

_LINGER_S = 5.0  # who asks again and again without listening is looked for that long
_FRESH_S = 0.5  # several who ask at once get the same answer


@dataclass(slots=True)
class Listener:
    """Somebody who gets results as they come. `route`: of this one alone; "" is all."""

    route: str
    waiting: deque[Seen]
    n_left_out: int = 0  # results that were not sent, since the last that was

    def offer(self, seen: Seen) -> None:
        """One more, in place of the oldest where there is no room."""
        if len(self.waiting) == self.waiting.maxlen:
            self.n_left_out += 1
        self.waiting.append(seen)


@dataclass(slots=True)
class _Looked:
    at_s: float = float("-inf")
    flow: bytes = b"{}"


@dataclass(slots=True)
class FlowWatch:
    """The flow as of the last look. On the event loop's thread."""

    parts: Parts
    depths: Depths
    config: schema.Web
    more: Callable[[], dict[str, Any]] = dict  # what else belongs into the picture: the demo's switches
    rates: Rates = field(default_factory=Rates)
    points: Points = field(init=False)
    sights: dict[str, Sight] = field(init=False)
    listeners: list[Listener] = field(default_factory=list)
    digests: ManifestDigests = field(init=False)
    monotonic: Callable[[], float] = time.monotonic
    _n_seen: dict[str, int] = field(default_factory=dict)
    _asked_s: float = float("-inf")
    _point_s: float = float("-inf")
    _last: dict[Key, float] = field(default_factory=dict)
    _looked: _Looked = field(default_factory=_Looked)

    def __post_init__(self) -> None:
        history_s, n = self.config.history_s, self.config.max_results
        self.points = Points(history_s)
        self.sights = {name: Sight(name, history_s, n) for name in self.parts.routes}
        self.digests = ManifestDigests(self.parts.ground.paths.models)

    @property
    def is_watched(self) -> bool:
        """Whether somebody listens, or asked a moment ago."""
        return bool(self.listeners) or self.monotonic() - self._asked_s < _LINGER_S

    def flow(self) -> bytes:
        """The snapshot as JSON, without the charts: see gatewayd.flow.snapshot."""
        self.asked()
        if self.monotonic() - self._looked.at_s > _FRESH_S:
            self.look()
            self._looked = _Looked(self.monotonic(), msgspec.json.encode(flow_of(self)))
        return self._looked.flow

    def history(self) -> dict[str, Any]:
        """The charts: see gatewayd.flow.snapshot."""
        return history_of(self)

    @property
    def n_points(self) -> int:
        """How many points the charts have had; another number is another picture."""
        return self.points.n

    def asked(self) -> None:
        """Somebody looks."""
        self._asked_s = self.monotonic()
        self._set_depth()

    @contextmanager
    def listening(self, route: str, room: int) -> Iterator[Listener]:
        """Somebody who gets results from now on, at most `room` of them at once."""
        listener = Listener(route, deque(maxlen=room))
        self.listeners.append(listener)
        self._set_depth()
        try:
            yield listener
        finally:
            self.listeners.remove(listener)

    def look(self) -> None:
        """Read counters, drain notes. Takes a fraction of a millisecond a route."""
        now_s = self.monotonic()
        counts = _counts(self.parts)
        self.rates.look(now_s, counts)
        for name, part in self.parts.routes.items():
            glance, sight = part.context.glance, self.sights[name]
            n_new = glance.n_results - self._n_seen.get(name, 0)
            self._n_seen[name] = glance.n_results
            self._tell(name, sight.see(glance.take(), n_new), n_new)
        if now_s - self._point_s >= EVERY_S:
            self._point(counts, now_s)

    def _tell(self, route: str, seen: Sequence[Seen], n_new: int) -> None:
        for listener in self.listeners:
            if listener.route in ("", route):
                listener.n_left_out += n_new - len(seen)
                for each in seen:
                    listener.offer(each)

    def _point(self, counts: dict[Key, float], now_s: float) -> None:
        over_s = min(now_s - self._point_s, 10 * EVERY_S)
        grown = {key: round((n - self._last.get(key, 0.0)) / over_s, 2) for key, n in counts.items()}
        pending = self.depths.pending_with(self.parts)
        stand = {("pending", ""): float(sum(pending.values())), ("used_bytes", ""): float(self.parts.spool.used_bytes)}
        if self._point_s > float("-inf"):  # of what was before the first look nobody knows how long it took
            self.points.add({**grown, **stand})
            for sight in self.sights.values():
                sight.point()
        self._point_s, self._last = now_s, counts

    def _set_depth(self) -> None:
        """Routes note more while somebody looks, and the spool is looked at more often."""
        is_watched = self.is_watched
        for part in self.parts.routes.values():
            part.context.glance.depth = DEPTH_WATCHED if is_watched else 1
        self.depths.watch(is_watched=is_watched)

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            self.look()
            self._set_depth()
            await asyncio.sleep(min(EVERY_S, self.config.flow_every_s) if self.listeners else EVERY_S)


def _counts(parts: Parts) -> dict[Key, float]:
    """Counters by what and of whom; "" is all together."""
    telemetry = parts.ground.telemetry
    counts: dict[Key, float] = {}
    for name, part in parts.routes.items():
        counts["received", name] = telemetry.total("gatewayd.messages.received", name)
        counts["handled", name] = telemetry.total("gatewayd.messages.handled", name)
        counts["results", name] = float(part.context.glance.n_results)
    for (sink, _route), n in telemetry.totals("gatewayd.results.delivered").items():
        counts["delivered", sink] = counts.get(("delivered", sink), 0.0) + n
    for name, figures in parts.models.stats().items():
        counts["tokens_out", name] = figures.get("tokens_out", 0.0)
        counts["calls", name] = figures.get("calls", 0.0)
    for what in ("received", "results", "delivered"):
        counts[what, ""] = sum(n for (each, _), n in counts.items() if each == what)
    return counts
