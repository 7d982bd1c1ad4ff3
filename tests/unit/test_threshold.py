"""threshold: rules, hold, hysteresis, devices, and what it refuses."""

from typing import Any

import msgspec
import pytest

from gatewayd.api import Batch, Message, Rejection
from gatewayd_handlers.threshold import Options, Threshold


def make(**options: Any) -> Threshold:
    return Threshold(msgspec.convert(options, Options))


def feed(handler: Threshold, *values: Any, topic: str = "plant/oven-1") -> list[Any]:
    """One batch of these values; what came back as short tuples."""
    messages = [Message(topic=topic, value=v, time=float(i), key=str(i)) for i, v in enumerate(values)]
    return [short(answer) for answer in handler.handle(Batch(route="r", messages=messages, now=0.0))]


def short(answer: Any) -> tuple[str, str]:
    if isinstance(answer, Rejection):
        return ("rejected", answer.reason)
    return (answer.data["label"], answer.data["state"])


HOT = {"field": "t", "above": 80.0, "label": "hot"}


def test_an_alert_is_raised_once_and_cleared_once() -> None:
    handler = make(rules=[HOT])

    answers = feed(handler, {"t": 79.0}, {"t": 81.0}, {"t": 82.0}, {"t": 80.0}, {"t": 79.0})

    assert answers == [("hot", "raised"), ("hot", "cleared")]


def test_hold_wants_samples_in_a_row_over_batches() -> None:
    handler = make(rules=[HOT | {"hold": 3}])

    assert feed(handler, {"t": 81}, {"t": 81}, {"t": 1}, {"t": 81}) == []
    assert feed(handler, {"t": 81}, {"t": 81}) == [("hot", "raised")]


def test_an_alert_clears_only_inside_by_the_margin() -> None:
    handler = make(rules=[{"outside": [10.0, 20.0], "clear_margin": 2.0, "label": "range"}])

    answers = feed(handler, 9.0, 11.0, 18.5, 12.0, 20.5, 8.0, 18.0)

    assert answers == [("range", "raised"), ("range", "cleared"), ("range", "raised"), ("range", "cleared")]


@pytest.mark.parametrize(
    ("rule", "fine", "broken"),
    [
        ({"above": 5.0}, 5.0, 5.1),
        ({"below": 5.0}, 5, 4),
        ({"outside": [1.0, 2.0]}, 1.5, 2.5),
        ({"equals": "open"}, "shut", "open"),
        ({"equals": True}, False, True),
        ({"equals": True}, 1, True),
        ({"equals": 3.0}, 4, 3),
        ({"equals": 0.0}, False, 0),
    ],
)
def test_each_condition_is_broken_by_what_it_names(rule: dict[str, Any], fine: Any, broken: Any) -> None:
    handler = make(rules=[rule | {"field": "x", "label": "a"}])

    assert feed(handler, {"x": fine}, {"x": broken}) == [("a", "raised")]


def test_every_device_has_its_own_state() -> None:
    handler = make(rules=[HOT], device="id")

    answers = feed(handler, {"t": 90, "id": "a"}, {"t": 90, "id": 7}, {"t": 90, "id": "a"}, {"t": 1, "id": "7"})

    assert answers == [("hot", "raised"), ("hot", "raised"), ("hot", "cleared")]


def test_on_every_answers_each_message_with_its_state() -> None:
    handler = make(rules=[HOT], on="every")

    states = [state for _, state in feed(handler, {"t": 1}, {"t": 90}, {"t": 90}, {"t": 1})]

    assert states == ["normal", "raised", "active", "cleared"]


def test_a_bare_number_is_the_field_value() -> None:
    assert feed(make(rules=[{"above": 5.0, "label": "a"}]), 4.0, 6.0) == [("a", "raised")]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ({}, "missing_field"),
        ({"t": None}, "missing_field"),
        ({"t": "81"}, "not_a_number"),
        ({"t": True}, "not_a_number"),
        ({"t": float("nan")}, "not_a_number"),
        ({"t": float("inf")}, "not_a_number"),
        ({"t": 10**400}, "not_a_number"),
        ("text", "missing_field"),
        (None, "missing_field"),
    ],
)
def test_what_cannot_be_judged_is_rejected_with_a_reason(payload: Any, reason: str) -> None:
    assert feed(make(rules=[HOT]), payload) == [("rejected", reason)]


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        (None, "missing_field"),
        ("", "bad_device"),
        ("x" * 257, "bad_device"),
        (1.5, "bad_device"),
        (10**400, "bad_device"),
    ],
)
def test_a_device_without_a_usable_name_is_rejected(device: Any, reason: str) -> None:
    assert feed(make(rules=[HOT], device="id"), {"t": 90, "id": device}) == [("rejected", reason)]


def test_a_rejected_message_moves_no_rule() -> None:
    handler = make(rules=[HOT | {"hold": 2}, {"field": "p", "above": 1.0, "label": "p"}])

    answers = feed(handler, {"t": 81, "p": 0}, {"t": 81}, {"t": 70, "p": "x"}, {"t": 81, "p": 0})

    assert answers == [("rejected", "missing_field"), ("rejected", "not_a_number"), ("hot", "raised")]


def test_missing_fields_are_left_alone_where_the_options_say_so() -> None:
    handler = make(rules=[HOT, {"field": "p", "above": 1.0, "label": "p"}], missing="ignore")

    assert feed(handler, {"t": 81}, {"p": 2}, {}) == [("hot", "raised"), ("p", "raised")]


def test_the_device_unseen_for_the_longest_is_evicted_and_counted() -> None:
    handler = make(rules=[HOT], device="id", max_devices=2)

    for device in ("a", "b", "a", "c", "a"):
        feed(handler, {"t": 90, "id": device})

    assert (len(handler.devices), handler.devices.n_evicted) == (2, 1)
    assert feed(handler, {"t": 90, "id": "a"}) == []
    assert feed(handler, {"t": 90, "id": "b"}) == [("hot", "raised")]


@pytest.mark.parametrize(
    "rule",
    [
        {"label": "none"},
        {"label": "two", "above": 1.0, "below": 0.0},
        {"label": "never clears", "outside": [0.0, 1.0], "clear_margin": 0.6},
        {"label": "reversed", "outside": [1.0, 0.0]},
        {"label": "margin", "equals": "x", "clear_margin": 1.0},
        {"label": "unknown", "above": 1.0, "abvoe": 2.0},
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_at_start(rule: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        make(rules=[rule])
