"""What all routes of one sink know about it: whether it is there, when to ask again, how much a request may carry.

While the sink is away one request at a time asks for it, whatever the number of routes, and the pause between two of
them grows with full jitter or is what the far side asked for. A sink that is away for a day costs a few hundred
requests, not a few hundred for each route.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from gatewayd.errors import SinkMisconfigured, SinkUnavailable
from gatewayd.ports import Clock, Draw, Share
from gatewayd.retry import full_jitter_s

log = structlog.get_logger(__name__)

_GROW_AFTER = 8  # requests in a row that fitted before a larger one is tried
_MAX_HALVINGS = 20
_HEAD_START_S = 1.0  # after a failed request the other routes may ask this much earlier than the one that failed
_MIN_ASKED_S = 1.0  # a Retry-After below this is no pause: our own backoff then holds as well


def _forget(_delay_s: float) -> None:
    pass


class GateReport(Protocol):
    """Who is told that a sink went away or came back."""

    def away(self, sink: str, reason: str) -> None:
        """`reason` is short and stable: "timeout", "unavailable" or "misconfigured"."""

    def back(self, sink: str, after_s: float, attempts: int) -> None:
        """The sink is there again, `after_s` seconds and `attempts` failed requests later."""


def reason_of(cause: Exception) -> str:
    """A short stable word for counters."""
    if isinstance(cause, SinkMisconfigured):
        return "misconfigured"
    return "timeout" if isinstance(cause, TimeoutError) else "unavailable"


@dataclass(slots=True)
class Standing:
    """How one route, or a share of it, has fared with the sink."""

    route: str
    failures: int = 0  # in a row, those counted by the gate
    share: Share = "all"

    @property
    def who(self) -> tuple[str, Share]:
        """Under which name the gate knows it."""
        return self.route, self.share


class Room:
    """How much one request may carry: halved when the far side or the link cannot take it, grown again slowly."""

    def __init__(self, *, max_batch: int, max_batch_bytes: int, max_probe: int) -> None:
        self._max_batch = max_batch
        self._max_batch_bytes = max_batch_bytes
        self._max_probe = min(max_probe, max_batch)
        self._halvings = 0
        self._fitted = 0

    def limits(self, *, probe: bool) -> tuple[int, int]:
        """Most results and most bytes of the next request."""
        results = max(1, self._max_batch >> self._halvings)
        if probe:
            results = min(results, self._max_probe)
        return results, max(1024, self._max_batch_bytes >> self._halvings)

    def shrink(self) -> None:
        """A request was too large, or took too long."""
        self._halvings = min(self._halvings + 1, _MAX_HALVINGS)
        self._fitted = 0

    def fitted(self) -> None:
        """A request went through."""
        self._fitted += 1
        if self._halvings and self._fitted >= _GROW_AFTER:
            self._halvings -= 1
            self._fitted = 0


class Gate:
    """Open while the sink is there. Every request takes a ticket with `enter` and ends in `worked` or `failed`.

    Only the first failure of those that were under way together counts, for they all say the same. A route that fails
    alone, while others got through since it failed before, waits alone: a far side that chokes on one route's results
    must not hold up the others. A second route that fails beside it closes the gate.
    """

    def __init__(
        self,
        sink: str,
        *,
        retry_max_s: float,
        repeat_s: float,
        draw: Draw,
        clock: Clock,
        report: GateReport,
        held_s: float = 0.0,
        hold: Callable[[float], None] = _forget,
    ) -> None:
        """Closed for the first `held_s`: what is left of a pause that the far side asked for before a restart. `hold`
        is told of each such pause, to keep it."""
        self._sink = sink
        self._retry_max_s = retry_max_s
        self._repeat_s = repeat_s
        self._draw = draw
        self._clock = clock
        self._report = report
        self._epoch = 0  # a ticket of an earlier epoch is stale: what it says is known already
        self._attempts = 0  # failed requests since the sink went away; 0 while it is there
        self._away_since_s = 0.0
        self._due_at_s = 0.0
        self._probe: asyncio.Event | None = None  # set when the probe under way is answered
        self._waiting: set[tuple[str, Share]] = set()  # routes held up while the sink is away
        self._last_failed: tuple[str, Share] | None = None
        self._lone: tuple[str, Share] | None = None  # the one route that fails while the sink is there
        self._logged_at_s = float("-inf")
        self._logged_reason = ""
        self._hold = hold
        if held_s > 0:
            self._attempts = 1
            self._away_since_s = clock.monotonic()
            self._due_at_s = self._away_since_s + held_s
            log.info("sink asked for a pause before the restart", sink=sink, rest_s=round(held_s, 3))
            report.away(sink, "unavailable")

    @property
    def is_away(self) -> bool:
        """Whether the sink failed to answer and has not answered since."""
        return self._attempts > 0

    async def wait(self, standing: Standing) -> None:
        """Return when the sink is there, or when it is time to ask for it."""
        self._waiting.add(standing.who)
        while self.is_away:
            if self._probe is not None:
                await self._probe.wait()
            elif (rest_s := self._due_at_s + self._head_start_s(standing) - self._clock.monotonic()) > 0:
                await self._clock.sleep(rest_s)
            else:
                break
        self._waiting.discard(standing.who)

    def enter(self) -> int | None:
        """A ticket for one request; None when this is not the time."""
        if self.is_away:
            if self._probe is not None or self._clock.monotonic() < self._due_at_s:
                return None
            self._probe = asyncio.Event()
        return self._epoch

    def worked(self, ticket: int, standing: Standing) -> None:
        """The far side answered the request, whatever it said about the results."""
        standing.failures = 0
        if ticket != self._epoch:
            return
        self._lone = None
        if not self.is_away:
            return
        after_s, attempts = self._clock.monotonic() - self._away_since_s, self._attempts
        self._attempts = 0
        self._turn()
        self._logged_at_s = float("-inf")
        log.info("sink is back", sink=self._sink, after_s=round(after_s, 3), attempts=attempts)
        self._report.back(self._sink, after_s, attempts)

    def failed(self, ticket: int, standing: Standing, cause: Exception) -> float:
        """The far side did not confirm the request. Seconds until the route's results are due again."""
        now_s = self._clock.monotonic()
        asked_s = cause.retry_after_s if isinstance(cause, SinkUnavailable) else None
        if ticket != self._epoch:
            self._due_at_s = max(self._due_at_s, now_s + (asked_s or 0.0))
            self._keep(asked_s)
            return max(0.0, self._due_at_s - now_s) if self.is_away else asked_s or 0.0
        standing.failures += 1
        if not self.is_away and standing.failures > 1 and self._lone in (None, standing.who):
            self._lone = standing.who
            delay_s = self._delay_s(standing.failures, asked_s)
            self._say(cause, now_s, route=standing.route, attempts=standing.failures, delay_s=round(delay_s, 3))
            return delay_s
        self._last_failed = standing.who
        return self._close(cause, now_s, asked_s)

    def _head_start_s(self, standing: Standing) -> float:
        # Else the route that failed would be the one that asks again, for ever, though it may be its own results that
        # the far side chokes on. A head start, and not a turn: the others may have nothing left to send by then.
        others = self._waiting - {standing.who}
        return _HEAD_START_S if others and standing.who == self._last_failed else 0.0

    def _close(self, cause: Exception, now_s: float, asked_s: float | None) -> float:
        went_away = not self.is_away
        self._attempts += 1
        delay_s = self._delay_s(self._attempts, asked_s)
        self._due_at_s = now_s + delay_s
        self._keep(asked_s)
        self._lone = None
        self._turn()
        if went_away:
            self._away_since_s = now_s
            self._report.away(self._sink, reason_of(cause))
        self._say(cause, now_s, attempts=self._attempts, delay_s=round(delay_s, 3))
        return delay_s

    def _delay_s(self, attempt: int, asked_s: float | None) -> float:
        if asked_s is not None and asked_s >= _MIN_ASKED_S:
            return asked_s
        return max(asked_s or 0.0, full_jitter_s(attempt, draw=self._draw(), cap_s=self._retry_max_s))

    def _keep(self, asked_s: float | None) -> None:
        if self.is_away and asked_s is not None and asked_s >= _MIN_ASKED_S:
            self._hold(asked_s)

    def _turn(self) -> None:
        self._epoch += 1
        if self._probe is not None:
            self._probe.set()
            self._probe = None

    def _say(self, cause: Exception, now_s: float, **fields: object) -> None:
        """The first failure and every new kind of it at once, the same again at most every `repeat_s`."""
        reason = reason_of(cause)
        if reason == self._logged_reason and now_s - self._logged_at_s < self._repeat_s:
            return
        self._logged_at_s, self._logged_reason = now_s, reason
        hint = getattr(cause, "hint", "")
        fields |= {"sink": self._sink, "reason": reason, "cause": str(cause)}
        if isinstance(cause, SinkMisconfigured):
            log.error("sink turns us away", hint=hint, **fields)
        else:
            log.warning("sink does not confirm", hint=hint, **fields)
