"""benchmarks.cascade_quality: the figures of streams whose outcome is known."""

import numpy as np
import pytest

from benchmarks import cascade_run as cascade
from benchmarks.cascade_quality import _settled
from benchmarks.cascade_run import STUDENT, Heard
from gatewayd.cascade.verdict import Verdict


def heard(rows: list[tuple[str, str, float, str]], accept: float = 0.8) -> Heard:
    """Rows of (value, said, confidence, truth)."""
    verdicts = [
        Verdict(tier=STUDENT, label=said, scores={said: 0.99, "other": 0.01}, confidence=sure)
        for _, said, sure, _ in rows
    ]
    values, truth = [row[0] for row in rows], [row[3] for row in rows]
    return Heard(verdicts, list(values), truth, accept, "alert", np.ones(len(rows), np.bool_))


STREAM = [
    ("line 1", "alert", 0.95, "alert"),
    ("line 2", "normal", 0.6, "alert"),
    ("line 3", "normal", 0.6, "alert"),
    ("other", "normal", 0.95, "normal"),
]


def test_the_cloud_alone_is_right_and_is_asked_for_everything() -> None:
    found = cascade.run(heard(STREAM), accept=1.01)

    assert (found.f1, found.accuracy, found.calls) == (1.0, 1.0, 1.0)


def test_what_is_not_sure_is_asked_and_its_answer_counts() -> None:
    alone = cascade.run(heard(STREAM), accept=0.0)
    ours = cascade.run(heard(STREAM), accept=0.8)

    assert (alone.f1, alone.calls) == (pytest.approx(0.5), 0.0)
    assert (ours.f1, ours.calls, ours.causes) == (1.0, 0.5, {"sure": 2, "unsure": 2})


def test_a_cloud_that_remembers_is_asked_once_for_a_template() -> None:
    found = cascade.run(heard(STREAM), accept=0.8, recall="template")

    assert (found.f1, found.handed_on, found.calls) == (1.0, 0.5, 0.25)


def test_a_remembered_answer_may_be_wrong_and_counts_as_that() -> None:
    stream = [("line 1", "normal", 0.5, "alert"), ("line 2", "normal", 0.5, "normal")]

    found = cascade.run(heard(stream), accept=0.8, recall="template")

    assert (found.accuracy, found.calls) == (0.5, 0.5)


def test_without_a_calibration_the_score_is_taken_for_the_confidence() -> None:
    found = cascade.run(heard(STREAM), accept=0.9, bare=True)

    assert (found.calls, found.f1) == (0.0, pytest.approx(0.5))


def test_by_lot_the_same_share_is_handed_on_for_less() -> None:
    stream = [("x", "normal", 0.5, "alert")] * 10 + [("x", "normal", 0.95, "normal")] * 90

    ours = cascade.run(heard(stream), accept=0.8)
    lot = cascade.at_random(heard(stream), ours.calls)

    assert (ours.f1, ours.calls) == (1.0, 0.1)
    assert lot.f1 < 0.5


def test_rows_whose_window_spans_two_states_are_not_judged() -> None:
    judged = _settled(["a"] * 4 + ["b"] * 6, 3)

    assert judged.tolist() == [True] * 4 + [False] * 3 + [True] * 3
