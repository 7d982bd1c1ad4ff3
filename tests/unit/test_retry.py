"""Delays: bounds, doubling, and what a far side may ask for."""

import pytest

from gatewayd.retry import MAX_RETRY_AFTER_S, Backoff, full_jitter_s, parse_http_date, parse_retry_after

NOON = 784_111_777.0  # Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110


@pytest.mark.parametrize(("attempt", "ceiling_s"), [(1, 1.0), (2, 2.0), (5, 16.0), (9, 256.0), (10, 300.0)])
def test_the_ceiling_doubles_up_to_the_cap(attempt: int, ceiling_s: float) -> None:
    assert full_jitter_s(attempt, draw=1.0, cap_s=300.0) == ceiling_s


def test_a_delay_may_be_as_short_as_nothing() -> None:
    assert full_jitter_s(7, draw=0.0, cap_s=300.0) == 0.0


def test_a_failure_that_lasts_for_years_does_not_overflow() -> None:
    assert full_jitter_s(10**9, draw=1.0, cap_s=300.0) == 300.0


def test_a_connection_that_does_not_last_does_not_lower_the_ceiling() -> None:
    backoff = Backoff(1.0, 60.0, stable_s=30.0)
    backoff.next_delay_s(1.0)
    backoff.next_delay_s(1.0)

    backoff.connected(100.0)
    backoff.lost(129.9)

    assert backoff.next_delay_s(1.0) == 4.0


def test_a_connection_that_lasted_lowers_the_ceiling_to_the_first() -> None:
    backoff = Backoff(1.0, 60.0, stable_s=30.0)
    for _ in range(10):
        backoff.next_delay_s(1.0)

    backoff.connected(100.0)
    backoff.lost(130.0)

    assert backoff.next_delay_s(1.0) == 1.0
    assert backoff.failures == 1


def test_losing_what_was_never_connected_changes_nothing() -> None:
    backoff = Backoff(1.0, 60.0, stable_s=0.0)
    backoff.next_delay_s(1.0)

    backoff.lost(1000.0)

    assert backoff.next_delay_s(1.0) == 2.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("Sun, 06 Nov 1994 08:50:37 GMT", 60.0),
        ("Sun, 06 Nov 1994 08:48:37 GMT", 0.0),
        ("9" * 400, MAX_RETRY_AFTER_S),
        ("Sun, 06 Nov 2094 08:50:37 GMT", MAX_RETRY_AFTER_S),
        ("", None),
        (None, None),
        ("-1", None),
        ("1.5", None),
        ("٣", None),
        ("soon", None),
        ("Sun, 99 Nov 1994 08:50:37 GMT", None),
    ],
)
def test_a_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, NOON) == seconds


def test_an_http_date_without_a_zone_is_utc() -> None:
    assert parse_http_date("Sun, 06 Nov 1994 08:49:37 -0000") == NOON
