"""classify_series: rings, windows, gaps, devices, labels; the model is real ONNX of known arithmetic."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from gatewayd.api import Batch, ConfigError, Message, ModelError, Rejection, TransientError
from gatewayd.models.fit_graph import FEATURES, Dense, Head, run_model, series_model
from gatewayd_handlers.classify_series import ClassifySeries
from gatewayd_handlers.series_rings import Rings

N = 4


class Bundle:
    """A model in memory: the score of "high" is the sigmoid of the mean of the window's first field."""

    name, version = "level", "7"

    def __init__(self, fields: tuple[str, ...] = ("a",), kind: str = "classification", **table: Any) -> None:
        size = len(fields) * len(FEATURES)
        weights = np.zeros((size, 1), np.float32)
        weights[FEATURES.index("mean_all")] = 1.0
        flat = np.zeros(size, np.float32), np.ones(size, np.float32)
        self.graph = series_model(N, len(fields), Head(*flat, (Dense(weights, np.zeros(1, np.float32)),), "sigmoid"))
        self.labels = ["low", "high"]
        self.input = {"fields": list(fields), "window": N, "kind": kind, **table}
        self.calibration = {"threshold": 0.5}
        self.inputs, self.outputs = ["window"], ["scores"]
        self.calls: list[int] = []
        self.failing = False

    def get(self, name: str) -> "Bundle":
        return self

    def tensors(self) -> "Bundle":
        return self

    def run(self, arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.failing:
            raise TransientError("not now")
        self.calls.append(len(arrays["window"]))
        return {"scores": run_model(self.graph, dict(arrays), "scores")}


def make(bundle: Bundle, **options: Any) -> ClassifySeries:
    handler = ClassifySeries(msgspec.convert({"model": "level", **options}, ClassifySeries.Config))
    handler.start(bundle)
    bundle.calls.clear()
    return handler


def batch(*values: Any, topic: str = "t", time: float = 0.0) -> Batch:
    """Values of the field "a", or whole payloads, one a second."""
    payloads = [v if isinstance(v, dict) else {"a": v} for v in values]
    messages = [Message(topic=topic, value=v, time=time + i, key=str(i)) for i, v in enumerate(payloads)]
    return Batch(route="r", messages=messages, now=time)


def logits(answers: Any) -> list[float]:
    """The means the scores were made of."""
    scores = [answer.data["scores"]["high"] for answer in answers]
    return [round(float(np.log(score / (1 - score))), 3) for score in scores]


def test_a_window_ends_with_its_message_and_starts_n_before() -> None:
    handler = make(Bundle())

    answers = handler.handle(batch(0.0, 1.0, 2.0, 3.0, 0.0, -5.0))

    assert logits(answers) == [1.5, 1.5, 0.0]
    assert [answer.message.key for answer in answers] == ["3", "4", "5"]


def test_batches_of_any_size_give_the_same_scores() -> None:
    values = np.random.default_rng(0).normal(size=40).tolist()
    whole, parts = make(Bundle()), make(Bundle())

    at_once = logits(whole.handle(batch(*values)))
    bit_by_bit = [x for i in range(0, 40, 3) for x in logits(parts.handle(batch(*values[i : i + 3], time=i)))]

    assert at_once == bit_by_bit
    assert len(at_once) == 40 - N + 1


def test_a_batch_of_several_devices_is_one_inference_in_order_of_messages() -> None:
    bundle = Bundle()
    handler = make(bundle, device="id")
    rows = [{"a": float(sign), "id": name} for _ in range(N) for name, sign in (("x", 1), ("y", -1))]

    answers = handler.handle(batch(*rows))

    assert bundle.calls == [2]
    assert logits(answers) == [1.0, -1.0]


def test_nothing_changes_when_the_inference_fails() -> None:
    bundle = Bundle()
    handler = make(bundle)
    handler.handle(batch(1.0, 1.0, 1.0))
    bundle.failing = True

    with pytest.raises(TransientError):
        handler.handle(batch(5.0, time=3))
    bundle.failing = False

    assert logits(handler.handle(batch(5.0, time=3))) == [2.0]


def test_a_gap_in_message_time_starts_the_window_anew() -> None:
    handler = make(Bundle(), max_gap_s=5.0)
    handler.handle(batch(1.0, 1.0, 1.0, 1.0))

    answers = handler.handle(batch(2.0, 2.0, 2.0, 2.0, time=100.0))

    assert logits(answers) == [2.0]
    assert handler.rings.n_restarted == 1


def test_the_bundle_s_interval_says_what_a_gap_is_unless_the_options_do() -> None:
    by_bundle, never = make(Bundle(interval_s=1.0)), make(Bundle(interval_s=1.0), max_gap_s=0)
    for handler in (by_bundle, never):
        handler.handle(batch(1.0, 1.0, 1.0, 1.0))

    assert by_bundle.handle(batch(1.0, time=14.0)) == []
    assert len(never.handle(batch(1.0, time=14.0))) == 1


def test_a_message_that_cannot_be_used_is_rejected_and_not_in_the_window() -> None:
    handler = make(Bundle())

    answers = handler.handle(batch(1.0, "x", 1.0, {"b": 1}, 1.0, float("nan"), 1e300, 1.0))

    reasons = [a.reason for a in answers if isinstance(a, Rejection)]
    assert reasons == ["not_a_number", "missing_field", "not_a_number", "not_a_number"]
    assert logits(answers[-1:]) == [1.0]


def test_a_label_is_given_from_the_threshold_on() -> None:
    window = [{"a": 0.2}] * N  # a score of 0.55

    labels = [
        make(Bundle(), **o).handle(batch(*window))[0].data["label"]
        for o in ({}, {"threshold": 0.6}, {"min_confidence": 0.9})
    ]

    assert labels == ["high", "low", "unknown"]


def test_a_result_names_label_score_model_and_version() -> None:
    result = make(Bundle()).handle(batch(*[-1.0] * N))[0]

    assert result.kind == "classification"
    assert result.data["scores"] == pytest.approx({"low": 0.7311, "high": 0.2689}, abs=1e-4)
    assert result.data["score"] == result.data["scores"]["low"]
    assert (result.data["label"], result.data["model"], result.data["model_version"]) == ("low", "level", "7")


def test_the_score_of_an_anomaly_is_how_anomalous_whatever_the_label() -> None:
    result = make(Bundle(kind="anomaly")).handle(batch(*[-1.0] * N))[0]

    assert (result.kind, result.data["label"]) == ("anomaly", "low")
    assert result.data["score"] == pytest.approx(0.2689, abs=1e-4)


def test_emit_changes_answers_only_when_a_device_s_label_changes() -> None:
    handler = make(Bundle(), emit="changes")

    answers = handler.handle(batch(*[1.0] * 6, *[-9.0] * 6))

    assert [(a.message.key, a.data["label"]) for a in answers] == [("3", "high"), ("6", "low")]


def test_the_device_unseen_for_the_longest_is_evicted_and_counted() -> None:
    handler = make(Bundle(), device="id", max_devices=2)
    for name in ("x", "y", "z"):
        handler.handle(batch(*[{"a": 1.0, "id": name}] * N))

    assert handler.rings.devices.n_evicted == 1
    assert handler.handle(batch({"a": 1.0, "id": "x"})) == []


def test_more_devices_in_a_batch_than_are_remembered_still_get_their_answers() -> None:
    handler = make(Bundle(), device="id", max_devices=2)
    rows = [{"a": 1.0, "id": str(device)} for device in range(5) for _ in range(N)]

    assert len(handler.handle(batch(*rows))) == 5
    assert len(handler.rings.devices) == 2


def test_options_may_rename_the_fields_but_not_change_their_number() -> None:
    renamed = make(Bundle(), fields=["speed"])

    assert len(renamed.handle(batch(*[{"speed": 1.0}] * N))) == 1
    with pytest.raises(ConfigError, match="wants 1"):
        make(Bundle(), fields=["speed", "flow"])


def test_a_bundle_that_is_not_for_series_is_refused_at_start() -> None:
    bundle = Bundle()
    bundle.input = {"max_tokens": 128}

    with pytest.raises(ModelError, match="none for series"):
        make(bundle)


def test_a_bare_number_is_the_one_field_there_is(tmp_path: Path) -> None:
    handler = make(Bundle())
    messages = [Message(topic="t", value=1.0, time=float(i), key=str(i)) for i in range(N)]

    assert logits(handler.handle(Batch(route="r", messages=messages, now=0.0))) == [1.0]


def test_the_evidence_for_a_message_is_the_window_it_was_judged_by() -> None:
    handler = make(Bundle())
    first = batch(1.0, 2.0, 3.0, 4.0, 5.0)

    handler.handle(first)

    assert handler.evidence(first.messages[2]) is None
    assert handler.evidence(first.messages[3]) == {"fields": ["a"], "window": [[1.0], [2.0], [3.0], [4.0]]}
    assert handler.evidence(first.messages[4]) == {"fields": ["a"], "window": [[2.0], [3.0], [4.0], [5.0]]}


def test_evidence_is_that_of_the_last_batch_alone() -> None:
    handler = make(Bundle())
    first = batch(1.0, 2.0, 3.0, 4.0)
    handler.handle(first)

    handler.handle(batch(5.0, time=10.0))

    assert handler.evidence(first.messages[3]) is None


def test_the_handler_after_a_swap_goes_on_with_the_windows_of_the_one_before() -> None:
    before, after = make(Bundle(), emit="changes"), make(Bundle(), emit="changes")
    before.handle(batch(2.0, 2.0, 2.0, 2.0, topic="x"))
    before.handle(batch(-2.0, -2.0, topic="y"))

    after.take_over(before)
    before.stop()

    assert after.handle(batch(6.0, time=4, topic="x")) == []  # "high", as its last one was
    assert logits(after.handle(batch(-2.0, -6.0, time=2, topic="y"))) == [-3.0]
    assert logits(after.handle(batch(-14.0, time=5, topic="x"))) == [-1.0]


def test_what_the_handler_before_goes_on_to_do_does_not_change_what_was_taken_over() -> None:
    before, after = make(Bundle()), make(Bundle())
    before.handle(batch(1.0, 1.0, 1.0))

    after.take_over(before)
    before.handle(batch(100.0, time=3))

    assert logits(after.handle(batch(1.0, time=3))) == [1.0]


def test_a_longer_window_fills_up_and_fewer_devices_are_those_seen_last() -> None:
    before, after = Rings(2, 1, max_devices=9, max_gap_s=0), Rings(3, 1, max_devices=2, max_gap_s=0)
    rows = np.array([[1.0], [2.0], [3.0], [4.0], [5.0]], np.float32)
    before.commit(before.prepare(["a", "b", "b", "b", "c"], [0.0] * 5, rows))

    after.take_over(before)

    pending = after.prepare(["b", "c"], [1.0, 1.0], np.array([[9.0], [9.0]], np.float32))
    assert pending.windows[:, :, 0].tolist() == [[3.0, 4.0, 9.0]]
    assert (pending.ready, len(after.devices), after.devices.n_evicted) == ([0], 2, 1)


@pytest.mark.parametrize(
    ("bundle", "options"),
    [
        (Bundle(("b",)), {}),
        (Bundle(interval_s=60.0), {}),
        (Bundle(), {"fields": ["other"]}),
        (Bundle(), {"device": "id"}),
    ],
)
def test_samples_that_mean_something_else_are_not_taken_over(bundle: Bundle, options: dict[str, Any]) -> None:
    before, after = make(Bundle()), make(bundle, **options)
    before.handle(batch(1.0, 1.0, 1.0, 1.0))

    after.take_over(before)

    assert len(after.rings.devices) == 0
