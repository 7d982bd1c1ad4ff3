"""When a batch is cut, and how large. Pure: counts, ages and durations in, a decision out.

A batch is cut when `max_messages` wait, or when the first of them has waited `max_age_ms`, whichever comes first. A
message that waited while the handler was busy has aged all the same: it is not made to wait again.

With `budget_ms` it is also cut in time for the handler: waiting ends when a full batch could just be answered inside
what is left of the first message's budget, and no more are taken than can be. A first message that is late already
makes no other late: as many go as a whole budget allows, because small batches would only be slower.
"""

import math
from dataclasses import dataclass

from gatewayd.config.schema import BatchLimits

_DECAY = 0.95  # weight of what was known, with each call: the last twenty or so count
_OUTLIER = 4.0  # a call that took so many times what was expected counts as this much: a pause is no trend
_GAIN = 0.25  # of the newest error in the deviation: beta of RFC 6298
_DEVIATIONS = 2.0  # of the mean, added to what is expected: most calls then take less
_LEAST_SPREAD = 0.01  # variance of the sizes by their mean squared, below which a slope would be made of noise


@dataclass(frozen=True, slots=True)
class CallTimes:
    """How long calls take: least squares of `call_s + n * message_s` over the last calls, old ones weighing less.

    The sums are of weights, sizes, seconds, sizes squared and sizes by seconds; `deviation_s` is the mean absolute
    error of what was expected (as in RFC 6298, section 2).
    """

    weight: float = 0.0
    n: float = 0.0
    s: float = 0.0
    nn: float = 0.0
    ns: float = 0.0
    deviation_s: float = 0.0
    call_s: float = 0.0
    message_s: float = 0.0

    def after(self, n: int, seconds: float) -> "CallTimes":
        """What is known after one more call of `n` messages, at least one."""
        seconds = max(0.0, seconds)
        expected_s = self.call_s + n * self.message_s
        if expected_s > 0:
            seconds = min(seconds, _OUTLIER * expected_s)
        weight = self.weight * _DECAY + 1
        sum_n, sum_s = self.n * _DECAY + n, self.s * _DECAY + seconds
        sum_nn, sum_ns = self.nn * _DECAY + n * n, self.ns * _DECAY + n * seconds
        call_s, message_s = _line(weight, sum_n, sum_s, sum_nn, sum_ns)
        error_s = abs(seconds - expected_s) if self.weight else 0.0
        deviation_s = self.deviation_s + (error_s - self.deviation_s) * _GAIN
        return CallTimes(weight, sum_n, sum_s, sum_nn, sum_ns, deviation_s, call_s, message_s)

    def expected_s(self, n: int) -> float:
        """How long a call of `n` messages takes at most, as a rule; 0 before the first call."""
        return self.call_s + n * self.message_s + _DEVIATIONS * self.deviation_s

    def most_within(self, seconds: float) -> float:
        """The most messages that a call answers in so long; infinite before the first call."""
        left_s = seconds - self.expected_s(0)
        if left_s < 0:
            return 0
        return left_s / self.message_s if self.message_s > 0 else math.inf


def _line(weight: float, n: float, s: float, nn: float, ns: float) -> tuple[float, float]:
    """Intercept and slope, neither below 0. Calls that were all of one size say only what a message costs there."""
    mean_n, mean_s = n / weight, s / weight
    variance = nn / weight - mean_n * mean_n
    each_s = mean_s / mean_n
    if variance <= _LEAST_SPREAD * mean_n * mean_n:
        return 0.0, each_s
    slope = (ns / weight - mean_n * mean_s) / variance
    slope = min(max(0.0, slope), each_s)
    return mean_s - slope * mean_n, slope


UNKNOWN = CallTimes()


@dataclass(frozen=True, slots=True)
class Cut:
    """Take `n_take` messages now, or (when that is 0) wait `wait_s` for more; None: wait for the first one."""

    n_take: int
    wait_s: float | None = None


def cut(n_waiting: int, waited_s: float, limits: BatchLimits, *, max_waiting: int, calls: CallTimes = UNKNOWN) -> Cut:
    """What to do with `n_waiting` messages, the first of which has waited `waited_s` seconds.

    `max_waiting` is how many can wait at all: a batch limit above it would be waited for in vain.
    """
    if n_waiting == 0:
        return Cut(0)
    n_full = min(limits.max_messages, max_waiting)
    wait_s = limits.max_age_ms / 1000 - waited_s
    if limits.budget_ms > 0:
        wait_s = min(wait_s, limits.budget_ms / 1000 - waited_s - calls.expected_s(n_full))
    if n_waiting < n_full and wait_s > 0:
        return Cut(0, wait_s)
    n_ready = min(n_waiting, limits.max_messages)
    return Cut(n_ready if limits.budget_ms <= 0 else _within_budget(n_ready, waited_s, limits.budget_ms / 1000, calls))


def _within_budget(n_ready: int, waited_s: float, budget_s: float, calls: CallTimes) -> int:
    n_most = calls.most_within(budget_s - waited_s)
    if n_most < 1:
        n_most = calls.most_within(budget_s)
    return max(1, int(min(n_ready, n_most)))
