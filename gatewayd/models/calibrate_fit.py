"""From a model's answers with their truth to a `Calibration`: fitted, chosen and judged. Arrays in, values out.

Invariant: what judges was not fitted on. Methods are fitted on the earlier answers; which one is best, how large its
error is and from which confidence on answers are taken comes from the later ones. Confidences are computed by the very
code that runs on the gateway, `Calibration.confidence`.

Needs the extra `fit`; imported by the command that calibrates, never by the daemon.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gatewayd.cascade.confidence import MIN_SCORE, Calibration, Curve
from gatewayd.errors import ModelError

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]

N_BINS = 15  # Guo et al. 2017, On Calibration of Modern Neural Networks; of equal mass: Nguyen and O'Connor 2015
MIN_ANSWERS = 30  # for each of the two parts
MIN_OWN_CURVE = 100  # answers with a label, right and wrong ones among them, for a curve of its own
CLEARLY = 0.002  # a method with more freedom must have an expected calibration error that is less by this
BIAS_PENALTY = 0.01  # keeps biases finite where a label was always right
Z_90 = 1.2816  # one-sided 90 %: the stated accuracy is missed in one of ten calibrations, not in every second one


@dataclass(frozen=True)
class Answers:
    """What a model said about samples whose truth is known, in the order of their time."""

    labels: tuple[str, ...]
    scores: Floats  # [n, labels], as the handler gave them
    said: Ints  # [n], index into labels
    truth: Ints  # [n]
    n_independent: float  # how many samples say something of their own: repeated lines, overlapping windows do not

    def __len__(self) -> int:
        return len(self.said)

    @cached_property
    def right(self) -> Bools:
        return np.asarray(self.said == self.truth)

    @property
    def said_scores(self) -> Floats:
        """[n]: the score of the label that was said."""
        return np.asarray(self.scores[np.arange(len(self)), self.said])

    @cached_property
    def is_first(self) -> Bools:
        """[n]: whether no sample before it has the same scores, as those of repeated lines do."""
        _, first = np.unique(self.scores, axis=0, return_index=True)
        found = np.zeros(len(self), np.bool_)
        found[first] = True
        return found

    def part(self, start: int, end: int) -> "Answers":
        """Those from `start` on, before `end`."""
        rows = slice(start, end)
        share = (end - start) / max(len(self), 1)
        return Answers(self.labels, self.scores[rows], self.said[rows], self.truth[rows], self.n_independent * share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """From which confidence on answers are taken, and what that meant for the answers it was chosen on."""

    accept: float
    n_taken: int
    n: int
    accuracy: float  # of those taken; NaN: none was
    accuracy_low: float  # its lower bound, one-sided 90 %, over samples that say something of their own
    is_supported: bool  # whether the lower bound reaches what was asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The best calibration, and how it and the others did on answers nothing was fitted on."""

    calibration: Calibration
    eces: dict[str, float]  # by method; "none" is the bare score
    confidences: Floats  # [later answers]
    right: Bools  # [later answers]


def split_by_time(answers: Answers, share: float = 0.5) -> tuple[Answers, Answers]:
    """(earlier, later). Raises ModelError when either is too small."""
    cut = round(len(answers) * share)
    earlier, later = answers.part(0, cut), answers.part(cut, len(answers))
    if min(len(earlier), len(later)) < MIN_ANSWERS:
        raise ModelError(
            f"{len(answers)} labeled answers are too few: {2 * MIN_ANSWERS} are needed at least, and some hundreds "
            "make a calibration worth having; label more recordings"
        )
    if len(np.unique(answers.truth)) < 2:
        raise ModelError(
            f"every sample is {answers.labels[answers.truth[0]]!r}: how sure the model may be of the others cannot be "
            "learned from these recordings; add some of another label"
        )
    return earlier, later


def choose(earlier: Answers, later: Answers) -> Chosen:
    """Fit every method on the earlier answers; take the one with the least calibration error on the later ones.

    A method with more freedom must be clearly better than one with less to be taken.
    """
    best: tuple[float, Calibration, Floats] | None = None
    eces: dict[str, float] = {}
    for name, candidate in candidates(earlier):
        confidences = confidences_of(candidate, later)
        eces[name] = error = expected_calibration_error(confidences, later.right)
        if best is None or error < best[0] - CLEARLY:
            best = (error, candidate, confidences)
    assert best is not None
    calibration = _described(best[1], later, eces["none"], best[0])
    return Chosen(calibration=calibration, eces=eces, confidences=best[2], right=later.right)


