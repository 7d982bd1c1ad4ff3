"""classify_series: the last samples of each device through one ONNX model, one inference a batch.

The model takes windows [batch, n, fields] and answers scores [batch, labels]; features, scaling and classifier are all
in its graph (`gatewayd models fit` writes such bundles), so nothing computed here can differ from what was fitted.
A device's ring changes after the inference of its batch, never before: calling again with the same batch is harmless.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from gatewayd.api import (
    Batch,
    ConfigError,
    Message,
    Model,
    ModelError,
    Models,
    RejectedError,
    Rejection,
    Result,
    TensorSession,
)
from gatewayd_handlers.devices import UnusableError, device_of, finite
from gatewayd_handlers.novelty import NoveltyGuard, guard_of, statistics
from gatewayd_handlers.series_rings import Ring, Rings

Array = NDArray[np.float32]
DEFAULT_GAP_SAMPLES = 10  # a pause of this many usual intervals is a gap: what was before says little of what is now

MAX_NUMBER = 1e15  # features square in float32, which ends at 3e38: a larger one would spoil n windows


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of `classify_series`."""

    model: Annotated[str, Meta(min_length=1, description="Name of the model bundle.")]
    fields: Annotated[
        list[str],
        Meta(description="Names of the message's fields, in the order of the model's. Empty: the model's own names."),
    ] = []
    device: Annotated[str, Meta(min_length=1, description='What a device is: "topic", or the field that names it.')] = (
        "topic"
    )
    max_devices: Annotated[
        int, Meta(ge=1, le=1000000, description="Devices remembered; the one unseen for the longest is evicted.")
    ] = 1000
    emit: Annotated[
        Literal["always", "changes"],
        Meta(description="A result for each message, or when a device's label differs from its last."),
    ] = "always"
    threshold: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(description="Score from which on the second of two labels is given. Unset: the model's own."),
    ] = None
    min_confidence: Annotated[
        float, Meta(ge=0, le=1, description='Below this score of the best label the label is "unknown".')
    ] = 0.0
    max_gap_s: Annotated[
        Annotated[float, Meta(ge=0)] | None,
        Meta(description="A longer pause in message time begins the window anew. 0: never. Unset: 10 usual intervals."),
    ] = None


class _Expects(msgspec.Struct, frozen=True, kw_only=True):
    """What `[input]` of a bundle for series holds."""

    window: Annotated[int, Meta(ge=2, le=100000)]
    fields: Annotated[list[str], Meta(min_length=1)]
    kind: Literal["classification", "anomaly"] = "classification"
    interval_s: float = 0.0  # median time between samples where it was fitted; 0: not known


