"""Labeled recordings through a handler: what its model says of each sample, beside the truth.

Invariant: samples go through the handler that runs on the gateway, in the order of the recordings, batch by batch;
scores, labels and points are what it would answer there. Recordings are read as `gatewayd models fit` reads them.

Imported by the command that calibrates, never by the daemon.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from gatewayd.api import Batch, Handler, Message, Model, Models, Rejection, Result
from gatewayd.errors import ModelError
from gatewayd.models.calibrate_fit import Answers, labels_known
from gatewayd.models.fit_csv import Series, read_recordings
from gatewayd.models.fit_text import read_texts

Progress = Callable[[int, int], None]  # samples done, of how many
Points = NDArray[np.float32]

BATCH = 64
ROUTE = "calibrate"
NUMBERS = {"0", "0.0", "1", "1.0"}  # as in fit_series: 0 is the first label, 1 the second


@runtime_checkable
class HasPoints(Protocol):
    """A handler that can tell how unlike an input is to others."""

    def points(self, batch: Batch) -> tuple[Sequence[Message], Points]:
        """The messages that get a result, and a point [k, dimensions] for each; changes nothing."""


@dataclass(frozen=True, slots=True)
class Labeled:
    """Samples in order of time. `overlap`: neighbors nearer than this say nearly the same (a window's rows)."""

    messages: Sequence[Message]
    truth: Sequence[str]
    overlap: int = 1


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of the samples."""

    answers: Answers
    points: Points | None  # [m, dimensions]; None: the handler gives none
    points_at: NDArray[np.intp]  # [m]: place in time
    n_samples: int
    n_rejected: int
    n_without: int  # samples without an answer: the window was not full, or the label was "unknown"


@dataclass(slots=True)
class _Heard:
    rows: list[list[float]] = field(default_factory=list)
    said: list[int] = field(default_factory=list)
    truth: list[str] = field(default_factory=list)
    points: list[Points] = field(default_factory=list)
    points_at: list[int] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)


def read_labeled_texts(
    files: Sequence[Path], *, text_column: str = "text", label_column: str = "label", path: str = ""
) -> Labeled:
    """Texts as `gatewayd models fit --text` reads them. `path` is where the handler looks for the text in a payload.

    Raises ConfigError naming file and row.
    """
    texts, truth = read_texts(files, text_column, label_column)
    messages = [
        Message(topic="texts", value=_nested(path, text), time=float(number), key=str(number))
        for number, text in enumerate(texts)
    ]
    return Labeled(messages, truth)


def _nested(path: str, text: str) -> Any:
    value: Any = text
    for name in reversed(path.split(".") if path else []):
        value = {name: value}
    return value


def read_labeled_series(
    files: Sequence[Path],
    *,
    fields: Sequence[str],
    label_column: str,
    window: int,
    interval_s: float = 0.0,
    time_column: str | None = None,
    device_column: str | None = None,
    device_field: str = "topic",
) -> Labeled:
    """Rows of CSV recordings as messages; each piece without a gap is a device of its own, so no window spans two.

    `device_field` is where the handler looks for the device. Raises ModelError naming file, line and column.
    """
    recordings = read_recordings(
        files, fields=fields, label_column=label_column, time_column=time_column, device_column=device_column
    )
    messages: list[Message] = []
    truth: list[str] = []
    step_s = interval_s or recordings.interval_s or 1.0
    for number, one in enumerate(recordings.series):
        messages += _rows(one, fields, f"{one.file}/{one.device}/{number}", device_field, len(messages), step_s)
        truth += one.labels
    return Labeled(messages, truth, overlap=window)


def _rows(one: Series, names: Sequence[str], device: str, device_field: str, at: int, step_s: float) -> list[Message]:
    named = {} if device_field == "topic" else {device_field: device}
    return [
        Message(
            topic=device,
            value={**dict(zip(names, row, strict=True)), **named},
            time=(at + offset) * step_s,
            key=str(at + offset),
        )
        for offset, row in enumerate(one.values.tolist())
    ]


def hear(
    handler: Handler, models: Models, model: Model, labeled: Labeled, progress: Progress = lambda _done, _total: None
) -> Heard:
    """Run the samples through `handler`, which answers with `model`.

    Raises ModelError when it answers nothing that can be judged, with another model, or labels are unknown to it.
    """
    if not labeled.messages:
        raise ModelError("the recordings hold no sample")
    found, labels = _Heard(), list(model.labels)
    truth = named(labeled.truth, labels)
    if labels:
        labels_known(truth, labels)
    handler.start(models)
    for start in range(0, len(labeled.messages), BATCH):
        messages = labeled.messages[start : start + BATCH]
        _hear_batch(handler, model.name, messages, truth, labels, found)
        progress(min(start + BATCH, len(truth)), len(truth))
    handler.stop()
    _check(found, labels, model.name)
    return _result(found, labels, labeled)


def named(truth: Sequence[str], labels: Sequence[str]) -> Sequence[str]:
    """The labels of a recording in the model's words: 0 and 1 are the first and the second of two."""
    if len(labels) == 2 and set(truth) <= NUMBERS and not set(truth) <= set(labels):
        return [labels[int(float(label))] for label in truth]
    return truth


def _hear_batch(
    handler: Handler, name: str, messages: Sequence[Message], truth: Sequence[str], labels: list[str], found: _Heard
) -> None:
    batch = Batch(route=ROUTE, messages=messages, now=messages[-1].time)
    if isinstance(handler, HasPoints):  # before `handle`, which changes what the handler remembers
        answered, points = handler.points(batch)
        if answered:
            found.points.append(points)
            found.points_at += [int(message.key) for message in answered]
    for answer in handler.handle(batch):
        if isinstance(answer, Rejection):
            found.rejected[answer.reason] += 1
        elif answer.message is not None:
            _hear_one(answer, name, truth[int(answer.message.key)], labels, found)


def _hear_one(answer: Result, name: str, truth: str, labels: list[str], found: _Heard) -> None:
    label, scores = answer.data.get("label"), answer.data.get("scores")
    if not isinstance(label, str) or not isinstance(scores, Mapping) or len(scores) < 2:
        raise ModelError(f"the handler's results have no `label` and `scores` to calibrate: {dict(answer.data)}")
    if answer.data.get("model", name) != name:
        raise ModelError(f"the handler answers with the model {answer.data['model']!r}: calibrate that one, not {name}")
    if not labels:  # zero-shot: the labels stand in the options
        labels += scores
    if set(scores) != set(labels):
        raise ModelError(f"{name} has scores for {sorted(scores)}, its bundle says {sorted(labels)}: fit it again")
    if label in scores:  # "unknown" is no answer, and is handed on whatever was fitted here
        found.rows.append([float(scores[each]) for each in labels])
        found.said.append(labels.index(label))
        found.truth.append(truth)


def _check(found: _Heard, labels: Sequence[str], name: str) -> None:
    if not found.said:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in found.rejected.most_common(3))
        raise ModelError(
            f"{name} answered none of the samples: {reasons or 'no window was full'}; "
            "are these the recordings and columns it was fitted on?"
        )
    labels_known(found.truth, labels)


def _result(found: _Heard, labels: Sequence[str], labeled: Labeled) -> Heard:
    scores = np.array(found.rows, np.float64)
    n_distinct = len(np.unique(scores, axis=0))
    answers = Answers(
        labels=tuple(labels),
        scores=scores,
        said=np.array(found.said, np.intp),
        truth=np.array([labels.index(label) for label in found.truth], np.intp),
        # Two lines of one statement have the same scores, and windows that overlap nearly the same.
        n_independent=min(float(n_distinct), len(scores) / labeled.overlap),
    )
    n_rejected = sum(found.rejected.values())
    points = np.concatenate(found.points) if found.points else None
    n_samples = len(labeled.messages)
    return Heard(
        answers, points, np.array(found.points_at, np.intp), n_samples, n_rejected, n_samples - n_rejected - len(scores)
    )
