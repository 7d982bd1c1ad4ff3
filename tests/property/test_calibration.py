"""Calibration on scores whose truth was drawn from known probabilities: what was bent is found and straightened.

The draws are the same in every run: what is asserted holds of nearly all draws, and of some by chance it does not.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewayd.cascade.confidence import Calibration
from gatewayd.models import calibrate_fit as fit
from gatewayd.models.calibrate_fit import Answers

N = 2400


def softmax(logits: fit.Floats) -> fit.Floats:
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponent / exponent.sum(axis=1, keepdims=True))


def drawn(
    seed: int, *, n_labels: int = 2, temperature: float = 1.0, bias: tuple[float, ...] = (), n: int = N
) -> Answers:
    """Truth drawn from softmax(z); a model that says softmax((z - bias) * temperature)."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(scale=2.0, size=(n, n_labels))
    true = softmax(logits)
    truth = (true.cumsum(axis=1) < draw.random((n, 1))).sum(axis=1).clip(max=n_labels - 1)
    scores = softmax((logits - np.array(bias or [0.0] * n_labels)) * temperature)
    return Answers(tuple("abcdef"[:n_labels]), scores, scores.argmax(axis=1), truth, float(n))


@given(seed=st.integers(0, 10**6), temperature=st.floats(0.4, 4.0), n_labels=st.integers(2, 5))
@settings(max_examples=10, deadline=None, derandomize=True)
def test_a_known_temperature_is_found(seed: int, temperature: float, n_labels: int) -> None:
    answers = drawn(seed, n_labels=n_labels, temperature=temperature)

    found = fit.fit_temperature(answers, with_bias=False)

    assert found.temperature == pytest.approx(temperature, rel=0.2)


@given(seed=st.integers(0, 10**6), bias=st.floats(-2.0, 2.0))
@settings(max_examples=8, deadline=None, derandomize=True)
def test_a_known_bias_is_found(seed: int, bias: float) -> None:
    answers = drawn(seed, bias=(0.0, bias))

    found = fit.fit_temperature(answers, with_bias=True)

    assert found.bias["b"] == pytest.approx(bias, abs=0.45)


@given(seed=st.integers(0, 10**6), temperature=st.floats(2.0, 4.0))
@settings(max_examples=8, deadline=None, derandomize=True)
def test_an_overconfident_model_is_calibrated_on_samples_nothing_was_fitted_on(seed: int, temperature: float) -> None:
    earlier, later = fit.split_by_time(drawn(seed, n_labels=3, temperature=temperature))

    chosen = fit.choose(earlier, later)

    assert chosen.calibration.method != "none"
    assert chosen.eces["none"] > 0.05
    fresh = drawn(seed + 1, n_labels=3, temperature=temperature)
    error = fit.expected_calibration_error(fit.confidences_of(chosen.calibration, fresh), fresh.right)
    assert error < chosen.eces["none"] / 2
    assert error < 0.05


@given(seed=st.integers(0, 10**6), accuracy=st.sampled_from([0.85, 0.9, 0.94]))
@settings(max_examples=8, deadline=None, derandomize=True)
def test_what_a_threshold_takes_is_as_accurate_as_asked_for_on_fresh_samples(seed: int, accuracy: float) -> None:
    earlier, later = fit.split_by_time(drawn(seed, temperature=2.0))
    chosen = fit.choose(earlier, later)

    threshold = fit.threshold_for_accuracy(chosen.confidences, later, accuracy)

    assert threshold.is_supported
    fresh = drawn(seed + 1, temperature=2.0, n=4000)
    taken = fit.confidences_of(chosen.calibration, fresh) >= threshold.accept
    assert taken.mean() > 0.05
    assert fresh.right[taken].mean() >= accuracy - 0.03  # a bound at 90 %, of one of many thresholds


@given(seed=st.integers(0, 10**6), rate=st.floats(0.02, 0.6))
@settings(max_examples=8, deadline=None, derandomize=True)
def test_a_stated_rate_of_escalations_is_kept_on_fresh_samples(seed: int, rate: float) -> None:
    earlier, later = fit.split_by_time(drawn(seed, temperature=2.0))
    chosen = fit.choose(earlier, later)

    threshold = fit.threshold_for_rate(chosen.confidences, later, rate)

    assert threshold.n - threshold.n_taken <= rate * threshold.n + 1e-6
    fresh = drawn(seed + 1, temperature=2.0)
    handed_on = (fit.confidences_of(chosen.calibration, fresh) < threshold.accept).mean()
    assert handed_on == pytest.approx(rate, abs=0.05)


@given(
    scores=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=60), seed=st.integers(0, 1000), share=st.floats(0.01, 1.0)
)
@settings(max_examples=40, deadline=None)
def test_an_isotonic_curve_is_sound_whatever_it_is_fitted_on(scores: list[float], seed: int, share: float) -> None:
    second = np.array(scores)
    rows = np.stack([1 - second, second], axis=1)
    truth = np.random.default_rng(seed).integers(2, size=len(scores))
    answers = Answers(("a", "b"), rows, rows.argmax(axis=1), truth, len(scores) * share)

    found = fit.fit_isotonic(answers)  # Curve refuses what falls

    read = Calibration.of({"confidence": {"method": "isotonic", "curves": _plain(found)}})
    assert all(0.0 <= each <= 1.0 for each in fit.confidences_of(read, answers))


def _plain(calibration: Calibration) -> dict[str, dict[str, list[float]]]:
    return {
        label: {"scores": curve.scores, "confidences": curve.confidences} for label, curve in calibration.curves.items()
    }
