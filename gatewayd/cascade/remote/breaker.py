"""The circuit breaker of one tier: up, down, half-open while one question probes it.

Invariants: while the tier is down nothing is sent until its pause is over, and then one request, which decides; a
pause that the far side asked for is kept to the second, over a restart too. Of requests that were under way together
only the first failure counts, for they all say the same.
"""

from collections.abc import Callable
from typing import Literal, Protocol

import structlog

from gatewayd.errors import TierMisconfigured, TierUnavailable
from gatewayd.ports import Clock, Draw
from gatewayd.retry import full_jitter_s

log = structlog.get_logger(__name__)

State = Literal["up", "down", "half-open"]
STATES: tuple[State, ...] = ("up", "down", "half-open")

_MIN_ASKED_S = 1.0  # a Retry-After below this is no pause: our own backoff then holds as well


class BreakerReport(Protocol):
    """Who is told that a tier went down or came back."""

    def tier_down(self, tier: str, reason: str) -> None:
        """`reason` is short and stable: "timeout", "unavailable" or "misconfigured"."""

    def tier_up(self, tier: str) -> None:
        """It answers again."""


def _forget(_delay_s: float) -> None:
    pass


class Breaker:
    """One tier's. Every request takes a ticket and ends in `worked` or `failed`, or is cancelled."""

    def __init__(
        self,
        tier: str,
        *,
        retry_max_s: float,
        repeat_s: float,
        clock: Clock,
        draw: Draw,
        report: BreakerReport,
        held_s: float = 0.0,
        hold: Callable[[float], None] = _forget,
    ) -> None:
        """Down for the first `held_s`: what is left of a pause that the tier asked for before a restart. `hold` is
        told of each such pause, to keep it."""
        self._tier = tier
        self._retry_max_s = retry_max_s
        self._repeat_s = repeat_s
        self._clock = clock
        self._draw = draw
        self._report = report
        self._hold = hold
        self._epoch = 0  # a ticket of an earlier one is stale: what it says is known already
        self._failures = 0  # in a row; 0 while the tier is up
        self._down_since_s = clock.monotonic()
        self._due_at_s = self._down_since_s + held_s
        self._is_probing = False
        self._logged_at_s = float("-inf")
        self._logged_reason = ""
        self._reason = ""
        if held_s > 0:
            self._failures = 1
            self._reason = "unavailable"
            report.tier_down(tier, "unavailable")

    @property
    def state(self) -> State:
        """As it is now."""
        if self._failures == 0:
            return "up"
        return "half-open" if self._is_probing else "down"

    @property
    def reason(self) -> str:
        """Why it is down; "" while it is up."""
        return self._reason if self._failures else ""

    @property
    def rest_s(self) -> float:
        """How long until it may be probed, in seconds; 0 while it is up."""
        return max(0.0, self._due_at_s - self._clock.monotonic()) if self._failures else 0.0

    def ticket(self) -> int:
        """For one request."""
        return self._epoch

    def begin_probe(self) -> None:
        """From now on it is half-open, until `end_probe`. Raises TierUnavailable while its pause is not over."""
        if rest_s := self.rest_s:
            raise TierUnavailable(f"tier {self._tier} is down ({self._reason})", retry_after_s=rest_s)
        self._is_probing = True

    def end_probe(self) -> None:
        """The probe was answered, failed, or was cancelled. Synchronous: fit for a `finally`."""
        self._is_probing = False

    def worked(self, ticket: int) -> None:
        """The far side answered, whatever it said about the questions."""
        if ticket != self._epoch or not self._failures:
            return
        after_s, failures = self._clock.monotonic() - self._down_since_s, self._failures
        self._failures = 0
        self._epoch += 1
        self._logged_at_s = float("-inf")
        log.info("tier is up again", tier=self._tier, after_s=round(after_s, 3), attempts=failures)
        self._report.tier_up(self._tier)

    def failed(self, ticket: int, cause: TierUnavailable, reason: str) -> TierUnavailable:
        """The far side gave no answer. The same error, with the pause until the next probe."""
        now_s, asked_s = self._clock.monotonic(), cause.retry_after_s
        if ticket == self._epoch:
            self._epoch += 1
            self._failures += 1
            self._reason = reason
            if self._failures == 1:
                self._down_since_s = now_s
                self._report.tier_down(self._tier, reason)
            self._due_at_s = now_s + self._delay_s(asked_s)
            self._say(cause, now_s, reason)
        elif asked_s is not None and self._failures:
            self._due_at_s = max(self._due_at_s, now_s + asked_s)
        if asked_s:
            self._hold(asked_s)
        cause.retry_after_s = self.rest_s
        return cause

    def _delay_s(self, asked_s: float | None) -> float:
        if asked_s is not None and asked_s >= _MIN_ASKED_S:
            return asked_s
        own_s = full_jitter_s(self._failures, draw=self._draw(), cap_s=self._retry_max_s)
        return max(own_s, asked_s or 0.0)

    def _say(self, cause: TierUnavailable, now_s: float, reason: str) -> None:
        if reason == self._logged_reason and now_s - self._logged_at_s < self._repeat_s:
            return
        self._logged_at_s, self._logged_reason = now_s, reason
        # A misconfigured tier waits for a person; one that is away comes back by itself.
        say = log.error if isinstance(cause, TierMisconfigured) else log.warning
        fields = {"hint": cause.hint} if cause.hint else {}
        say(
            "tier is down",
            tier=self._tier,
            reason=reason,
            cause=str(cause),
            attempts=self._failures,
            delay_s=round(self.rest_s, 3),
            **fields,
        )