def candidates(answers: Answers) -> list[tuple[str, Calibration]]:
    """Every method fitted on these answers, by name, the one with the least freedom first."""
    return [
        ("none", Calibration()),
        ("temperature", fit_temperature(answers, with_bias=False)),
        ("temperature and bias", fit_temperature(answers, with_bias=True)),
        ("isotonic", fit_isotonic(answers)),
    ]


def _described(calibration: Calibration, later: Answers, before: float, after: float) -> Calibration:
    from msgspec.structs import replace as changed

    return changed(
        calibration,
        labels=[] if calibration.method == "none" else list(later.labels),
        ece=round(after, 6),
        ece_before=round(before, 6),
        samples=len(later),
    )


def confidences_of(calibration: Calibration, answers: Answers) -> Floats:
    """[n]: what the gateway would make of each answer."""
    labels = answers.labels
    rows = answers.scores.tolist()
    return np.array(
        [
            calibration.confidence(dict(zip(labels, row, strict=True)), labels[said])
            for row, said in zip(rows, answers.said.tolist(), strict=True)
        ]
    )


def fit_temperature(answers: Answers, *, with_bias: bool) -> Calibration:
    """Divisor (and biases) of the logarithms of the scores with the least log loss (Guo et al. 2017).

    Targets are smoothed as Platt's are (1999): a label never seen to be wrong is not taken to be never wrong.
    """
    from scipy.optimize import minimize

    logits = np.log(np.clip(answers.scores, MIN_SCORE, 1.0))
    n_labels = len(answers.labels)
    targets = _smoothed(answers)

    def loss(parameters: Floats) -> float:
        bias = np.concatenate([[0.0], parameters[1:]]) if with_bias else np.zeros(n_labels)
        values = logits * np.exp(-parameters[0]) + bias
        highest = values.max(axis=1, keepdims=True)
        normalized = values - highest - np.log(np.exp(values - highest).sum(axis=1, keepdims=True))
        return float(-(targets * normalized).sum(axis=1).mean() + BIAS_PENALTY * float((bias**2).mean()))

    start = np.zeros(n_labels if with_bias else 1)
    bounds = [(math.log(0.02), math.log(50.0)), *[(-20.0, 20.0)] * (len(start) - 1)]
    found = minimize(loss, start, method="L-BFGS-B", bounds=bounds).x
    bias = dict(zip(answers.labels[1:], map(float, found[1:]), strict=True)) if with_bias else {}
    return Calibration(method="temperature", temperature=float(np.exp(found[0])), bias=bias)


def _smoothed(answers: Answers) -> Floats:
    """[n, labels]: the truth, less a little: (k + 1) / (k + 2) for a label that k samples have."""
    n_labels = len(answers.labels)
    counts = np.bincount(answers.truth, minlength=n_labels)
    sure = (counts + 1) / (counts + 2)
    targets = np.repeat(((1 - sure[answers.truth]) / (n_labels - 1))[:, None], n_labels, axis=1)
    targets[np.arange(len(answers)), answers.truth] = sure[answers.truth]
    return np.asarray(targets)


def fit_isotonic(answers: Answers) -> Calibration:
    """How often a label was right, as a function of its score that never falls (Zadrozny and Elkan 2002).

    A label gets a curve of its own where it was said often enough, and was right and wrong.
    """
    share = answers.n_independent / max(len(answers), 1)
    curves = {"": _curve(answers.said_scores, answers.right, share)}
    for index, label in enumerate(answers.labels):
        rows = answers.said == index
        if rows.sum() >= MIN_OWN_CURVE and len(np.unique(answers.right[rows])) == 2:
            curves[label] = _curve(answers.said_scores[rows], answers.right[rows], share)
    return Calibration(method="isotonic", curves=curves)


def _curve(scores: Floats, right: Bools, share: float) -> Curve:
    """Centered isotonic regression (Oron and Flournoy 2017): each level stands at the middle of its scores.

    Straight lines between the middles rank scores within a level, too, so that a threshold may part them. `share` of
    the samples say something of their own: a level that few of them carry is drawn to what is usual.
    """
    from sklearn.isotonic import IsotonicRegression

    levels = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit_transform(scores, right.astype(float))
    found, member = np.unique(levels, return_inverse=True)
    counts = np.bincount(member)
    middles = np.clip(np.bincount(member, weights=scores) / counts, 0.0, 1.0)
    carried = counts * share
    usual = float(right.mean())
    shrunk = np.maximum.accumulate((found * carried + usual) / (carried + 1))
    rounded = np.round(middles, 6)
    keep = np.concatenate([[True], np.diff(rounded) > 0])
    return Curve(rounded[keep].tolist(), np.round(shrunk[keep], 6).tolist())


