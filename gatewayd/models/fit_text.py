"""Fit a head for `classify_text`: labeled texts in, a bundle out that maps a text's vector to a probability a label.

Invariant: every figure reported, the temperature and the threshold come from texts that were not fitted on, and neither
was any text with the same vector: the repetitions of one log statement stand on one side of a split. (The encoder reads
numbers as 0 unless told otherwise, so two lines of a statement have the same vector.)

Needs the extra `fit`; imported by the command that fits, never by the daemon.
"""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from gatewayd.errors import ConfigError
from gatewayd.models.bundle import read_bundle
from gatewayd.models.write import write_bundle

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Encode = Callable[[Sequence[str]], npt.NDArray[np.float32]]
Progress = Callable[[int, int], None]  # texts embedded, of how many

MAX_FOLDS = 5
_CHUNK = 64
_C = 30.0  # inverse strength of the L2 penalty: 10 to 100 were alike on unseen statements of BGL, 1 and 3 worse
_OPSET, _IR_VERSION = 17, 8  # old enough for every onnxruntime that pyproject allows


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFigures:
    """How a label did on texts that were not fitted on. `n_texts` is how many there were."""

    precision: float
    recall: float
    f1: float
    n_texts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FitReport:
    """What was fitted, and how well it judges statements it has not seen (cross-validated)."""

    folder: Path
    labels: tuple[str, ...]
    n_texts: int
    n_statements: int  # distinct vectors
    n_folds: int
    figures: Mapping[str, LabelFigures]  # by label
    temperature: float  # already folded into the head
    positive: str  # the rarer of two labels; "" when there are more than two
    threshold: float  # from which probability on the positive label wins
    calibration_error: float  # expected calibration error over ten bins of equal width, on texts not fitted on


@dataclass(frozen=True, slots=True)
class _Data:
    vectors: Floats  # [n_texts, n_dimensions]
    classes: Ints  # [n_texts]: index into the labels
    statements: Ints  # [n_texts]: texts with one vector have one number


