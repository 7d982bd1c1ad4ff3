"""When a batch is cut: by count, by age, and never later than either; with a budget, in time for the handler."""

from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.batching import UNKNOWN, CallTimes, Cut, cut
from gatewayd.config.schema import BatchLimits


def test_without_an_age_what_is_there_is_taken() -> None:
    assert cut(3, 0.0, BatchLimits(max_messages=10), max_waiting=100) == Cut(3)


def test_a_full_batch_is_taken_and_no_more() -> None:
    assert cut(25, 0.0, BatchLimits(max_messages=10, max_age_ms=1000), max_waiting=100) == Cut(10)


def test_a_young_batch_waits_for_the_rest_of_its_age() -> None:
    assert cut(3, 0.25, BatchLimits(max_messages=10, max_age_ms=1000), max_waiting=100) == Cut(0, 0.75)


def test_an_old_batch_is_taken_as_it_is() -> None:
    assert cut(3, 1.0, BatchLimits(max_messages=10, max_age_ms=1000), max_waiting=100) == Cut(3)


def test_nothing_is_waited_for_without_end() -> None:
    assert cut(0, 99.0, BatchLimits(max_age_ms=1000), max_waiting=100) == Cut(0)


def test_a_queue_that_is_full_is_a_full_batch() -> None:
    assert cut(5, 0.0, BatchLimits(max_messages=10, max_age_ms=1000), max_waiting=5) == Cut(5)


@given(
    n_waiting=st.integers(1, 500),
    waited_s=st.floats(0, 100),
    max_messages=st.integers(1, 300),
    max_age_ms=st.floats(0, 60_000),
)
def test_something_is_taken_or_waited_for(
    n_waiting: int, waited_s: float, max_messages: int, max_age_ms: float
) -> None:
    limits = BatchLimits(max_messages=max_messages, max_age_ms=max_age_ms)

    decision = cut(n_waiting, waited_s, limits, max_waiting=500)

    if decision.n_take:
        assert decision.n_take == min(n_waiting, max_messages)
    else:
        assert decision.wait_s is not None
        assert 0 < decision.wait_s <= max_age_ms / 1000


def known(call_s: float, message_s: float) -> CallTimes:
    """After calls of several sizes that took exactly so long."""
    return reduce(lambda calls, n: calls.after(n, call_s + n * message_s), (1, 40, 5, 80, 2, 60) * 3, UNKNOWN)


BUDGET = BatchLimits(max_messages=100, max_age_ms=1000, budget_ms=50)


def test_what_a_call_and_a_message_cost_is_found_out_from_calls() -> None:
    calls = known(0.004, 0.0002)

    assert calls.call_s == pytest.approx(0.004, rel=1e-6)
    assert calls.message_s == pytest.approx(0.0002, rel=1e-6)
    assert calls.expected_s(50) >= 0.014


def test_calls_of_one_size_say_what_a_message_costs_there() -> None:
    calls = reduce(lambda known, _: known.after(50, 0.01), range(10), UNKNOWN)

    assert calls.expected_s(50) == pytest.approx(0.01)


def test_one_pause_is_no_trend_and_a_slower_model_is() -> None:
    calls = known(0.004, 0.0002)

    paused = calls.after(50, 30.0)
    slower = reduce(lambda known, n: known.after(n, 0.04 + 0.002 * n), (1, 40, 5, 80, 2, 60) * 10, calls)

    assert paused.expected_s(50) < 0.06  # of 0.014, after one of 30
    assert 0.9 < slower.expected_s(50) / 0.14 < 1.3


def test_waiting_ends_when_a_full_batch_can_just_be_answered_in_time() -> None:
    calls = known(0.004, 0.0002)  # 24 ms for a hundred

    decision = cut(3, 0.01, BUDGET, max_waiting=1000, calls=calls)

    assert decision.n_take == 0
    assert decision.wait_s == pytest.approx(0.05 - 0.01 - calls.expected_s(100))
    assert cut(3, 0.049, BUDGET, max_waiting=1000, calls=calls).n_take == 3


def test_no_more_are_taken_than_the_first_ones_budget_allows() -> None:
    calls = known(0.004, 0.0002)

    decision = cut(100, 0.036, BUDGET, max_waiting=1000, calls=calls)  # 14 ms left, 10 of them for messages

    assert 0 < decision.n_take <= 50
    assert 0.036 + calls.expected_s(decision.n_take) <= 0.05
    assert 0.036 + calls.expected_s(decision.n_take + 1) > 0.05


def test_a_message_that_is_late_anyway_makes_no_other_late_and_batches_stay_large() -> None:
    calls = known(0.004, 0.0004)  # 44 ms for a hundred

    assert cut(100, 9.0, BUDGET, max_waiting=1000, calls=calls).n_take == 100
    assert cut(100, 9.0, BUDGET, max_waiting=1000, calls=known(0.004, 0.001)).n_take in range(40, 47)
    assert cut(100, 9.0, BUDGET, max_waiting=1000, calls=known(0.2, 0.001)).n_take == 1


def test_before_the_first_call_a_budget_cuts_nothing() -> None:
    assert cut(100, 0.0, BUDGET, max_waiting=1000).n_take == 100
    assert cut(3, 0.01, BUDGET, max_waiting=1000) == Cut(0, 0.04)


@given(
    n_waiting=st.integers(1, 500),
    waited_s=st.floats(0, 10),
    budget_ms=st.floats(0.01, 1000),
    sizes=st.lists(st.tuples(st.integers(1, 300), st.floats(0, 5)), max_size=20),
)
def test_with_any_budget_something_is_taken_or_waited_for_and_never_longer_than_it(
    n_waiting: int, waited_s: float, budget_ms: float, sizes: list[tuple[int, float]]
) -> None:
    calls = reduce(lambda known, call: known.after(*call), sizes, UNKNOWN)
    limits = BatchLimits(max_messages=100, max_age_ms=60_000, budget_ms=budget_ms)

    decision = cut(n_waiting, waited_s, limits, max_waiting=500, calls=calls)

    if decision.n_take:
        assert 1 <= decision.n_take <= min(n_waiting, 100)
    else:
        assert decision.wait_s is not None
        assert 0 < decision.wait_s <= budget_ms / 1000 - waited_s
