"""A message's own time, however its publisher writes it. Pure."""

from datetime import UTC, datetime
from typing import Any

from gatewayd.errors import RejectedError

_MS_FROM = 1e11  # 1e11 s is the year 5138, 1e11 ms is 1973: larger numbers are milliseconds
_MIN_S = -62135596800.0  # 0001-01-01, the calendar's first second
_MAX_S = 253402300799.0  # 9999-12-31, its last


def time_of(value: Any) -> float:
    """Seconds since the epoch of seconds, milliseconds (above 1e11) or ISO 8601 (without an offset: UTC).

    Raises RejectedError (`time`).
    """
    if isinstance(value, str):
        value = _from_text(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RejectedError("the message's own time is neither a number nor ISO 8601", reason="time")
    seconds = value / 1000 if value > _MS_FROM and value < _MAX_S * 1000 else value
    if not _MIN_S <= seconds <= _MAX_S:  # NaN is not between them either
        raise RejectedError("the message's own time is outside of any calendar", reason="time")
    return float(seconds)


def _from_text(text: str) -> float:
    try:
        parsed = datetime.fromisoformat(text)
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        pass
    try:
        return float(text)
    except ValueError:
        raise RejectedError("the message's own time is neither a number nor ISO 8601", reason="time") from None