def fit_text(
    files: Sequence[Path],
    out: Path,
    *,
    name: str,
    encoder: Path,
    encode: Encode,
    text_column: str = "text",
    label_column: str = "label",
    version: str = "1",
    licence: str = "",
    max_tokens: int = 128,
    mask_numbers: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> FitReport:
    """Fit a head on labeled texts (CSV with a header, or NDJSON) and write the bundle `out/name`.

    `encoder` is the folder of the encoder's bundle, and `encode` maps texts to its unit vectors [n, n_dimensions], made
    with `max_tokens` and `mask_numbers`: the three are written down, and the handler holds to them. A label needs two
    different texts at least.

    Raises ConfigError when the files cannot be fitted on, ModelError when the bundle cannot be written.
    """
    texts, names = read_texts(files, text_column, label_column)
    labels = _labels(names)
    data = _embed(texts, names, labels, encode, progress)
    report = _judge_unseen(data, labels, out / name, seed)
    weights, bias = _fit(data, np.arange(len(texts)), len(labels))
    fits = {
        "encoder": encoder.name,
        "encoder_sha256": _digest(encoder),
        "max_tokens": max_tokens,
        "mask_numbers": mask_numbers,
    }
    head = _head(weights / report.temperature, bias / report.temperature)
    _write(report, head, fits, version=version, licence=licence)
    return report


def read_texts(files: Sequence[Path], text_column: str, label_column: str) -> tuple[list[str], list[str]]:
    """Texts and their labels out of CSV files with a header, or NDJSON, in their order. Raises ConfigError."""
    texts: list[str] = []
    labels: list[str] = []
    for path in files:
        for number, row in enumerate(_rows(path), start=1):
            text, label = row.get(text_column), row.get(label_column)
            if not isinstance(text, str) or not isinstance(label, str) or not label:
                raise ConfigError(str(path), f"row {number} needs text in {text_column!r} and in {label_column!r}")
            if text.strip():
                texts.append(text)
                labels.append(label)
    return texts, labels


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            if path.suffix == ".csv":
                yield from csv.DictReader(file)
            else:
                yield from (msgspec.json.decode(line, type=dict[str, Any]) for line in file if line.strip())
    except (OSError, UnicodeDecodeError, csv.Error, msgspec.MsgspecError) as exc:
        raise ConfigError(
            str(path), f"cannot be read as {'CSV' if path.suffix == '.csv' else 'NDJSON'}: {exc}"
        ) from exc


def _labels(names: Sequence[str]) -> list[str]:
    labels = sorted(set(names))
    if len(labels) < 2:
        raise ConfigError("files", f"two labels are needed at least, found {labels}")
    return labels


def _embed(
    texts: Sequence[str], names: Sequence[str], labels: Sequence[str], encode: Encode, progress: Progress | None
) -> _Data:
    parts = []
    for start in range(0, len(texts), _CHUNK):
        parts.append(encode(texts[start : start + _CHUNK]))
        if progress is not None:
            progress(min(start + _CHUNK, len(texts)), len(texts))
    vectors = np.concatenate(parts)
    _, statements = np.unique(vectors, axis=0, return_inverse=True)
    classes = np.array([labels.index(label) for label in names], dtype=np.int64)
    return _Data(vectors.astype(np.float64), classes, statements.reshape(-1).astype(np.int64))


def _n_folds(data: _Data, labels: Sequence[str]) -> int:
    counts = [len(np.unique(data.statements[data.classes == i])) for i in range(len(labels))]
    fewest = min(counts)
    if fewest < 2:
        raise ConfigError(
            "files", f"label {labels[counts.index(fewest)]!r} has one kind of text only: give two or more"
        )
    return min(MAX_FOLDS, fewest)


def _judge_unseen(data: _Data, labels: list[str], folder: Path, seed: int) -> FitReport:
    n_folds = _n_folds(data, labels)
    logits = _unseen_logits(data, n_folds, len(labels), seed)
    temperature = _temperature(logits, data)
    probabilities = _softmax(logits / temperature)
    positive = _rarer(data, labels)
    threshold = _threshold(probabilities[:, labels.index(positive)], data, labels.index(positive)) if positive else 0.5
    decided = _decide(probabilities, labels, positive, threshold)
    return FitReport(
        folder=folder,
        labels=tuple(labels),
        n_texts=len(data.classes),
        n_statements=int(data.statements.max()) + 1,
        n_folds=n_folds,
        figures={label: _figures(decided == i, data.classes == i) for i, label in enumerate(labels)},
        temperature=temperature,
        positive=positive,
        threshold=threshold,
        calibration_error=_calibration_error(probabilities, data.classes),
    )


def _unseen_logits(data: _Data, n_folds: int, n_labels: int, seed: int) -> Floats:
    """Cross-validation: for each text the logits of a head that was fitted without its statement."""
    folds = _folds(data, n_folds, n_labels, np.random.default_rng(seed))[data.statements]
    logits = np.zeros((len(data.classes), n_labels))
    for fold in range(n_folds):
        weights, bias = _fit(data, np.flatnonzero(folds != fold), n_labels)
        held_out = folds == fold
        logits[held_out] = data.vectors[held_out] @ weights + bias
    return logits


def _folds(data: _Data, n_folds: int, n_labels: int, rng: np.random.Generator) -> Ints:
    """The fold of each statement; each label's statements are spread evenly."""
    folds = np.zeros(data.statements.max() + 1, dtype=np.int64)
    for label in range(n_labels):
        statements = rng.permutation(np.unique(data.statements[data.classes == label]))
        folds[statements] = np.arange(len(statements)) % n_folds
    return folds


def _fit(data: _Data, rows: Ints, n_labels: int) -> tuple[Floats, Floats]:
    """Logistic regression: weights [n_dimensions, n_labels] and bias [n_labels].

    A label weighs as much as another, and within it a statement as much as another however often it was logged:
    fitting on lines as they come learned the two statements that make up half of the recording.
    """
    from sklearn.linear_model import LogisticRegression

    classes, statements = data.classes[rows], data.statements[rows]
    weight = 1.0 / np.bincount(statements)[statements]
    for label in range(n_labels):
        weight[classes == label] /= weight[classes == label].sum()
    weight *= len(np.unique(statements)) / n_labels
    model = LogisticRegression(C=_C, max_iter=5000).fit(data.vectors[rows], classes, sample_weight=weight)
    if n_labels == 2:  # sklearn keeps one row for two classes: half a logit each way is the same softmax
        half_weights, half_bias = model.coef_[0] / 2, model.intercept_[0] / 2
        return np.stack([-half_weights, half_weights], axis=1), np.array([-half_bias, half_bias])
    return model.coef_.T, model.intercept_


def _softmax(logits: Floats) -> Floats:
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponent / exponent.sum(axis=1, keepdims=True))


