"""On what terms a route asks for answers: its priority, and until when an answer is worth anything.

Invariant: a message is never late early. How long ago it arrived is told by the wall clock, which may be set meanwhile;
what was stamped before a clock was set ahead counts as that much younger.
"""

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

from gatewayd.ports import Clock, DeadLetter, RawMessage
from gatewayd.results import dead_letter

_STEP_S = 1.0  # a clock that moved so much against the time since boot was set, and did not drift

Raws = Sequence[RawMessage]


def _due() -> ContextVar[float | None]:
    return ContextVar("due_s", default=None)


class Arrivals:
    """How long ago messages arrived. One event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._looked_at_s = clock.boottime()
        self._lead_s = clock.now() - self._looked_at_s  # of the wall clock, before the time since boot
        self._before = float("-inf")  # what is stamped earlier was stamped before the clock was set …
        self._younger_s = 0.0  # … and is so much younger than it seems

    def ages_s(self, raws: Raws) -> list[float]:
        """Seconds since each arrived; too small rather than too large."""
        now_s, now = self._clock.boottime(), self._clock.now()
        step_s = now - now_s - self._lead_s
        if step_s > _STEP_S:
            self._before = now - (now_s - self._looked_at_s)
            self._younger_s += step_s
        self._looked_at_s, self._lead_s = now_s, now - now_s
        return [now - raw.time - (self._younger_s if raw.time < self._before else 0.0) for raw in raws]


@dataclass(slots=True)
class Terms:
    """The terms of one route. `due_s` (monotonic) is of the batch at hand."""

    route: str
    priority: int
    deadline_s: float | None
    clock: Clock
    arrivals: Arrivals = field(init=False)
    # Written in the task that calls the handler, read in the call, which runs in a copy of that task's context: several
    # lanes of a route call at the same time.
    _due_s: ContextVar[float | None] = field(init=False, default_factory=_due)

    def __post_init__(self) -> None:
        self.arrivals = Arrivals(self.clock)

    @property
    def due_s(self) -> float | None:
        """Until when it is worth anything; None: for ever."""
        return self._due_s.get()

    def left_s(self) -> float | None:
        """For how long the answer at hand is worth anything, in seconds; None: for ever."""
        return None if self.due_s is None else self.due_s - self.clock.monotonic()

    def begin(self, raws: Raws, *, is_window: bool = False) -> tuple[Raws, list[DeadLetter]]:
        """Those whose answer is still wanted, and the others as dead letters. A window is late as a whole, when its
        last message is."""
        self._due_s.set(None)
        if self.deadline_s is None or not raws:
            return raws, []
        ages_s = self.arrivals.ages_s(raws)
        if is_window:
            ages_s = [min(ages_s)] * len(raws)
        in_time = [age_s for age_s in ages_s if age_s <= self.deadline_s]
        if in_time:
            self._due_s.set(self.clock.monotonic() + self.deadline_s - max(in_time))
        if len(in_time) == len(raws):
            return raws, []
        detail = f"its turn came later than deadline_s = {self.deadline_s:g} after it arrived"
        pairs = list(zip(raws, ages_s, strict=True))
        dead = [dead_letter(self.route, raw, "deadline", detail) for raw, age_s in pairs if age_s > self.deadline_s]
        return [raw for raw, age_s in pairs if age_s <= self.deadline_s], dead
