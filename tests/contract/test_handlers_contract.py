"""The built-in handlers that need no fetched model keep the contract of `api.Handler`; the kit finds who does not."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest

from gatewayd.api import Batch, Message, Models, Rejection, Result
from gatewayd.config.schema import Models as ModelsConfig
from gatewayd.models.fit_graph import FEATURES, Dense, Head, series_model
from gatewayd.models.store import ModelStore
from gatewayd.models.write import write_bundle
from gatewayd.testing import check_handler, differences, load_samples, run_samples
from gatewayd_handlers.classify_series import ClassifySeries
from gatewayd_handlers.threshold import Threshold

SAMPLES = Path(__file__).parents[2] / "handlers" / "samples"


def messages(*values: Any) -> list[Message]:
    return [Message(topic="plant/pump-1", value=v, time=1000.0 + i, key=str(i)) for i, v in enumerate(values)]


def slope_bundle(folder: Path) -> ModelStore:
    """A model of two fields whose score says whether the first one rises."""
    weights = np.zeros((2 * len(FEATURES), 1), np.float32)
    weights[FEATURES.index("slope")] = 1.0
    size = len(weights)
    head = Head(
        np.zeros(size, np.float32), np.ones(size, np.float32), (Dense(weights, np.zeros(1, np.float32)),), "sigmoid"
    )
    write_bundle(
        folder,
        name="slope",
        version="3",
        runtime="onnx",
        task="series-classification",
        licence="Apache-2.0",
        files={"model": series_model(4, 2, head).SerializeToString()},
        labels=["falling", "rising"],
        input={"kind": "classification", "fields": ["a", "b"], "window": 4},
    )
    return ModelStore(folder, ModelsConfig())


def test_threshold_keeps_the_contract() -> None:
    options = {"rules": [{"field": "t", "above": 80.0, "label": "hot"}], "device": "id", "on": "every"}

    check_handler(Threshold, options, messages({"t": 81.0, "id": "a"}, {"t": 79, "id": "b"}, {"t": 12.5, "id": 3}))


def test_classify_series_keeps_the_contract(tmp_path: Path) -> None:
    samples = messages(*[{"a": float(i), "b": -i} for i in range(9)])

    check_handler(ClassifySeries, {"model": "slope"}, samples, slope_bundle(tmp_path))


def test_threshold_answers_its_golden_samples() -> None:
    samples = load_samples(SAMPLES / "threshold.samples.toml")

    assert differences(samples, run_samples(samples)) == []


def test_classify_series_answers_its_golden_samples(tmp_path: Path) -> None:
    samples = load_samples(SAMPLES / "classify_series.samples.toml")

    assert differences(samples, run_samples(samples, slope_bundle(tmp_path))) == []


def test_a_samples_file_that_expects_something_else_is_told_apart() -> None:
    samples = load_samples(SAMPLES / "threshold.samples.toml")
    answers = run_samples(samples)
    answers[3][0]["state"] = "cleared"

    assert [line.split(" (")[0] for line in differences(samples, answers)] == ["sample 3"]


class Loose(msgspec.Struct):
    """Options that take anything."""


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    """Options that do not."""


class Good:
    """A handler with one flaw a subclass."""

    Config: ClassVar[type[msgspec.Struct]] = Strict
    journaled: ClassVar[bool] = False
    inline: ClassVar[bool] = True

    def __init__(self, config: Any) -> None:
        self.n_calls = 0

    def start(self, models: Models) -> None: ...

    def stop(self) -> None: ...

    def handle(self, batch: Batch) -> Sequence[Result | Rejection]:
        return [self.answer(message) for message in batch.messages]

    def answer(self, message: Message) -> Any:
        if not isinstance(message.value, float) or message.value != message.value:
            return Rejection(message=message, reason="not_a_number")
        return Result(kind="echo", data={"text": repr(message.value)}, message=message)


class TakesAnyOption(Good):
    Config = Loose


class AnswersNothingWithSomething(Good):
    def handle(self, batch: Batch) -> Sequence[Result | Rejection]:
        return [Result(kind="echo", data={})]


class IsNotDeterministic(Good):
    shared = 0

    def answer(self, message: Message) -> Any:
        type(self).shared += 1
        return Result(kind="echo", data={"n": self.shared}, message=message)


class AnswersWithNan(Good):
    def answer(self, message: Message) -> Any:
        return Result(kind="echo", data={"n": float("nan")}, message=message)


class FallsOverText(Good):
    def answer(self, message: Message) -> Any:
        return Result(kind="echo", data={"text": repr(message.value + 1.0)}, message=message)


class AnswersAStranger(Good):
    def answer(self, message: Message) -> Any:
        return Rejection(message=messages(0.0)[0], reason="stranger")


class AnswersStrings(Good):
    def answer(self, message: Message) -> Any:
        return "hot"


def test_a_handler_without_flaws_passes() -> None:
    check_handler(Good, {}, messages(1.0, 2.0))


@pytest.mark.parametrize(
    ("flawed", "complaint"),
    [
        (TakesAnyOption, "unknown keys"),
        (AnswersNothingWithSomething, "no results"),
        (IsNotDeterministic, "same answers"),
        (AnswersWithNan, "JSON"),
        (FallsOverText, "a payload raised"),
        (AnswersAStranger, "of the batch"),
        (AnswersStrings, "not Result or Rejection"),
    ],
)
def test_the_kit_names_what_a_handler_breaks(flawed: type[Good], complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_handler(flawed, {}, messages(1.0, 2.0))
