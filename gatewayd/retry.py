"""When to try again. Pure: time and chance come in as arguments.

Full jitter, so that a thousand gateways which lost the same cloud do not come back in step: the delay is drawn evenly
from 0 up to a ceiling, and the ceiling doubles with each failure. Source: "Exponential Backoff And Jitter", AWS
Architecture Blog, 2015.
"""

from datetime import UTC
from email.utils import parsedate_to_datetime

MAX_RETRY_AFTER_S = 86_400.0  # a longer wish is a mistake (or our clock's): a sink is asked once a day at least
_MAX_DOUBLINGS = 62  # keeps the power finite; every cap is reached long before


def full_jitter_s(attempt: int, *, draw: float, initial_s: float = 1.0, cap_s: float) -> float:
    """The delay after the `attempt`-th failure in a row (1 is the first), in seconds.

    Args:
        attempt: how often it has failed in a row, 1 or more.
        draw: a random number in [0, 1).
        initial_s: ceiling after the first failure.
        cap_s: highest ceiling.
    """
    doublings = min(max(attempt, 1) - 1, _MAX_DOUBLINGS)
    return draw * min(cap_s, initial_s * 2.0**doublings)


class Backoff:
    """The delays of one connection that is lost and made again.

    Reaching the far side is no proof of health: one that accepts and hangs up at once would be stormed. So the ceiling
    goes back to the first only after a connection lasted `stable_s`.
    """

    def __init__(self, initial_s: float, max_s: float, stable_s: float) -> None:
        self._initial_s = initial_s
        self._max_s = max_s
        self._stable_s = stable_s
        self._failures = 0
        self._connected_at_s: float | None = None

    @property
    def failures(self) -> int:
        """How many delays were given out since the connection was last stable."""
        return self._failures

    def next_delay_s(self, draw: float) -> float:
        """How long to wait before the next attempt, in seconds; `draw` is a random number in [0, 1)."""
        self._failures += 1
        return full_jitter_s(self._failures, draw=draw, initial_s=self._initial_s, cap_s=self._max_s)

    def connected(self, at_s: float) -> None:
        """The connection stands since `at_s` on the monotonic clock."""
        self._connected_at_s = at_s

    def lost(self, at_s: float) -> None:
        """The connection is gone since `at_s` on the monotonic clock."""
        if self._connected_at_s is not None and at_s - self._connected_at_s >= self._stable_s:
            self._failures = 0
        self._connected_at_s = None


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Seconds to wait by a `Retry-After` header: a count of seconds or an HTTP date (RFC 9110, 10.2.3).

    Args:
        value: the header, or None when there is none.
        now: the time that a date counts from, seconds since the epoch. Best the answer's own `Date`: a gateway without
            a battery-backed clock may believe it is 1970.

    Returns:
        0 up to `MAX_RETRY_AFTER_S`, or None for what is neither.
    """
    text = (value or "").strip()
    if text.isascii() and text.isdecimal():
        return min(float(text), MAX_RETRY_AFTER_S)
    at = parse_http_date(text)
    return None if at is None else min(max(at - now, 0.0), MAX_RETRY_AFTER_S)


def parse_http_date(value: str | None) -> float | None:
    """An HTTP date (RFC 9110, 5.6.7) in seconds since the epoch, or None for what is none."""
    if not value:
        return None
    try:
        at = parsedate_to_datetime(value)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
