"""What is stored of a handler's answer: keys that are the same after a repeat, and gatewayd's own facts."""

import json
from typing import Any

import pytest

from gatewayd.answer import Answer, Buried
from gatewayd.api import Batch, Message, Result, Window
from gatewayd.ports import NewResult, RawMessage
from gatewayd.results import dead_letter, dead_letters, new_results


def message(key: str = "m", value: Any = 1) -> Message:
    return Message(topic="t/a", value=value, time=0.0, key=key)


def stored(batch: Batch, *results: Result, **options: Any) -> list[NewResult]:
    answer = Answer(results=[(result, json.dumps(result.data, separators=(",", ":")).encode()) for result in results])
    options = {"finished": 10.5, "traceparents": {}, "include_input": False, **options}
    return new_results(batch, answer, **options)


def batch_of(*messages: Message, window: Window | None = None) -> Batch:
    return Batch(route="r", messages=messages, now=10.0, window=window)


def test_each_result_of_a_message_has_a_key_of_its_own_and_again_the_same() -> None:
    one, two = message("one"), message("two")
    results = [Result(kind="k", data={}, message=each) for each in (one, two, one)]

    keys = [result.key for result in stored(batch_of(one, two), *results)]

    assert keys == [result.key for result in stored(batch_of(one, two), *results)]
    assert len(set(keys)) == 3
    assert keys[0] == "one"


def test_the_key_of_a_message_does_not_depend_on_its_batch() -> None:
    one, two = message("one"), message("two")
    result = Result(kind="k", data={}, message=one)

    assert stored(batch_of(one, two), result)[0].key == stored(batch_of(one), result)[0].key


def test_the_key_of_a_whole_batch_depends_on_what_is_in_it() -> None:
    one, two = message("one"), message("two")
    result = Result(kind="k", data={})

    keys = {stored(batch, result)[0].key for batch in (batch_of(one), batch_of(two), batch_of(one, two))}

    assert len(keys) == 3


def test_a_result_says_how_long_it_took_and_keeps_its_input_to_itself() -> None:
    one = message(value={"secret": 7})

    (result,) = stored(batch_of(one), Result(kind="k", data={"label": "x"}, message=one))

    assert json.loads(result.data) == {"label": "x", "latency_ms": 500.0}
    assert result.subject == "t/a"
    assert result.time == 10.5


def test_the_input_goes_along_where_the_route_allows_it() -> None:
    one = message(value={"n": 7})

    (result,) = stored(batch_of(one), Result(kind="k", data={}, message=one), include_input=True)

    assert json.loads(result.data) == {"latency_ms": 500.0, "input": {"n": 7}}


@pytest.mark.parametrize("late", [0, 3])
def test_a_window_says_its_interval_and_how_many_were_late(late: int) -> None:
    window = Window(key="pump-1", start=0.0, end=60.0, late=late)

    (result,) = stored(batch_of(message("a"), message("b"), window=window), Result(kind="k", data={}))

    facts = {"window_start": 0.0, "window_end": 60.0, "messages": 2, **({"late": late} if late else {})}
    assert json.loads(result.data) == facts
    assert result.subject == "pump-1"


def test_what_the_handler_says_itself_is_said_once() -> None:
    window = Window(key="", start=0.0, end=60.0)
    own = {"messages": 1, "window_start": 5.0}

    (result,) = stored(batch_of(message("a"), message("b"), window=window), Result(kind="k", data=own))

    pairs = json.loads(result.data, object_pairs_hook=lambda pairs: pairs)
    assert sorted(pairs) == [("messages", 1), ("window_end", 60.0), ("window_start", 5.0)]


def test_the_trace_context_goes_with_the_result() -> None:
    one, two = message("one"), message("two")
    results = [
        Result(kind="k", data={}, message=one),
        Result(kind="k", data={}, message=two),
        Result(kind="k", data={}),
    ]

    found = stored(batch_of(one, two), *results, traceparents={id(one): "of-one", 0: "of-batch"})

    assert [result.traceparent for result in found] == ["of-one", "", "of-batch"]


def test_a_dead_letter_has_the_message_as_it_came_up_to_a_limit() -> None:
    raw = RawMessage(topic="t", payload=b"x" * 100_000, time=1.0, key="k", content_type="c", properties=(("a", "b"),))

    letter = dead_letter("r", raw, "decode", "why")

    assert letter.payload == b"x" * 65536
    assert (letter.topic, letter.key, letter.content_type, letter.properties) == ("t", "k", "c", (("a", "b"),))


def test_dead_letters_are_those_of_the_messages_they_name() -> None:
    raws = [RawMessage(topic="t", payload=name.encode(), time=1.0, key=name) for name in ("a", "b")]
    messages = [message("a"), message("b")]

    letters = dead_letters("r", list(zip(raws, messages, strict=True)), [Buried(messages[1], "bad", "why")])

    assert [(letter.key, letter.reason) for letter in letters] == [("b", "bad")]