def expected_calibration_error(confidences: Floats, right: Bools, n_bins: int = N_BINS) -> float:
    """Mean distance of confidence and accuracy over bins of equal mass, weighted by what is in them."""
    bins = reliability(confidences, right, n_bins)
    return sum(each.n * abs(each.confidence - each.accuracy) for each in bins) / len(right)


@dataclass(frozen=True, slots=True)
class Bin:
    """One point of a reliability curve."""

    confidence: float  # mean
    accuracy: float
    n: int


def reliability(confidences: Floats, right: Bools, n_bins: int = N_BINS) -> list[Bin]:
    """Bins of equal mass, by ascending confidence; equal confidences are never parted, so there may be fewer."""
    ordered = np.sort(confidences)
    place = np.searchsorted(ordered, confidences, side="left")
    numbers = place * n_bins // len(confidences)
    return [
        Bin(float(confidences[rows].mean()), float(right[rows].mean()), int(rows.sum()))
        for rows in (numbers == number for number in np.unique(numbers))
    ]


def wilson_low(n_right: float, n: float, z: float = Z_90) -> float:
    """Lower bound of a share (Wilson 1927): n_right of n, one-sided at z standard deviations."""
    if n <= 0:
        return 0.0
    share = n_right / n
    center = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, (center - spread) / (1 + z * z / n))


def threshold_for_accuracy(confidences: Floats, later: Answers, accuracy: float) -> Threshold:
    """The lowest threshold whose taken answers are right as often as asked for, with its lower bound.

    Where there are too few samples for any bound to reach it, the one whose answers were; it is then not supported.
    Where none were, nothing is taken.
    """
    found = [_at(confidences, later, accept, accuracy) for accept in _cuts(confidences)]
    supported = [each for each in found if each.is_supported]
    reached = [each for each in found if each.accuracy >= accuracy]
    if supported or reached:
        return min(supported or reached, key=lambda each: each.accept)
    return _at(confidences, later, 1.0, accuracy)


def threshold_for_rate(
    confidences: Floats, later: Answers, escalation_rate: float, *, repeats_once: bool = False
) -> Threshold:
    """The highest threshold that hands on no more than this share of the answers.

    `repeats_once`: of samples with the same scores the first alone counts, for a tier above that remembers its answers.
    """
    counted = later.is_first if repeats_once else np.ones(len(later), np.bool_)
    cuts = [cut for cut in _cuts(confidences) if float(((confidences < cut) & counted).mean()) <= escalation_rate]
    chosen = _at(confidences, later, max(cuts), 0.0)
    n_own = later.n_independent
    return replace(chosen, is_supported=n_own * min(escalation_rate, 1 - escalation_rate) >= MIN_ANSWERS / 3)


def _cuts(confidences: Floats) -> list[float]:
    """Thresholds worth looking at: each confidence that occurs, rounded down so that it is taken itself."""
    cuts: list[float] = (np.floor(np.unique(confidences) * 1e6) / 1e6).tolist()
    return cuts


def _at(confidences: Floats, later: Answers, accept: float, accuracy: float) -> Threshold:
    taken = confidences >= accept
    n_taken, n_right = int(taken.sum()), int((taken & later.right).sum())
    share = later.n_independent / max(len(later), 1)
    low = wilson_low(n_right * share, n_taken * share)
    return Threshold(
        accept=accept,
        n_taken=n_taken,
        n=len(later),
        accuracy=n_right / n_taken if n_taken else math.nan,
        accuracy_low=low,
        is_supported=low >= accuracy,
    )


def needed(accuracy: float, z: float = Z_90) -> int:
    """How many independent samples, all right, a lower bound of `accuracy` takes: n / (n + z^2) >= accuracy."""
    return math.ceil(z * z * accuracy / (1 - accuracy)) if accuracy < 1 else 0


def labels_known(found: Sequence[str], known: Sequence[str]) -> None:
    """Raises ModelError when a recording has labels that the model cannot answer."""
    unknown = sorted(set(found) - set(known))
    if unknown:
        raise ModelError(
            f"the model answers {', '.join(map(repr, known))}; the recordings also say "
            f"{', '.join(map(repr, unknown[:5]))}: rename them, leave those rows out, or fit a model that knows them"
        )
