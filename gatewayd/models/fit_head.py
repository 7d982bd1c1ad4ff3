"""Small heads over features: trained with scikit-learn, kept as plain arrays, judged on what was held out."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gatewayd.errors import ModelError
from gatewayd.models.fit_graph import EPSILON, Array, Dense, Head

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Fold = tuple[Ints, Ints]  # rows to train on, rows to judge

CLIP = 30.0  # as in the graph
MAX_FOLDS = 8


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a head is trained. `hidden` 0 is logistic regression."""

    hidden: int
    penalty: float  # logistic regression: 1 / C; MLP: alpha

    def __str__(self) -> str:
        what = f"MLP with {self.hidden} hidden units" if self.hidden else "logistic regression"
        return f"{what}, L2 penalty {self.penalty:g}"


# Simple first: a later one must be clearly better to be taken.
RECIPES = (Recipe(0, 10.0), Recipe(0, 100.0), Recipe(16, 10.0))


def require_sklearn() -> None:
    """Raises ModelError when the extra `fit` is not installed."""
    try:
        import onnx  # noqa: F401
        import sklearn  # noqa: F401
    except ImportError as exc:
        raise ModelError(f"fitting needs {exc.name}: pip install 'gatewayd[onnx,fit]'") from exc


def standardizer(features: Array) -> tuple[Array, Array]:
    """Mean and scale of each feature; one that never changes gets a scale of 1."""
    mean = features.mean(axis=0, dtype=np.float64)
    scale = features.std(axis=0, dtype=np.float64)
    flat = scale <= EPSILON * np.maximum(1.0, np.abs(mean))
    return mean.astype(np.float32), np.where(flat, 1.0, scale).astype(np.float32)


def train(recipe: Recipe, features: Array, classes: Ints, *, n_labels: int, seed: int) -> Head:
    """Train a head. `classes` must hold every label. One logit for two labels, else one for each."""
    mean, scale = standardizer(features)
    standard = _standard(features, mean, scale)
    layers = _mlp(recipe, standard, classes, seed) if recipe.hidden else _logistic(recipe, standard, classes, n_labels)
    return Head(mean, scale, layers, "sigmoid" if n_labels == 2 else "softmax")


def _standard(features: Array, mean: Array, scale: Array) -> Array:
    standard: Array = np.clip((features - mean) / scale, -CLIP, CLIP)
    return standard


def _logistic(recipe: Recipe, standard: Array, classes: Ints, n_labels: int) -> tuple[Dense, ...]:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1.0 / recipe.penalty, max_iter=2000).fit(standard, classes)
    assert len(model.intercept_) == (1 if n_labels == 2 else n_labels)
    return (_dense(model.coef_.T, model.intercept_),)


