"""The queue in front of a route: bounded, loses QoS 0 oldest first, never QoS 1."""

import asyncio

from gatewayd.config.schema import BatchLimits
from gatewayd.ports import RawMessage
from gatewayd.queues import Item, Receipt, RouteQueue
from gatewayd.testing import FakeClock


def item(name: str, qos: int = 1, n_bytes: int = 0) -> Item:
    return RawMessage(topic=name, payload=bytes(n_bytes), time=0.0, key=name, qos=qos), None


def names(items: list[Item]) -> list[str]:
    return [message.topic for message, _ in items]


async def test_what_is_there_is_taken_at_once_and_in_order() -> None:
    queue = RouteQueue(10)
    for name in "abc":
        queue.offer(item(name))

    batch = await queue.take(BatchLimits(max_messages=2))

    assert names(batch) == ["a", "b"]
    assert len(queue) == 1


async def test_a_full_queue_drops_the_oldest_qos_0_and_says_which() -> None:
    queue = RouteQueue(3)
    for name, qos in (("a", 1), ("b", 0), ("c", 0)):
        queue.offer(item(name, qos))

    taken, dropped = queue.offer(item("d", 1))

    assert taken
    assert [message.topic for message in dropped] == ["b"]
    assert names(await queue.take(BatchLimits())) == ["a", "c", "d"]


async def test_the_newest_qos_0_message_is_kept_for_an_older_one() -> None:
    queue = RouteQueue(2)
    for name, qos in (("a", 0), ("b", 1)):
        queue.offer(item(name, qos))

    taken, dropped = queue.offer(item("c", 0))

    assert taken
    assert [message.topic for message in dropped] == ["a"]
    assert names(await queue.take(BatchLimits())) == ["b", "c"]


async def test_a_new_qos_0_message_is_itself_dropped_when_the_queue_is_full_of_qos_1() -> None:
    queue = RouteQueue(1)
    queue.offer(item("a", 1))

    taken, dropped = queue.offer(item("b", 0))

    assert taken
    assert [message.topic for message in dropped] == ["b"]


async def test_a_queue_full_of_qos_1_makes_the_writer_wait_and_loses_nothing() -> None:
    queue = RouteQueue(1)
    queue.offer(item("a"))
    refused = queue.offer(item("b"))
    waiting = asyncio.ensure_future(queue.room())
    await asyncio.sleep(0)
    assert not waiting.done()

    first = await queue.take(BatchLimits())
    await waiting
    taken, _ = queue.offer(item("b"))

    assert refused == (False, [])
    assert taken
    assert names(first) == ["a"]
    assert names(await queue.take(BatchLimits())) == ["b"]


async def test_a_queue_full_by_bytes_drops_as_many_qos_0_messages_as_the_new_one_needs() -> None:
    queue = RouteQueue(100, max_bytes=100)
    for name, qos in (("a", 1), ("b", 0), ("c", 0), ("d", 0)):
        queue.offer(item(name, qos, n_bytes=25))

    taken, dropped = queue.offer(item("e", 1, n_bytes=40))

    assert taken
    assert [message.topic for message in dropped] == ["b", "c"]
    assert queue.n_bytes == 90
    assert names(await queue.take(BatchLimits())) == ["a", "d", "e"]
    assert queue.n_bytes == 0


async def test_a_queue_full_by_bytes_of_qos_1_makes_the_writer_wait_and_the_reader_take_what_is_there() -> None:
    queue = RouteQueue(100, max_bytes=100)
    queue.offer(item("a", n_bytes=60))
    reading = asyncio.ensure_future(queue.take(BatchLimits(max_messages=10, max_age_ms=60_000)))
    await asyncio.sleep(0)

    refused = queue.offer(item("b", n_bytes=60))

    assert refused == (False, [])
    async with asyncio.timeout(5):
        assert names(await reading) == ["a"]
    assert queue.offer(item("b", n_bytes=60)) == (True, [])


async def test_a_message_larger_than_the_whole_queue_passes_alone() -> None:
    queue = RouteQueue(100, max_bytes=100)

    alone = queue.offer(item("a", n_bytes=1000))
    beside = queue.offer(item("b", n_bytes=1))

    assert (alone, beside) == ((True, []), (False, []))


async def test_a_batch_waits_for_its_count_or_its_age() -> None:
    queue = RouteQueue(10)
    queue.offer(item("a"))
    full = asyncio.ensure_future(queue.take(BatchLimits(max_messages=2, max_age_ms=60_000)))
    await asyncio.sleep(0.01)
    assert not full.done()

    queue.offer(item("b"))

    assert names(await full) == ["a", "b"]
    queue.offer(item("c"))
    assert names(await queue.take(BatchLimits(max_messages=2, max_age_ms=5))) == ["c"]


async def test_a_batch_limit_above_the_queue_is_not_waited_for_in_vain() -> None:
    queue = RouteQueue(2)
    queue.offer(item("a"))
    queue.offer(item("b"))

    async with asyncio.timeout(5):
        batch = await queue.take(BatchLimits(max_messages=100, max_age_ms=60_000))

    assert names(batch) == ["a", "b"]


async def test_idle_means_nothing_waits_and_nothing_is_on_its_way() -> None:
    queue = RouteQueue(2)
    queue.offer(item("a"))
    assert not queue.is_idle

    await queue.take(BatchLimits())
    assert not queue.is_idle

    queue.passed(1)
    assert queue.is_idle


def test_a_receipt_goes_back_after_the_last_route() -> None:
    receipt = Receipt("token", routes=2)

    assert not receipt.passed()
    assert receipt.passed()


async def test_those_left_behind_keep_the_time_they_have_waited() -> None:
    clock = FakeClock()
    queue = RouteQueue(10, monotonic=clock.monotonic)
    for name in "abc":
        queue.offer(item(name))
        clock.advance(1.0)

    first = await queue.take(BatchLimits(max_messages=2))
    waited_s = [queue.waited_s]
    clock.advance(1.0)
    second = await queue.take(BatchLimits(max_messages=2))
    waited_s.append(queue.waited_s)

    assert (names(first), names(second)) == (["a", "b"], ["c"])
    assert waited_s == [3.0, 2.0]


async def test_a_dropped_message_takes_its_time_of_arrival_with_it() -> None:
    clock = FakeClock()
    queue = RouteQueue(2, monotonic=clock.monotonic)
    queue.offer(item("a", 0))
    clock.advance(1.0)
    queue.offer(item("b", 1))
    clock.advance(1.0)
    queue.offer(item("c", 1))

    await queue.take(BatchLimits())

    assert queue.waited_s == 1.0
