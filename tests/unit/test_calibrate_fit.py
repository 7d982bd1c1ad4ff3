"""The arithmetic of calibration: errors, bounds, thresholds and splits of known cases."""

import numpy as np
import pytest

from gatewayd.errors import ModelError
from gatewayd.models import calibrate_fit as fit
from gatewayd.models.calibrate_fit import Answers


def answers(scores: list[float], right: list[bool], n_independent: float | None = None) -> Answers:
    """Answers "b" with these scores, right or wrong."""
    second = np.array(scores)
    said = np.ones(len(scores), np.intp)
    n = len(scores) if n_independent is None else n_independent
    return Answers(("a", "b"), np.stack([1 - second, second], axis=1), said, np.array(right, np.intp), float(n))


def test_confidences_that_are_kept_have_no_error() -> None:
    confidences = np.array([0.75] * 400 + [0.5] * 400)
    right = np.array(([True] * 3 + [False]) * 100 + [True, False] * 200)

    assert fit.expected_calibration_error(confidences, right) == 0.0


def test_the_error_of_a_model_that_is_always_wrong_is_its_confidence() -> None:
    assert fit.expected_calibration_error(np.full(30, 0.9), np.zeros(30, bool)) == pytest.approx(0.9)


def test_the_error_is_weighted_by_what_is_in_a_bin() -> None:
    confidences = np.array([0.6] * 75 + [0.9] * 25)
    right = np.array([True] * 75 + [True] * 20 + [False] * 5)

    assert fit.expected_calibration_error(confidences, right) == pytest.approx(0.75 * 0.4 + 0.25 * 0.1)


def test_equal_confidences_are_never_parted() -> None:
    right = np.arange(1000) < 500  # the first half right, the second wrong: parted, each bin would be off by a half

    bins = fit.reliability(np.full(1000, 0.5), right)

    assert [(each.n, each.accuracy) for each in bins] == [(1000, 0.5)]


def test_bins_have_equal_mass() -> None:
    bins = fit.reliability(np.linspace(0.5, 1.0, 1500), np.ones(1500, bool))

    assert [each.n for each in bins] == [100] * 15


@pytest.mark.parametrize(
    ("n_right", "n", "z", "low"),
    [(8, 10, 1.96, 0.4902), (10, 10, 1.96, 0.7225), (0, 10, 1.96, 0.0), (95, 100, 1.2816, 0.9141), (0, 0, 1.96, 0.0)],
)
def test_wilsons_lower_bound(n_right: int, n: int, z: float, low: float) -> None:
    assert fit.wilson_low(n_right, n, z) == pytest.approx(low, abs=2e-4)


def test_as_many_right_answers_as_are_needed_reach_the_bound_and_one_less_does_not() -> None:
    for accuracy in (0.8, 0.95, 0.99):
        n = fit.needed(accuracy)

        assert fit.wilson_low(n, n) >= accuracy > fit.wilson_low(n - 1, n - 1)


def test_the_lowest_threshold_that_is_accurate_enough_is_taken() -> None:
    scores = [0.6] * 100 + [0.8] * 100 + [0.95] * 200
    later = answers(scores, [True, False] * 50 + [True] * 98 + [False] * 2 + [True] * 200)

    threshold = fit.threshold_for_accuracy(np.array(scores), later, 0.95)

    assert (threshold.accept, threshold.n_taken, threshold.is_supported) == (0.8, 300, True)
    assert threshold.accuracy == pytest.approx(298 / 300)


def test_few_samples_that_were_right_support_nothing() -> None:
    later = answers([0.9] * 300, [True] * 300, n_independent=5.0)

    threshold = fit.threshold_for_accuracy(np.full(300, 0.9), later, 0.95)

    assert (threshold.n_taken, threshold.accuracy, threshold.is_supported) == (300, 1.0, False)
    assert threshold.accuracy_low == pytest.approx(fit.wilson_low(5, 5))


def test_where_nothing_is_accurate_enough_nothing_is_taken() -> None:
    later = answers([0.9] * 100, [True, False] * 50)

    threshold = fit.threshold_for_accuracy(np.full(100, 0.9), later, 0.95)

    assert (threshold.accept, threshold.n_taken, threshold.is_supported) == (1.0, 0, False)


def test_a_rate_may_count_what_repeats_once() -> None:
    scores = [0.6] * 50 + [0.7] * 50 + [0.99] * 100
    later = answers(scores, [True] * 200)

    plain = fit.threshold_for_rate(np.array(scores), later, 0.1)
    once = fit.threshold_for_rate(np.array(scores), later, 0.1, repeats_once=True)

    assert plain.accept == 0.6
    assert once.accept == 0.99


def test_a_method_with_more_freedom_must_be_clearly_better() -> None:
    draw = np.random.default_rng(0)
    scores = draw.uniform(0.5, 1.0, 6000)
    honest = answers(scores.tolist(), (draw.random(6000) < scores).tolist())
    earlier, later = fit.split_by_time(honest)

    assert fit.choose(earlier, later).calibration.method == "none"


def test_a_bent_curve_that_no_temperature_straightens_becomes_isotonic() -> None:
    draw = np.random.default_rng(0)
    scores = draw.uniform(0.5, 1.0, 6000)
    bent = answers(scores.tolist(), (draw.random(6000) < np.where(scores < 0.8, 0.95, 0.97)).tolist())
    earlier, later = fit.split_by_time(bent)

    chosen = fit.choose(earlier, later)

    assert chosen.eces["none"] > 0.1
    assert (chosen.calibration.ece or 1.0) < 0.02
    assert chosen.calibration.labels == ["a", "b"]


def test_the_earlier_half_is_fitted_on_and_the_later_one_judges() -> None:
    both = answers(np.linspace(0.5, 1.0, 100).tolist(), [True, False] * 50, n_independent=40.0)

    earlier, later = fit.split_by_time(both)

    assert earlier.said_scores.max() < later.said_scores.min()
    assert (len(earlier), earlier.n_independent) == (50, 20.0)


def test_too_few_answers_and_one_label_alone_are_refused_with_what_to_do() -> None:
    with pytest.raises(ModelError, match="40 labeled answers are too few: 60 are needed"):
        fit.split_by_time(answers([0.9] * 40, [True, False] * 20))
    with pytest.raises(ModelError, match=r"every sample is 'b'.*add some of another label"):
        fit.split_by_time(answers([0.9] * 100, [True] * 100))


def test_labels_that_the_model_does_not_have_are_named() -> None:
    with pytest.raises(ModelError, match="'a', 'b'; the recordings also say 'c'"):
        fit.labels_known(["a", "c"], ["a", "b"])