def _temperature(logits: Floats, data: _Data) -> float:
    """The temperature of least log loss (Guo et al. 2017, On Calibration of Modern Neural Networks)."""
    rows = np.arange(len(data.classes))

    def loss(temperature: float) -> float:
        return float(-np.log(_softmax(logits / temperature)[rows, data.classes] + 1e-12).mean())

    return float(min(np.geomspace(0.05, 20.0, 200), key=loss))


def _rarer(data: _Data, labels: Sequence[str]) -> str:
    return labels[int(np.argmin(np.bincount(data.classes)))] if len(labels) == 2 else ""


def _threshold(scores: Floats, data: _Data, positive: int) -> float:
    """The threshold of best F1 where each statement counts once, in the middle of the gap it falls into."""
    _, first = np.unique(data.statements, return_index=True)
    scores, truth = scores[first], data.classes[first] == positive
    ordered = np.unique(scores)
    cuts = np.concatenate([(ordered[1:] + ordered[:-1]) / 2, [0.5]])
    best = max(cuts, key=lambda cut: (_figures(scores >= cut, truth).f1, -abs(cut - 0.5)))
    return float(best)


def _decide(probabilities: Floats, labels: Sequence[str], positive: str, threshold: float) -> Ints:
    if not positive:
        return np.asarray(probabilities.argmax(axis=1))
    wins = labels.index(positive)
    return np.where(probabilities[:, wins] >= threshold, wins, 1 - wins)


def _figures(said: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> LabelFigures:
    right = int((said & truth).sum())
    precision = right / max(int(said.sum()), 1)
    recall = right / max(int(truth.sum()), 1)
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return LabelFigures(precision=precision, recall=recall, f1=f1, n_texts=int(truth.sum()))


def _calibration_error(probabilities: Floats, classes: Ints) -> float:
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == classes
    bins = np.minimum((confidence * 10).astype(int), 9)
    gaps = [abs(confidence[bins == i].sum() - right[bins == i].sum()) for i in range(10)]
    return float(sum(gaps) / len(classes))


def _head(weights: Floats, bias: Floats) -> bytes:
    """ONNX: `embedding` float32 [batch, n_dimensions] -> `probabilities` float32 [batch, n_labels]."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    n_dimensions, n_labels = weights.shape
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["embedding", "weights", "bias"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
        ],
        "head",
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", n_dimensions])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", n_labels])],
        [
            numpy_helper.from_array(weights.astype(np.float32), "weights"),
            numpy_helper.from_array(bias.astype(np.float32), "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = _IR_VERSION
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _write(report: FitReport, head: bytes, fits: Mapping[str, Any], *, version: str, licence: str) -> None:
    calibration: dict[str, Any] = {"calibration_error": report.calibration_error}
    if report.positive:
        calibration |= {"positive": report.positive, "threshold": report.threshold}
    write_bundle(
        report.folder.parent,
        name=report.folder.name,
        version=version,
        runtime="onnx",
        task="text-classification-head",
        files={"model": head},
        licence=licence,
        description=f"Head fitted on {report.n_texts} texts of {report.n_statements} kinds",
        labels=report.labels,
        input=fits,
        calibration=calibration,
    )


def _digest(encoder: Path) -> str:
    """SHA-256 of the encoder's model file, as its manifest says. Raises ModelError when there is no such bundle."""
    files = read_bundle(encoder, name=encoder.name).manifest.files
    return next(entry.sha256 for entry in files if entry.role == "model")
