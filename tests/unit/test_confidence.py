"""From scores to confidence, and what a damaged calibration table says."""

import math

import pytest

from gatewayd.cascade.confidence import Calibration
from gatewayd.errors import ModelError

ISOTONIC = {"method": "isotonic", "curves": {"": {"scores": [0.5, 0.9], "confidences": [0.6, 1.0]}}}


def test_a_model_that_was_never_calibrated_is_as_sure_as_its_score() -> None:
    calibration = Calibration.of({"threshold": 0.3, "temperature": 2.0, "held_out": {"auc": 0.9}})

    assert calibration.confidence({"normal": 0.3, "alert": 0.7}, "alert") == 0.7
    assert calibration.accept is None


def test_a_temperature_of_two_takes_the_square_root_of_the_odds() -> None:
    calibration = Calibration.of({"confidence": {"method": "temperature", "temperature": 2.0}})

    assert calibration.confidence({"a": 0.9, "b": 0.1}, "a") == pytest.approx(0.75)
    assert calibration.confidence({"a": 0.9, "b": 0.1}, "b") == pytest.approx(0.25)


def test_confidences_of_all_labels_sum_to_one() -> None:
    calibration = Calibration.of({"confidence": {"method": "temperature", "temperature": 0.7, "bias": {"c": 1.5}}})
    scores = {"a": 0.2, "b": 0.5, "c": 0.3}

    assert sum(calibration.confidence(scores, label) for label in scores) == pytest.approx(1.0)
    assert calibration.confidence(scores, "c") > 0.3


def test_scores_of_zero_and_one_have_a_confidence() -> None:
    calibration = Calibration.of({"confidence": {"method": "temperature", "temperature": 0.01}})

    assert calibration.confidence({"a": 1.0, "b": 0.0}, "a") == 1.0
    assert calibration.confidence({"a": 0.0, "b": 0.0}, "a") == 0.5


@pytest.mark.parametrize(("score", "confidence"), [(0.1, 0.6), (0.5, 0.6), (0.7, 0.8), (0.9, 1.0), (1.0, 1.0)])
def test_an_isotonic_curve_is_straight_between_its_points_and_level_beyond(score: float, confidence: float) -> None:
    calibration = Calibration.of({"confidence": ISOTONIC})

    assert calibration.confidence({"a": score}, "a") == pytest.approx(confidence)


def test_a_label_may_have_a_curve_of_its_own() -> None:
    curves = {"alert": {"scores": [0.5], "confidences": [0.3]}, **ISOTONIC["curves"]}  # type: ignore[dict-item]
    calibration = Calibration.of({"confidence": {"method": "isotonic", "curves": curves}})

    assert calibration.confidence({"alert": 0.9, "normal": 0.1}, "alert") == 0.3
    assert calibration.confidence({"alert": 0.1, "normal": 0.9}, "normal") == 1.0


def test_a_label_that_was_not_calibrated_keeps_its_score() -> None:
    calibration = Calibration.of({"confidence": {**ISOTONIC, "labels": ["a", "b"]}})

    assert calibration.confidence({"new": 0.55}, "new") == 0.55


def test_a_label_without_a_score_has_no_confidence() -> None:
    calibration = Calibration.of({"confidence": ISOTONIC})

    assert calibration.confidence({"a": 0.9}, "unknown") == 0.0
    assert calibration.confidence({"a": math.nan}, "a") == 0.0
    assert calibration.confidence({}, "a") == 0.0


def test_the_radius_is_that_of_the_novelty_table() -> None:
    assert Calibration.of({"novelty": {"radius": 0.4, "prototypes": 12}}).radius == 0.4
    assert Calibration.of({}).radius is None


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ({"confidence": 3}, "confidence: Expected `object`"),
        ({"confidence": {"method": "guessing"}}, "method"),
        ({"confidence": {"method": "isotonic"}}, "needs curves"),
        ({"confidence": {"method": "temperature", "temperature": 0}}, "temperature"),
        ({"confidence": {"method": "temperature", "temperature": math.inf}}, "temperature"),
        ({"confidence": {"method": "temperature", "bias": {"a": math.inf}}}, "bias"),
        ({"confidence": {"accept": 1.2}}, "accept"),
        ({"confidence": {"accept": math.nan}}, "accept"),
        ({"confidence": {"curves": {"": {"scores": [0.5, 0.4], "confidences": [0.1, 0.2]}}}}, "ascend"),
        ({"confidence": {"curves": {"": {"scores": [0.4, 0.5], "confidences": [0.3, 0.2]}}}}, "not fall"),
        ({"confidence": {"curves": {"": {"scores": [0.4, 0.5], "confidences": [0.3]}}}}, "2 scores and 1 conf"),
        ({"confidence": {"curves": {"": {"scores": [], "confidences": []}}}}, "length"),
        ({"novelty": {}}, "radius"),
        ({"novelty": {"radius": 0}}, "radius"),
        ({"novelty": {"radius": math.nan}}, "radius"),
        ({"novelty": 1}, "radius"),
    ],
)
def test_a_damaged_table_names_the_model_and_what_to_do(table: dict[str, object], named: str) -> None:
    with pytest.raises(ModelError, match=named) as raised:
        Calibration.of(table, model="head")

    assert str(raised.value).startswith('model "head": [calibration]')
    assert "gatewayd models calibrate" in str(raised.value)
