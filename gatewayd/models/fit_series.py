"""Fit a model for `classify_series`: CSV recordings in, a bundle out.

Invariant: every figure reported, the temperature and the threshold come from windows of recordings the judging head was
not trained on (whole files apart; with one file, devices apart; with one device, the last 30 % of its time). The head
in the bundle is then trained on everything. With labels it is a classifier; without, the distance to what is normal.

Needs the extra `fit`; imported by the command that fits, never by the daemon.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import structlog
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from gatewayd.errors import ModelError
from gatewayd.models import fit_head as heads
from gatewayd.models.fit_csv import Recordings, Series, read_recordings
from gatewayd.models.fit_graph import FEATURES, Array, Head, feature_model, quantize_head, run_model, series_model
from gatewayd.models.fit_head import RECIPES, Floats, Ints, Recipe
from gatewayd.models.write import write_bundle

log = structlog.get_logger(__name__)

Progress = Callable[[str, int, int], None]  # what, steps done, of how many
Kind = Literal["classification", "anomaly"]
Quantize = Literal["auto", "int8", "float"]

MAX_WINDOWS = 20_000  # more recordings are thinned evenly: neighbors are nearly alike, and a fit should take seconds
ENOUGH = 0.01  # a further field, or a larger head, must gain this much AUC on held-out recordings
MAX_DRIFT = 2.0
MAX_AUC_LOSS = 0.005  # what int8 may cost
MIN_INT8_WEIGHTS = 65_536  # below, int8 is no faster (14,000 weights: 781 against 666 us for 256; 65,000: 991, 1013)
POSITIVE_BY_NUMBER = {"0", "0.0", "1", "1.0"}


class FileFigures(msgspec.Struct, frozen=True, kw_only=True):
    """How well one recording was judged by a head that had not seen it. NaN: cannot be said (one class only)."""

    file: str
    windows: int
    auc: float
    f1: float
    always_f1: float  # F1 of saying the second label always: what a figure must beat


class FitReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was fitted, and how well it judges recordings it has not seen."""

    folder: Path
    kind: Kind
    fields: tuple[str, ...]
    labels: tuple[str, ...]
    window: int
    rows: int
    windows: int
    auc: float  # held out; NaN without labels
    f1: float  # held out, at the threshold, which was chosen on the same scores; NaN without labels
    false_alarms: float  # share of held-out windows of the first label that got another
    threshold: float
    temperature: float  # already folded into the head
    recipe: str
    quantized: bool
    seconds: float
    files: tuple[FileFigures, ...]


@dataclass(frozen=True, slots=True)
class _Data:
    features: Array  # [k, fields * len(FEATURES)]
    classes: Ints  # [k]; all 0 without labels
    groups: Ints  # [k]: what is never parted
    files: tuple[str, ...]  # [k]
    labels: tuple[str, ...]
    labeled: bool
    sample: Array  # [s, n, fields]: some windows, to fix the ranges of int8

    def of_fields(self, chosen: Sequence[int]) -> "_Data":
        """Only these fields' features."""
        columns = np.concatenate([np.arange(at * len(FEATURES), (at + 1) * len(FEATURES)) for at in chosen])
        return replace(self, features=self.features[:, columns], sample=self.sample[:, :, list(chosen)])


@dataclass(frozen=True, slots=True)
class _Fitted:
    head: Head
    scores: Floats  # [r, labels]: held out
    rows: Ints  # [r]: which windows those are
    threshold: float
    temperature: float
    recipe: str


