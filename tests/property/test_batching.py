from hypothesis import given
from hypothesis import strategies as st

from gatewayd.batching import Batcher
from gatewayd.config.schema import BatchLimits


@given(
    st.integers(1, 5),
    st.floats(0, 1000),
    st.lists(st.tuples(st.booleans(), st.floats(0, 2)), max_size=60),
)
def test_every_item_comes_out_once_in_order_and_none_waits_beyond_its_age(
    max_messages: int, max_age_ms: float, steps: list[tuple[bool, float]]
) -> None:
    batcher: Batcher[int] = Batcher(BatchLimits(max_messages=max_messages, max_age_ms=max_age_ms))
    now, added, out = 0.0, 0, []

    for is_add, pause in steps:
        now += pause
        batch = batcher.due(now) or []
        assert len(batch) <= max_messages
        out += batch
        if is_add:
            out += batcher.add(added, now) or []
            added += 1
        deadline = batcher.deadline()
        assert (deadline is None) == (len(batcher) == 0)
        assert deadline is None or deadline >= now - 1e-9
        assert len(batcher) < max_messages or max_messages == 1
    out += batcher.flush()

    assert out == list(range(added))
