"""Whatever a handler raises, every message of the batch comes out once: answered or dead."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from gatewayd.answer import HandlerRunner
from gatewayd.api import Batch, Message, Models, Rejection, Result, Window
from gatewayd.errors import RejectedError, TransientError


class Scripted:
    """A handler that does what the test says with each batch."""

    class Config(msgspec.Struct):
        pass

    journaled = False

    def __init__(self, handle: Callable[[Batch], Sequence[Any]], *, inline: bool = False) -> None:
        self.handle = handle
        self.inline = inline

    def start(self, models: Models) -> None: ...

    def stop(self) -> None: ...


def message(value: object, key: str = "k") -> Message:
    return Message(topic="t", value=value, time=0.0, key=key)


def batch(*values: object, window: Window | None = None) -> Batch:
    messages = [message(value, f"k{index}") for index, value in enumerate(values)]
    return Batch(route="r", messages=messages, now=0.0, window=window)


def result(of: Message) -> Result:
    return Result(kind="echo", data={"value": of.value}, message=of)


def echo_unless_bad(error: Exception) -> Callable[[Batch], Sequence[Any]]:
    def handle(batch: Batch) -> Sequence[Any]:
        if any(one.value == "bad" for one in batch.messages):
            raise error
        return [result(one) for one in batch.messages]

    return handle


@pytest.mark.parametrize("inline", [True, False])
async def test_results_come_with_their_data_as_json(inline: bool) -> None:
    runner = HandlerRunner("r", Scripted(echo_unless_bad(ValueError()), inline=inline))

    answer = await runner.answer(batch(1, 2))

    assert [data for _, data in answer.results] == [b'{"value":1}', b'{"value":2}']
    assert answer.buried == []


@pytest.mark.parametrize(
    ("error", "reason"), [(ValueError("bug"), "handler_error"), (RejectedError("no", reason="schema"), "schema")]
)
async def test_one_bad_message_of_several_is_buried_alone(error: Exception, reason: str) -> None:
    runner = HandlerRunner("r", Scripted(echo_unless_bad(error)))

    answer = await runner.answer(batch("a", "bad", "c"))

    assert [one.message.value for one, _ in answer.results if one.message] == ["a", "c"]
    assert [(one.message.value, one.reason) for one in answer.buried] == [("bad", reason)]


async def test_a_bug_leaves_its_traceback_with_the_dead_letter() -> None:
    runner = HandlerRunner("r", Scripted(echo_unless_bad(ValueError("the bug"))))

    answer = await runner.answer(batch("bad"))

    assert "ValueError: the bug" in answer.buried[0].detail


async def test_a_window_that_raises_is_buried_as_a_whole() -> None:
    runner = HandlerRunner("r", Scripted(echo_unless_bad(ValueError("bug"))))

    answer = await runner.answer(batch("a", "bad", window=Window(key="", start=0.0, end=1.0)))

    assert [one.message.value for one in answer.buried] == ["a", "bad"]


async def test_a_result_that_is_no_json_is_a_bug_of_the_handler() -> None:
    runner = HandlerRunner("r", Scripted(lambda b: [Result(kind="x", data={"value": object()}, message=b.messages[0])]))

    answer = await runner.answer(batch("a"))

    assert [one.reason for one in answer.buried] == ["handler_error"]
    assert answer.results == []


async def test_a_message_rejected_twice_is_buried_once() -> None:
    def handle(batch: Batch) -> Sequence[Any]:
        return [Rejection(message=batch.messages[0], reason="twice")] * 2

    answer = await HandlerRunner("r", Scripted(handle)).answer(batch("a"))

    assert [one.reason for one in answer.buried] == ["twice"]


async def test_a_passing_failure_is_for_the_caller() -> None:
    runner = HandlerRunner("r", Scripted(echo_unless_bad(TransientError("later"))))

    with pytest.raises(TransientError, match="later"):
        await runner.answer(batch("bad"))


async def test_a_handler_tells_its_figures_and_one_that_fails_to_tells_none() -> None:
    silent, telling, broken = (Scripted(lambda _: []) for _ in range(3))
    telling.stats = lambda: {"cached_texts": 2}
    broken.stats = lambda: {"cached_texts": 1 / 0}

    told = [HandlerRunner("r", handler).stats() for handler in (silent, telling, broken)]

    assert told == [{}, {"cached_texts": 2.0}, {}]


async def test_no_messages_are_not_asked_for() -> None:
    def handle(batch: Batch) -> Sequence[Any]:
        raise AssertionError(batch)

    answer = await HandlerRunner("r", Scripted(handle)).answer(batch())

    assert (answer.results, answer.buried) == ([], [])
