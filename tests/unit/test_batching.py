from gatewayd.batching import Batcher
from gatewayd.config.schema import BatchLimits


def test_a_batch_is_cut_when_it_is_full() -> None:
    batcher: Batcher[int] = Batcher(BatchLimits(max_messages=2, max_age_ms=1000))

    assert batcher.add(1, 0.0) is None
    assert batcher.add(2, 0.1) == [1, 2]
    assert len(batcher) == 0


def test_a_batch_is_due_at_the_age_of_its_first_item() -> None:
    batcher: Batcher[int] = Batcher(BatchLimits(max_messages=9, max_age_ms=500))
    batcher.add(1, 10.0)
    batcher.add(2, 10.4)

    assert batcher.deadline() == 10.5
    assert batcher.due(10.49) is None
    assert batcher.due(10.5) == [1, 2]


def test_without_an_age_a_batch_is_due_at_once() -> None:
    batcher: Batcher[int] = Batcher(BatchLimits(max_messages=9, max_age_ms=0))
    batcher.add(1, 10.0)

    assert batcher.due(10.0) == [1]


def test_nothing_is_due_when_there_is_nothing() -> None:
    batcher: Batcher[int] = Batcher(BatchLimits())

    assert batcher.deadline() is None
    assert batcher.due(1e9) is None
    assert batcher.flush() == []


def test_the_age_starts_anew_with_each_batch() -> None:
    batcher: Batcher[int] = Batcher(BatchLimits(max_messages=2, max_age_ms=500))
    batcher.add(1, 10.0)
    batcher.add(2, 10.0)

    batcher.add(3, 20.0)

    assert batcher.deadline() == 20.5


def test_a_flush_gives_what_there_is() -> None:
    batcher: Batcher[int] = Batcher(BatchLimits(max_messages=9, max_age_ms=500))
    batcher.add(1, 10.0)

    assert batcher.flush() == [1]
    assert batcher.deadline() is None
