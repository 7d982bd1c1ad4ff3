"""When a batch is cut: by count, by age, and never later than either."""

from hypothesis import given
from hypothesis import strategies as st

from gatewayd.batching import Cut, cut
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
