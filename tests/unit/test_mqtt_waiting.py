"""The bounded queue between the socket and intake."""

import asyncio

import pytest

from gatewayd.mqtt.waiting import Waiting
from gatewayd.ports import RawMessage


def message(size: int = 1, key: str = "k") -> RawMessage:
    return RawMessage(topic="t", payload=b"x" * size, time=0.0, key=key)


async def take(waiting: Waiting, count: int) -> list[str]:
    stream = waiting.take()
    async with asyncio.timeout(1):
        return [(await anext(stream)).key for _ in range(count)]


async def test_messages_are_taken_in_order() -> None:
    waiting = Waiting(10, 1000)
    for key in "abc":
        waiting.put(message(key=key))

    assert await take(waiting, 3) == ["a", "b", "c"]


@pytest.mark.parametrize(("limits", "size", "expected"), [((3, 1000), 1, 3), ((100, 30), 10, 3), ((100, 30), 500, 1)])
async def test_it_is_full_at_the_first_bound_that_is_reached(limits: tuple[int, int], size: int, expected: int) -> None:
    waiting = Waiting(*limits)

    n_put = 1
    while waiting.put(message(size)):
        n_put += 1

    assert n_put == expected
    assert waiting.is_full


async def test_room_is_made_when_half_is_taken() -> None:
    waiting = Waiting(4, 1000)
    for _ in range(4):
        waiting.put(message())

    await take(waiting, 1)
    assert waiting.is_full
    await take(waiting, 1)

    assert not waiting.is_full
    async with asyncio.timeout(1):
        await waiting.room()


async def test_after_pause_nothing_is_given_out() -> None:
    waiting = Waiting(4, 1000)
    waiting.put(message())

    waiting.pause()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await anext(waiting.take())


async def test_a_taker_that_waits_gets_the_next_message() -> None:
    waiting = Waiting(4, 1000)
    async with asyncio.TaskGroup() as tasks:
        taker = tasks.create_task(take(waiting, 1))
        await asyncio.sleep(0)
        waiting.put(message(key="late"))

    assert taker.result() == ["late"]
