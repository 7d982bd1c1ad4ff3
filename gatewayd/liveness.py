"""Whether the daemon does what it is for. Pure: beats come in, and time does.

A part that beats promises to beat again within its own limit; one that waits for work on purpose rests instead. The
watchdog is fed only while nothing is stuck, so a hang ends in a restart, and nothing durable is lost by that.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(slots=True)
class _Beat:
    at_s: float
    limit_s: float


class Liveness:
    """Beats by name, e.g. "loop", "commit", "worker[gemma]"."""

    def __init__(self) -> None:
        self._beats: dict[str, _Beat] = {}

    def beat(self, name: str, now: float, *, limit_s: float) -> None:
        """Alive at `now` (monotonic seconds), and again within `limit_s`."""
        self._beats[name] = _Beat(now, limit_s)

    def rest(self, name: str) -> None:
        """Nothing is expected of `name` until it beats again."""
        self._beats.pop(name, None)

    def stuck(self, now: float) -> str | None:
        """The part that is longest over its limit, and since when, in words; None when all is well."""
        overdue = {name: now - beat.at_s - beat.limit_s for name, beat in self._beats.items()}
        worst = max(overdue, key=lambda name: overdue[name], default=None)
        if worst is None or overdue[worst] <= 0:
            return None
        return f"{worst} has not moved for {now - self._beats[worst].at_s:.1f} s"

    def ages(self, now: float) -> Mapping[str, float]:
        """Seconds since each part's last beat."""
        return {name: round(now - beat.at_s, 3) for name, beat in self._beats.items()}