def fit_series(
    csvs: Sequence[Path],
    out: Path,
    *,
    name: str,
    version: str = "1",
    fields: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    label_column: str | None = None,
    time_column: str | None = None,
    device_column: str | None = None,
    delimiter: str | None = None,
    window: int = 60,
    kind: Literal["auto", "classification", "anomaly"] = "auto",
    false_alarm_rate: float | None = None,
    quantize: Quantize = "auto",
    licence: str = "",
    seed: int = 0,
    progress: Progress | None = None,
) -> FitReport:
    """Fit a model on recordings and write the bundle `out/name`.

    Args:
        fields: columns to use. None: with labels the numeric columns that do not drift between recordings and help
            on held-out ones; without labels every numeric column, so name those that belong to the machine.
        ignore: columns never to use.
        label_column: the label of each row; 0 and 1 become "normal" and the column's name.
        window: rows a score is about. A device gets its first result after so many messages.
        kind: auto is "classification" where there are labels. "anomaly" with labels learns from the first label's rows
            alone and uses the others to judge.
        false_alarm_rate: share of windows of the first label that may get the second. None: the best F1 decides with
            labels; without, 0.01, kept in the middle one of the held-out recordings.

    Raises ModelError naming what to do: a missing extra, a cell that is no number, too few recordings.
    """
    heads.require_sklearn()
    began, say = time.monotonic(), progress or (lambda _what, _done, _total: None)
    recordings = read_recordings(
        csvs, fields=fields, ignore=ignore, label_column=label_column, time_column=time_column,
        device_column=device_column, delimiter=delimiter,
    )  # fmt: skip
    what: Kind = kind if kind != "auto" else "classification" if label_column else "anomaly"
    if what == "classification" and label_column is None:
        raise ModelError("a classifier needs labels: name the column that holds them, or fit an anomaly detector")
    data = _windows(recordings, window, label_column)
    say("reading", 1, 1)
    chosen: Sequence[int] = range(len(recordings.fields))
    if fields is None and what == "classification":
        chosen = _choose_fields(data, _steady(data), window, seed)
        log.info("fields chosen", used=[recordings.fields[at] for at in chosen])
    say("choosing fields", 1, 1)
    data = data.of_fields(chosen)
    fit = _classifier if what == "classification" else _detector
    fitted = fit(data, window, seed, false_alarm_rate)
    say("fitting", 1, 1)
    names = tuple(recordings.fields[at] for at in chosen)
    graph, quantized = _graph(fitted, data, window, quantize)
    report = _report(fitted, data, recordings, what, names, window, quantized, time.monotonic() - began, out / name)
    _write(report, graph, out, name, version, licence, recordings.interval_s)
    return report