class ClassifySeries:
    """The handler. `rings.devices.n_evicted` and `rings.n_restarted` count what was forgotten, and why."""

    Config: ClassVar[type[msgspec.Struct]] = Options
    journaled: ClassVar[bool] = False
    inline: ClassVar[bool] = True
    stateful: ClassVar[bool] = True  # in a cascade: it has to see every message

    def __init__(self, config: Options) -> None:
        self._config = config
        # Of the last batch: the messages that were judged, held so that no `id` is given anew, and their windows.
        self._judged: tuple[Sequence[Message], Array] = (), np.empty((0, 1, 1), np.float32)
        self.rings = Rings(1, 1, max_devices=1, max_gap_s=0.0)  # until `start` knows what the model expects

    def start(self, models: Models) -> None:
        """Load the model. Raises ModelError when it is not one for series, ConfigError when options do not fit it."""
        model = models.get(self._config.model)
        expects = _expected(model)
        window, fields, self._kind = expects.window, expects.fields, expects.kind
        self._fields = _own_fields(self._config, fields)
        self.samples_of = self._fields, expects.interval_s
        self._session: TensorSession = model.tensors()
        self._input, self._output = self._session.inputs[0], self._session.outputs[0]
        self._labels = tuple(model.labels)
        stated = float(model.calibration.get("threshold", 0.5))
        self._threshold = stated if self._config.threshold is None else self._config.threshold
        self._guard: NoveltyGuard | None = guard_of(model)
        self._stamp = {"model": model.name, "model_version": model.version}
        max_gap_s = self._config.max_gap_s
        if max_gap_s is None:
            max_gap_s = DEFAULT_GAP_SAMPLES * expects.interval_s
        self.rings = Rings(window, len(fields), max_devices=self._config.max_devices, max_gap_s=max_gap_s)
        # The first call allocates: let it be this one, and let a model that cannot be run show now.
        self._scores(np.zeros((1, window, len(fields)), np.float32))

    def take_over(self, before: "ClassifySeries") -> None:
        """The windows of the handler before this one, where samples mean the same here: devices go on as they were."""
        if (before.samples_of, before._config.device) == (self.samples_of, self._config.device):
            self.rings.take_over(before.rings)

    def stop(self) -> None:
        """Forget all devices."""
        self.rings.devices.clear()
        self._judged = (), np.empty((0, 1, 1), np.float32)

    def stats(self) -> Mapping[str, float]:
        """Devices remembered, and what was forgotten: evicted ones, and windows begun anew after a pause."""
        devices = self.rings.devices
        return {
            "devices": len(devices),
            "evicted_devices_total": devices.n_evicted,
            "restarted_windows_total": self.rings.n_restarted,
        }

    def handle(self, batch: Batch) -> Sequence[Result | Rejection]:
        """Results in order of the messages; none for a message whose window is not full yet."""
        messages = batch.messages
        devices, rows, unusable = self._read(messages)
        usable = [index for index in range(len(messages)) if index not in unusable]
        pending = self.rings.prepare(devices, [messages[index].time for index in usable], rows)
        scores = self._scores(pending.windows) if pending.ready else np.empty((0, len(self._labels)), np.float32)
        chosen = self._choose(scores)
        novelties = self._guard.of(self._points(pending.windows)) if self._guard and pending.ready else None
        self.rings.commit(pending)
        self._judged = [messages[usable[position]] for position in pending.ready], pending.windows
        answers: dict[int, Result | Rejection] = {
            index: Rejection(message=messages[index], reason=why.reason, detail=str(why))
            for index, why in unusable.items()
        }
        for row, (position, label, values) in enumerate(zip(pending.ready, chosen, scores.tolist(), strict=True)):
            if self._wanted(pending.groups[devices[position]][0], label):
                index = usable[position]
                answers[index] = self._result(messages[index], label, values, novelties[row] if novelties else None)
        return [answers[index] for index in sorted(answers)] if unusable else list(answers.values())

    def evidence(self, message: Message) -> Mapping[str, Any] | None:
        """The window that a message of the last batch was judged by: `fields`, and `window` [n][fields], oldest first.
        One sample says little to whoever is asked next."""
        messages, windows = self._judged
        row = next((row for row, one in enumerate(messages) if one is message), None)
        if row is None:
            return None
        window = windows[row].astype(np.float64)
        return {"fields": list(self._fields), "window": np.round(window, 6).tolist()}

    def points(self, batch: Batch) -> tuple[Sequence[Message], Array]:
        """The messages whose window is full with them, and the points their novelty is measured by; nothing changes."""
        devices, rows, unusable = self._read(batch.messages)
        usable = [message for index, message in enumerate(batch.messages) if index not in unusable]
        pending = self.rings.prepare(devices, [message.time for message in usable], rows)
        points = self._points(pending.windows) if pending.ready else np.empty((0, 1), np.float32)
        return [usable[position] for position in pending.ready], points

    def _points(self, windows: Array) -> Array:
        """The model's own features where its graph gives them, else plain statistics."""
        if "features" not in self._session.outputs:
            return statistics(windows)
        features: Array = self._session.run({self._input: windows})["features"]
        return features

    def _read(self, messages: Sequence[Message]) -> tuple[list[str], Array, dict[int, UnusableError]]:
        """Devices and rows [k, fields] of the messages that can be used, and why the others cannot."""
        devices: list[str] = []
        rows: list[list[float]] = []
        unusable: dict[int, UnusableError] = {}
        for index, message in enumerate(messages):
            try:
                row = self._row(message.value)
                devices.append(device_of(message, self._config.device))
                rows.append(row)
            except UnusableError as why:
                unusable[index] = why
        return devices, np.array(rows, np.float32).reshape(len(rows), len(self._fields)), unusable

    def _row(self, value: Any) -> list[float]:
        if type(value) is dict or isinstance(value, Mapping):
            read = value.get
        elif len(self._fields) == 1:
            read = {self._fields[0]: value}.get  # a bare number is the one field there is
        else:
            raise UnusableError("missing_field", "the payload has no fields")
        row = []
        for name in self._fields:
            given = read(name)
            if given is None:
                raise UnusableError("missing_field", f"no field {name!r}")
            number = finite(given)
            if number is None or not -MAX_NUMBER < number < MAX_NUMBER:
                raise UnusableError("not_a_number", f"field {name!r} is no finite number below {MAX_NUMBER:g}")
            row.append(number)
        return row

    def _scores(self, windows: Array) -> Array:
        scores: Array = self._session.run({self._input: windows})[self._output]
        if scores.shape != (len(windows), len(self._labels)):
            raise ModelError(
                f"model {self._config.model!r} answers scores of shape {scores.shape}, "
                f"not {(len(windows), len(self._labels))}: fit it again"
            )
        if not np.isfinite(scores).all():
            raise RejectedError(f"model {self._config.model!r} answers scores that are no numbers", reason="no_score")
        return scores

    def _choose(self, scores: Array) -> list[str]:
        """The label for each row of scores; of two labels the second one from the threshold on."""
        if not len(scores):
            return []
        two = len(self._labels) == 2
        best = (scores[:, 1] >= self._threshold).astype(np.intp) if two else scores.argmax(axis=1)
        labels = [self._labels[index] for index in best.tolist()]
        if self._config.min_confidence > 0:
            sure = (scores.max(axis=1) >= self._config.min_confidence).tolist()
            labels = [label if ok else "unknown" for label, ok in zip(labels, sure, strict=True)]
        return labels

    def _wanted(self, ring: Ring, label: str) -> bool:
        if self._config.emit == "always":
            return True
        changed, ring.label = ring.label != label, label
        return changed

    def _result(self, message: Message, label: str, values: list[float], novelty: float | None) -> Result:
        scores = dict(zip(self._labels, values, strict=True))
        # Of an anomaly the score is how anomalous, whatever the label; else it is the score of the label given.
        score = values[1] if self._kind == "anomaly" else scores.get(label, max(values))
        data = {"label": label, "score": score, "scores": scores, **self._stamp}
        return Result(kind=self._kind, data=data if novelty is None else data | {"novelty": novelty}, message=message)


def _expected(model: Model) -> _Expects:
    try:
        expects = msgspec.convert(model.input, _Expects)
    except msgspec.ValidationError as exc:
        raise ModelError(
            f"model {model.name!r} is none for series ({exc}): `gatewayd models fit` writes such bundles"
        ) from exc
    if len(model.labels) < 2:
        raise ModelError(f"model {model.name!r} has no two labels: fit it again")
    return expects


def _own_fields(config: Options, fields: list[str]) -> tuple[str, ...]:
    if config.fields and len(config.fields) != len(fields):
        raise ConfigError("options.fields", f"model {config.model!r} wants {len(fields)} in this order: {fields}")
    return tuple(config.fields or fields)
