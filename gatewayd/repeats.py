"""Log lines that repeat: the first few are said, the rest is counted, and the count is said when their time is over.

A line is the same as another when event, level and object are: the route, sink, tier or model it is about, and the
short word for why. Only warnings and errors are held back; what happens once in a life (info) always is said.
"""

import threading
import time
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog

Event = MutableMapping[str, Any]
Key = tuple[object, ...]

_LIMITED = frozenset({"warning", "error", "critical", "exception"})
_OBJECT = ("logger", "event", "level", "route", "sink", "tier", "model", "reason")
_MAX_KEYS = 1000  # remembered; they come from code and config, but a handler may make up reasons


class _Said:
    """One line that was said."""

    __slots__ = ("left_out", "n", "since_s")

    def __init__(self, since_s: float) -> None:
        self.since_s, self.n, self.left_out = since_s, 0, 0


class Repeats:
    """A processor of structlog. `configure` may be called again at any time; what is counted stays."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._repeat_s, self._burst = 0.0, 1
        self._said: dict[Key, _Said] = {}
        self._lock = threading.Lock()  # handlers log on their own threads

    def configure(self, repeat_s: float, burst: int) -> None:
        """At most `burst` of the same line within `repeat_s`; 0 s: all of them."""
        self._repeat_s, self._burst = repeat_s, burst

    def __call__(self, _logger: Any, _method: str, event: Event) -> Event:
        """The event, with `left_out` where lines before it were not said. Raises DropEvent."""
        if event.get("level") not in _LIMITED or not self._repeat_s:
            return event
        key = tuple(_plain(event.get(name)) for name in _OBJECT)
        now_s = self._monotonic()
        with self._lock:
            said = self._said.get(key)
            if said is None or now_s - said.since_s >= self._repeat_s:
                self._said.pop(key, None)
                if len(self._said) >= _MAX_KEYS:
                    self._said.pop(next(iter(self._said)))  # the one whose time began first
                n_before = 0 if said is None else said.left_out
                said = self._said[key] = _Said(now_s)
                if n_before:
                    event["left_out"] = n_before
            said.n += 1
            if said.n > self._burst:
                said.left_out += 1
                raise structlog.DropEvent
        return event

    def take_left_out(self) -> list[tuple[dict[str, object], int]]:
        """Lines whose time is over and that were held back since: what they were about, and how many."""
        now_s = self._monotonic()
        with self._lock:
            over = [key for key, said in self._said.items() if now_s - said.since_s >= self._repeat_s]
            ended = [(key, self._said.pop(key).left_out) for key in over]
        return [
            ({name: value for name, value in zip(_OBJECT, key, strict=True) if value is not None}, n)
            for key, n in ended
            if n
        ]


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, str) else repr(value)
