"""When a batch is cut. Pure: counts and ages in, a decision out.

A batch is cut when `max_messages` wait, or when the first of them has waited `max_age_ms`, whichever comes first. A
message that waited while the handler was busy has aged all the same: it is not made to wait again.
"""

from dataclasses import dataclass

from gatewayd.config.schema import BatchLimits


@dataclass(frozen=True, slots=True)
class Cut:
    """Take `n_take` messages now, or (when that is 0) wait `wait_s` for more; None: wait for the first one."""

    n_take: int
    wait_s: float | None = None


def cut(n_waiting: int, waited_s: float, limits: BatchLimits, *, max_waiting: int) -> Cut:
    """What to do with `n_waiting` messages, the first of which has waited `waited_s` seconds.

    `max_waiting` is how many can wait at all: a batch limit above it would be waited for in vain.
    """
    if n_waiting == 0:
        return Cut(0)
    max_age_s = limits.max_age_ms / 1000
    if n_waiting >= min(limits.max_messages, max_waiting) or waited_s >= max_age_s:
        return Cut(min(n_waiting, limits.max_messages))
    return Cut(0, max_age_s - waited_s)