def _mlp(recipe: Recipe, standard: Array, classes: Ints, seed: int) -> tuple[Dense, ...]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier((recipe.hidden,), alpha=recipe.penalty, max_iter=60, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # stopping early is part of the recipe
        model.fit(standard, classes)
    return tuple(_dense(weights, bias) for weights, bias in zip(model.coefs_, model.intercepts_, strict=True))


def _dense(weights: Floats, bias: Floats) -> Dense:
    return Dense(np.ascontiguousarray(weights, np.float32), np.ascontiguousarray(bias, np.float32))


def logits(head: Head, features: Array) -> Floats:
    """What the head gives before sigmoid or softmax: [k, 1] or [k, labels]; "distance": squared lengths [k, 1]."""
    value = _standard(features, head.mean, head.scale)
    for index, layer in enumerate(head.layers):
        value = value @ layer.weights + layer.bias
        if index + 1 < len(head.layers):
            value = np.maximum(value, 0.0)
    if head.squash == "distance":
        value = (value * value).sum(axis=1, keepdims=True)
    return value.astype(np.float64)


def probabilities(values: Floats) -> Floats:
    """[k, labels] out of logits: one logit is that of the second of two labels."""
    full = np.concatenate([np.zeros_like(values), values], axis=1) if values.shape[1] == 1 else values
    shifted = np.exp(full - full.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def temperature(values: Floats, classes: Ints) -> float:
    """The divisor of the logits with the least log loss (Guo et al. 2017, On Calibration of Modern Neural Networks)."""
    grid = np.geomspace(0.1, 10.0, 121)
    rows = np.arange(len(classes))
    losses = [-np.log(probabilities(values / t)[rows, classes] + 1e-12).mean() for t in grid]
    return float(grid[int(np.argmin(losses))])


def cooled(head: Head, divisor: float) -> Head:
    """The head with its logits divided."""
    last = head.layers[-1]
    divisor32 = np.float32(divisor)
    return replace(head, layers=(*head.layers[:-1], Dense(last.weights / divisor32, last.bias / divisor32)))


def anomaly_head(features: Array) -> Head:
    """The squared Mahalanobis distance to normal features, a feature's share being 1 / their number.

    The covariance is shrunk (Ledoit and Wolf 2004), because neighboring windows say nearly the same thing.
    """
    from sklearn.covariance import LedoitWolf

    mean, scale = standardizer(features)
    standard = _standard(features, mean, scale).astype(np.float64)
    precision = LedoitWolf(assume_centered=True).fit(standard).precision_
    values, vectors = np.linalg.eigh(precision)
    weights = vectors * np.sqrt(np.maximum(values, 0.0) / standard.shape[1])
    return Head(mean, scale, (_dense(weights, np.zeros(weights.shape[1])),), "distance")


def folds(groups: Ints, n_window: int) -> list[Fold]:
    """Rows to train on and to judge: whole groups apart; for a single group the last 30 % of its time.

    Windows overlap, so neighbors are never parted at random; with one group the windows across the cut are left out.
    """
    names = np.unique(groups)
    rows = np.arange(len(groups))
    if len(names) > 1:
        count = min(MAX_FOLDS, len(names))
        parts = [np.isin(groups, names[fold::count]) for fold in range(count)]
        return [(rows[~part], rows[part]) for part in parts]
    cut = int(len(rows) * 0.7)
    train_rows = rows[: max(0, cut - n_window)]
    if not len(train_rows):
        raise ModelError(f"{len(rows)} windows of {n_window} rows are too few to hold some out: record more")
    return [(train_rows, rows[cut:])]


def held_out_logits(
    recipe: Recipe, features: Array, classes: Ints, cuts: Sequence[Fold], *, n_labels: int, seed: int
) -> tuple[Floats, Ints]:
    """(logits, rows): each judged by a head that was not trained on its group."""
    values, rows = [], []
    for train_rows, judged in cuts:
        if len(np.unique(classes[train_rows])) < n_labels:
            continue  # a label that lives in one file alone cannot be judged on that file
        head = train(recipe, features[train_rows], classes[train_rows], n_labels=n_labels, seed=seed)
        values.append(logits(head, features[judged]))
        rows.append(judged)
    if not rows:
        raise ModelError("no label may live in one recording alone (or in its last third): nothing could be held out")
    return np.concatenate(values), np.concatenate(rows)


def roc_auc(scores: Floats, classes: Ints) -> float:
    """Area under the ROC curve, one label against the rest, mean over labels; NaN where there is one class only.

    Args:
        scores: [k, labels].
    """
    from sklearn.metrics import roc_auc_score

    labels = [1] if scores.shape[1] == 2 else range(scores.shape[1])
    areas = [
        float(roc_auc_score(classes == label, scores[:, label]))
        for label in labels
        if 0 < int((classes == label).sum()) < len(classes)
    ]
    return float(np.mean(areas)) if areas else float("nan")


def f1_score(truth: NDArray[np.bool_], said: NDArray[np.bool_]) -> float:
    """2 TP / (2 TP + FP + FN); 1 where there was nothing to find and nothing was said."""
    hits, wrong = int((truth & said).sum()), int((truth ^ said).sum())
    return 2 * hits / (2 * hits + wrong) if hits + wrong else 1.0


def best_threshold(scores: Floats, truth: NDArray[np.bool_]) -> float:
    """The score from which on to say yes for the highest F1. All distinct scores are tried."""
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(truth[order])
    f1 = 2 * hits / (np.arange(1, len(order) + 1) + truth.sum())
    f1[:-1][ranked[:-1] == ranked[1:]] = -1.0  # a threshold takes all equal scores, or none
    best = int(np.argmax(f1))
    below = ranked[best + 1] if best + 1 < len(ranked) else ranked[best]
    return float((ranked[best] + below) / 2)