def _windows(recordings: Recordings, n: int, label_column: str | None) -> _Data:
    """Features and class of every window; a window's class is that of its last row."""
    usable = [one for one in recordings.series if len(one.values) >= n]
    if not usable or n < 4:
        raise ModelError(f"no recording has {n} rows without a gap: record more, or take a shorter window (from 4)")
    names, rename = _labels(sorted({label for one in usable for label in one.labels}), usable, label_column)
    several_files = len({one.file for one in usable}) > 1
    keys = [one.file if several_files else one.device for one in usable]
    groups = {key: at for at, key in enumerate(dict.fromkeys(keys))}
    step = -(-sum(len(one.values) - n + 1 for one in usable) // MAX_WINDOWS)
    graph = feature_model(n, len(recordings.fields))
    features, sample = [], []
    classes: list[int] = []
    owners: list[int] = []
    files: list[str] = []
    for one, key in zip(usable, keys, strict=True):
        view = sliding_window_view(one.values, n, axis=0).transpose(0, 2, 1)[::step]
        features.append(np.concatenate([_features(graph, view[at : at + 2048]) for at in range(0, len(view), 2048)]))
        ends = range(n - 1, len(one.values), step)
        classes.extend(rename[one.labels[end]] if one.labels else 0 for end in ends)
        owners.extend([groups[key]] * len(view))
        files.extend([one.file] * len(view))
        sample.append(view[:: max(1, len(view) * len(usable) // 1024)])
    return _Data(
        np.concatenate(features), np.array(classes, np.intp), np.array(owners, np.intp), tuple(files), names,
        label_column is not None, np.ascontiguousarray(np.concatenate(sample)),
    )  # fmt: skip


def _features(graph: object, view: NDArray[np.float32]) -> Array:
    return run_model(graph, {"window": np.ascontiguousarray(view)}, "features")


def _labels(
    found: list[str], series: Sequence[Series], label_column: str | None
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Names of the labels, the most frequent first, and the index of each text of the label column."""
    if label_column is None:
        return ("normal", "anomaly"), {}
    if len(found) < 2:
        raise ModelError(f"column {label_column!r} holds one label only, {found}: rows of two are needed")
    if set(found) <= POSITIVE_BY_NUMBER:
        return ("normal", label_column), {text: int(float(text)) for text in found}
    counts = {label: sum(one.labels.count(label) for one in series) for label in found}
    ordered = sorted(found, key=lambda label: (-counts[label], label))
    return tuple(ordered), {label: at for at, label in enumerate(ordered)}


def _steady(data: _Data) -> list[int]:
    """The fields whose normal level is not farther apart between recordings than MAX_DRIFT times its spread within one.

    A level that follows the room or the season tells the recordings apart, and has no meaning in the next one. All
    fields, where all drift or where there is one recording only.
    """
    levels = data.features[:, FEATURES.index("mean_all") :: len(FEATURES)].astype(np.float64)
    parts = [levels[(data.groups == group) & (data.classes == 0)] for group in np.unique(data.groups)]
    parts = [part for part in parts if len(part)]
    if len(parts) < 2:
        return list(range(levels.shape[1]))
    within = np.mean([part.std(axis=0) for part in parts], axis=0)
    between = np.std([part.mean(axis=0) for part in parts], axis=0)
    steady = np.flatnonzero(between <= MAX_DRIFT * within).tolist()
    return steady or list(range(levels.shape[1]))


def _choose_fields(data: _Data, allowed: Sequence[int], n: int, seed: int) -> list[int]:
    """Add the field that helps most on held-out recordings, as long as one helps (forward selection)."""
    left, reached = list(allowed), -1.0
    chosen: list[int] = []
    while left:
        tried = {at: _held_out_auc(data.of_fields([*chosen, at]), RECIPES[0], n, seed) for at in left}
        best = max(tried, key=lambda at: tried[at])
        if chosen and tried[best] < reached + ENOUGH:
            break
        chosen.append(best)
        left.remove(best)
        reached = tried[best]
    return sorted(chosen)


def _held_out_auc(data: _Data, recipe: Recipe, n: int, seed: int) -> float:
    """The lesser of the AUC over all held-out windows, and of its mean over recordings.

    The first alone is pleased by a field that tells recordings apart, such as the temperature of the day; the second
    does not see that one threshold must serve them all.
    """
    cuts = heads.folds(data.groups, n)
    values, rows = heads.held_out_logits(
        recipe, data.features, data.classes, cuts, n_labels=len(data.labels), seed=seed
    )
    scores, truth, groups = heads.probabilities(values), data.classes[rows], data.groups[rows]
    each = [heads.roc_auc(scores[groups == group], truth[groups == group]) for group in np.unique(groups)]
    known = [auc for auc in each if not np.isnan(auc)]
    return min(heads.roc_auc(scores, truth), float(np.mean(known))) if known else heads.roc_auc(scores, truth)


def _classifier(data: _Data, n: int, seed: int, false_alarm_rate: float | None) -> _Fitted:
    recipe, reached = RECIPES[0], -1.0
    for candidate in RECIPES:
        auc = _held_out_auc(data, candidate, n, seed)
        if auc > reached + (ENOUGH if reached >= 0 else 0.0):
            recipe, reached = candidate, auc
    cuts = heads.folds(data.groups, n)
    n_labels = len(data.labels)
    values, rows = heads.held_out_logits(recipe, data.features, data.classes, cuts, n_labels=n_labels, seed=seed)
    divisor = heads.temperature(values, data.classes[rows])
    scores = heads.probabilities(values / divisor)
    threshold = 0.5
    if n_labels == 2:
        threshold = _threshold(scores[:, 1], data.classes[rows] == 1, false_alarm_rate)
    head = heads.train(recipe, data.features, data.classes, n_labels=n_labels, seed=seed)
    return _Fitted(heads.cooled(head, divisor), scores, rows, threshold, divisor, str(recipe))


def _threshold(scores: Floats, truth: NDArray[np.bool_], false_alarm_rate: float | None) -> float:
    if false_alarm_rate is None:
        return heads.best_threshold(scores, truth)
    return float(np.quantile(scores[~truth], 1.0 - false_alarm_rate))


def _detector(data: _Data, n: int, _seed: int, false_alarm_rate: float | None) -> _Fitted:
    """Distances of held-out windows to the normal ones; the score is 0.5 at the wanted rate of false alarms."""
    distances, rows = [], []
    for train_rows, judged in heads.folds(data.groups, n):
        normal = train_rows[data.classes[train_rows] == 0]
        if len(normal) < 2 * data.features.shape[1]:
            raise ModelError(
                f"{len(normal)} normal windows are too few for {data.features.shape[1]} features: record more"
            )
        distances.append(heads.logits(heads.anomaly_head(data.features[normal]), data.features[judged])[:, 0])
        rows.append(judged)
    distance, judged_rows = np.concatenate(distances), np.concatenate(rows)
    # The rate holds in the middle one of the held-out recordings: pooled, the oddest recording alone would decide.
    rate = 0.01 if false_alarm_rate is None else false_alarm_rate
    quiet, owners = data.classes[judged_rows] == 0, data.groups[judged_rows]
    limits = [np.quantile(distance[quiet & (owners == group)], 1.0 - rate) for group in np.unique(owners[quiet])]
    half_at = max(float(np.median(limits)), 1e-6)
    positive = distance / (distance + half_at)
    head = replace(heads.anomaly_head(data.features[data.classes == 0]), half_at=half_at)
    return _Fitted(
        head, np.stack([1 - positive, positive], axis=1), judged_rows, 0.5, 1.0, "distance to normal windows"
    )


def _graph(fitted: _Fitted, data: _Data, n: int, quantize: Quantize) -> tuple[bytes, bool]:
    """The model as a file, in int8 where that is wanted, pays and costs no quality."""
    graph = series_model(n, data.sample.shape[2], fitted.head)
    plain: bytes = graph.SerializeToString()
    n_weights = sum(layer.weights.size for layer in fitted.head.layers)
    if quantize == "float" or (quantize == "auto" and n_weights < MIN_INT8_WEIGHTS):
        return plain, False
    with tempfile.TemporaryDirectory() as work:
        small: bytes = quantize_head(graph, data.sample, Path(work)).SerializeToString()
    before, after = (run_model(one, {"window": data.sample}, "scores")[:, 1] for one in (plain, small))
    said = (before >= fitted.threshold).astype(np.intp)
    scores = np.stack([1 - after, after], axis=1).astype(np.float64)
    auc = heads.roc_auc(scores, said)
    return (plain, False) if auc < 1.0 - MAX_AUC_LOSS else (small, True)


def _report(
    fitted: _Fitted, data: _Data, recordings: Recordings, kind: Kind, names: tuple[str, ...], window: int,
    quantized: bool, seconds: float, folder: Path,
) -> FitReport:  # fmt: skip
    truth, n_labels = data.classes[fitted.rows], len(data.labels)
    said = fitted.scores.argmax(axis=1) if n_labels > 2 else (fitted.scores[:, 1] >= fitted.threshold).astype(np.intp)
    files = np.array(data.files)[fitted.rows]
    figures = [
        _figures(file, fitted.scores[files == file], truth[files == file], said[files == file])
        for file in dict.fromkeys(files.tolist())
    ]
    quiet = truth == 0
    return FitReport(
        folder=folder, kind=kind, fields=names, labels=data.labels, window=window, rows=recordings.rows,
        windows=len(data.classes), auc=heads.roc_auc(fitted.scores, truth),
        f1=_f1(truth, said, n_labels) if data.labeled else float("nan"),
        false_alarms=float((said[quiet] != 0).mean()) if quiet.any() else 0.0, threshold=fitted.threshold,
        temperature=fitted.temperature, recipe=fitted.recipe, quantized=quantized, seconds=seconds,
        files=tuple(figures),
    )  # fmt: skip


def _figures(file: str, scores: Floats, truth: Ints, said: Ints) -> FileFigures:
    n_labels = scores.shape[1]
    always = _f1(truth, np.ones(len(truth), np.intp), n_labels)
    return FileFigures(
        file=file, windows=len(truth), auc=heads.roc_auc(scores, truth), f1=_f1(truth, said, n_labels), always_f1=always
    )


def _f1(truth: Ints, said: Ints, n_labels: int) -> float:
    """F1 of the second of two labels; of more, the mean over those that occur."""
    labels = [1] if n_labels == 2 else [at for at in range(n_labels) if (truth == at).any()]
    return float(np.mean([heads.f1_score(truth == at, said == at) for at in labels]))


def _write(
    report: FitReport, graph: bytes, out: Path, name: str, version: str, licence: str, interval_s: float
) -> None:
    number = "int8" if report.quantized else "float32"
    write_bundle(
        out,
        name=name,
        version=version,
        runtime="onnx",
        task=f"series-{report.kind}",
        files={"model": graph},
        licence=licence or "fitted on your own recordings",
        description=f"{report.recipe} in {number} on {report.windows} windows of {report.window} rows",
        labels=report.labels,
        input={
            "kind": report.kind,
            "fields": list(report.fields),
            "window": report.window,
            "interval_s": interval_s,
            "features": list(FEATURES),
        },
        calibration={
            "threshold": report.threshold,
            "temperature": report.temperature,
            "held_out": {"false_alarms": report.false_alarms}
            | ({} if np.isnan(report.auc) else {"auc": report.auc, "f1": report.f1}),
        },
    )
