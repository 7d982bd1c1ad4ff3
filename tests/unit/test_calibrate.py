"""models calibrate: a bundle fitted by the test, its recordings through the handler, and what the bundle then says."""

import csv
import json
import shutil
import sys
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from gatewayd.api import Batch, Rejection, Result
from gatewayd.cascade.confidence import Calibration
from gatewayd.cli import main
from gatewayd.config.schema import Models as ModelsConfig
from gatewayd.errors import ModelError
from gatewayd.models.calibrate import Goal, calibrate, next_version
from gatewayd.models.calibrate_run import Labeled, hear, read_labeled_texts
from gatewayd.models.fit_series import fit_series
from gatewayd.models.store import ModelStore
from gatewayd.models.write import write_bundle
from gatewayd_handlers.classify_series import ClassifySeries
from gatewayd_handlers.classify_text import ClassifyText
from tests.sim.models import demo_models

WINDOW = 8


class Told:
    """A handler that says what its message says: {"label": …, "scores": …}, "reject" or "unknown"."""

    class Config(msgspec.Struct, forbid_unknown_fields=True):
        pass

    journaled = False
    inline = True

    def __init__(self, model: str = "m") -> None:
        self.model = model

    def start(self, models: Any) -> None: ...

    def stop(self) -> None: ...

    def handle(self, batch: Batch) -> Sequence[Result | Rejection]:
        return [self._one(message) for message in batch.messages]

    def _one(self, message: Any) -> Result | Rejection:
        if message.value == "reject":
            return Rejection(message=message, reason="odd")
        label, score = message.value.split()
        other = {"a": "b", "b": "a"}[label]
        scores = {label: float(score), other: 1 - float(score)}
        said = "unknown" if float(score) < 0.55 else label
        return Result(kind="c", data={"label": said, "scores": scores, "model": self.model}, message=message)


def told(models_dir: Path) -> ModelStore:
    write_bundle(
        models_dir, name="m", version="3", runtime="onnx", task="x", files={"model": b"weights", "extra": b"kept"},
        labels=["a", "b"], calibration={"threshold": 0.4}, input={"n": 1},
    )  # fmt: skip
    return ModelStore(models_dir, ModelsConfig())


def samples(values: Sequence[str], truth: Sequence[str], tmp_path: Path) -> Labeled:
    path = tmp_path / "samples.ndjson"
    rows = zip(values, truth, strict=True)
    path.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in rows))
    return read_labeled_texts([path])


def overconfident(tmp_path: Path, n: int = 600) -> Labeled:
    """Scores from 0.6 to 1, right in seven of ten."""
    draw = np.random.default_rng(0)
    scores, right = draw.uniform(0.6, 1.0, n), draw.random(n) < 0.7
    labels = draw.choice(["a", "b"], n)
    truth = [label if ok else {"a": "b", "b": "a"}[label] for label, ok in zip(labels, right, strict=True)]
    return samples([f"{label} {score:.6f}" for label, score in zip(labels, scores, strict=True)], truth, tmp_path)


def test_a_bundle_is_exchanged_with_its_calibration_and_nothing_else(tmp_path: Path) -> None:
    store = told(tmp_path)

    done = calibrate(store, tmp_path, "m", handler=Told(), labeled=overconfident(tmp_path), goal=Goal(accuracy=0.6))

    model = ModelStore(tmp_path, ModelsConfig()).get("m")
    assert (model.version, model.calibration["threshold"], model.input) == ("3+cal1", 0.4, {"n": 1})
    assert Path(model.file("extra")).read_bytes() == b"kept"
    found = Calibration.of(model.calibration, model="m")
    assert found.method != "none"
    assert (found.accept, found.ece, found.samples) == (done.report.accept, done.report.ece, 300)
    assert (found.ece or 1.0) < (found.ece_before or 0.0)
    assert found.radius is None


def test_the_version_counts_the_calibrations() -> None:
    assert [next_version("1"), next_version("1+cal1"), next_version("1+cal9")] == ["1+cal1", "1+cal2", "1+cal10"]
    assert len(next_version("v" * 64)) == 64


def test_a_second_calibration_takes_the_place_of_the_first(tmp_path: Path) -> None:
    store = told(tmp_path)
    labeled = overconfident(tmp_path)
    calibrate(store, tmp_path, "m", handler=Told(), labeled=labeled, goal=Goal(accuracy=0.6))

    again = ModelStore(tmp_path, ModelsConfig())
    report = calibrate(again, tmp_path, "m", handler=Told(), labeled=labeled, goal=Goal(escalation_rate=0.25)).report

    table = ModelStore(tmp_path, ModelsConfig()).get("m").calibration
    assert report.version == "3+cal2"
    assert table["confidence"]["goal"] == "share handed on <= 0.25"
    assert report.escalation_rate <= 0.25


def test_a_file_that_was_exchanged_is_not_calibrated(tmp_path: Path) -> None:
    store = told(tmp_path)
    (tmp_path / "m" / "extra").write_bytes(b"evil")

    with pytest.raises(ModelError, match="sha256"):
        calibrate(store, tmp_path, "m", handler=Told(), labeled=overconfident(tmp_path), goal=Goal(accuracy=0.6))

    assert tomllib.loads((tmp_path / "m" / "model.toml").read_text())["version"] == "3"


def test_what_is_rejected_or_unknown_is_left_out_and_told(tmp_path: Path) -> None:
    labeled = samples(["a 0.9", "reject", "b 0.5", "b 0.8"] * 40, ["a", "a", "b", "b"] * 40, tmp_path)

    report = calibrate(told(tmp_path), tmp_path, "m", handler=Told(), labeled=labeled, goal=Goal(accuracy=0.9)).report

    assert (report.samples, report.rejected, report.without_answer) == (160, 40, 40)
    assert "the handler rejected 40 samples" in report.warnings


def test_repeated_lines_support_a_threshold_less_than_they_are_many(tmp_path: Path) -> None:
    labeled = samples(["a 0.9", "b 0.95"] * 500, ["a", "b"] * 500, tmp_path)

    report = calibrate(told(tmp_path), tmp_path, "m", handler=Told(), labeled=labeled, goal=Goal(accuracy=0.95)).report

    assert (report.judged_on, report.independent, report.taken_accuracy) == (500, 1, 1.0)
    assert report.taken_accuracy_low < 0.5
    assert any("rests on too few samples" in warning for warning in report.warnings)


@pytest.mark.parametrize(
    ("values", "truth", "said"),
    [
        (["a 0.9"] * 80, ["a", "c"] * 40, "the recordings also say 'c'"),
        (["reject"] * 80, ["a", "b"] * 40, r"answered none of the samples: odd \(80\)"),
        ([], [], "hold no sample"),
        (["a 0.9"] * 80, ["a"] * 80, "every sample is 'a'"),
        (["a 0.9"] * 20, ["a", "b"] * 10, "too few"),
    ],
)
def test_recordings_that_nothing_can_be_learned_from_are_refused(
    tmp_path: Path, values: list[str], truth: list[str], said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        calibrate(
            told(tmp_path), tmp_path, "m", handler=Told(), labeled=samples(values, truth, tmp_path),
            goal=Goal(accuracy=0.9),
        )  # fmt: skip

    assert ModelStore(tmp_path, ModelsConfig()).get("m").version == "3"


def test_a_handler_that_answers_with_another_model_is_told(tmp_path: Path) -> None:
    store = told(tmp_path)

    with pytest.raises(ModelError, match="answers with the model 'other'"):
        hear(Told("other"), store, store.get("m"), overconfident(tmp_path))


# The command, on a model for series that the test fits.


@dataclass(frozen=True)
class Said:
    status: int
    out: str
    err: str


Command = Callable[..., Said]


@pytest.fixture
def gatewayd(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text(
        f'[models]\ndir = "{tmp_path}/models"\n'
        '[routes.pumps]\ntopics = ["p"]\nhandler = "classify_series"\n'
        '[routes.pumps.options]\nmodel = "pump"\nemit = "changes"\n'
    )

    def run(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["gatewayd", "models", "calibrate", "--config", "c.toml", *arguments])
        try:
            main()
            status = 0
        except SystemExit as ended:
            status = int(ended.code or 0)
        said = capsys.readouterr()
        return Said(status, said.out, said.err)

    return run


def record(folder: Path, number: int, rows: int = 300) -> Path:
    """A pump that vibrates more in its last half, not always visibly."""
    draw = np.random.default_rng(number)
    path = folder / f"pump-{number}.csv"
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["time", "vibration", "worn"])
        for row in range(rows):
            worn = row >= rows // 2
            lines.writerow([row, 1.0 + 0.5 * draw.normal() + 0.4 * worn, int(worn)])
    return path


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder; the model was fitted on three recordings."""
    folder = tmp_path_factory.mktemp("fitted")
    known = [record(folder, number) for number in range(3)]
    fit_series(known, folder / "models", name="pump", label_column="worn", fields=["vibration"], window=WINDOW)
    return folder / "models"


@pytest.fixture
def pumps(fitted: Path, tmp_path: Path) -> list[str]:
    """Four other recordings, to calibrate on."""
    shutil.copytree(fitted, tmp_path / "models")
    return [str(record(tmp_path, number)) for number in range(3, 7)]


def test_a_model_for_series_is_calibrated_with_one_command(gatewayd: Command, pumps: list[str], tmp_path: Path) -> None:
    said = gatewayd("pump", *pumps, "--label", "worn", "--accuracy", "0.8", "--picture", "curve.svg", "--json")

    assert said.status == 0, said.err
    report = json.loads(said.out)
    assert (report["version"], report["samples"]) == ("1+cal1", 1200)
    assert report["without_answer"] == 4 * (WINDOW - 1)
    assert report["novelty_prototypes"] > 10
    title = ET.parse(tmp_path / "curve.svg").getroot().find("{http://www.w3.org/2000/svg}title")
    assert title is not None
    assert title.text == "pump 1+cal1"

    store = ModelStore(tmp_path / "models", ModelsConfig())
    assert Calibration.of(store.get("pump").calibration).accept == report["accept"]
    handler = ClassifySeries(msgspec.convert({"model": "pump"}, ClassifySeries.Config))
    handler.start(store)  # also reads the novelty guard


def test_the_handler_and_its_options_may_be_those_of_a_route(gatewayd: Command, pumps: list[str]) -> None:
    said = gatewayd("pump", *pumps, "--label", "worn", "--route", "pumps", "--escalation-rate", "0.3", "--json")

    report = json.loads(said.out)
    assert report["judged_on"] + report["fitted_on"] == 1200 - 4 * (WINDOW - 1)  # all, though the route tells changes
    assert report["escalation_rate"] <= 0.3


def test_for_people_it_says_what_was_chosen_and_why(gatewayd: Command, pumps: list[str]) -> None:
    said = gatewayd("pump", *pumps, "--label", "worn")

    assert "is now version 1+cal1" in said.out
    assert "calibration error" in said.out
    assert "for accuracy of what is taken >= 0.95" in said.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], 'there is no model "nothing"'),
        (["pump"], "--label"),
        (["pump", "--label", "wear"], "no column 'wear'"),
        (["pump", "--label", "worn", "--route", "x"], "there is no route 'x'"),
        (["pump", "--label", "worn", "--handler", "x"], "there is no handler 'x'"),
        (["pump", "--label", "worn", "--handler", "classify_series", "--options", "{"], "JSON object"),
        (["pump", "--label", "worn", "--accuracy", "0.9", "--escalation-rate", "0.1"], "not both"),
    ],
)
def test_what_cannot_be_done_is_said_without_a_traceback(
    gatewayd: Command, pumps: list[str], arguments: list[str], said: str
) -> None:
    answer = gatewayd(*arguments, pumps[0])

    assert answer.status != 0
    assert said in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.model
def test_a_head_is_fitted_and_calibrated_and_tells_confidence_and_novelty(tmp_path: Path) -> None:
    from gatewayd.models.fit_text import fit_text

    models = tmp_path / "models"
    models.mkdir()
    (models / "minilm-int8").symlink_to(demo_models("minilm-int8") / "minilm-int8")
    parts = ["fan", "disk", "pump", "valve", "link", "cache", "node", "card", "motor", "sensor"]
    lines = [(f"{part} {how}", label) for part in parts for how, label in _HOW]
    texts = tmp_path / "fit.ndjson"
    texts.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in lines[::2]))
    store = ModelStore(models, ModelsConfig())
    fit_text(
        [texts], models, name="head", encoder=models / "minilm-int8", encode=ClassifyText.encoder(store, "minilm-int8")
    )
    options = msgspec.convert({"head": "head", "max_measure_ms": 0}, ClassifyText.Config)
    labeled = samples([text for text, _ in lines[1::2]] * 2, [label for _, label in lines[1::2]] * 2, tmp_path)

    calibrate(store, models, "head", handler=ClassifyText(options), labeled=labeled, goal=Goal(escalation_rate=0.2))

    handler = ClassifyText(options)
    handler.start(ModelStore(models, ModelsConfig()))
    first = labeled.messages[0]
    other = msgspec.structs.replace(first, value="zzz \u2206\u2206 \u55b5\u55b5")
    seen, strange = handler.handle(Batch(route="r", messages=[first, other], now=0.0))
    assert isinstance(seen, Result)
    assert isinstance(strange, Result)
    assert seen.data["model_version"] == "1+cal1"
    assert seen.data["novelty"] < 1.0 < strange.data["novelty"]


_HOW = [
    ("failed, halted", "alert"),
    ("is up and running", "normal"),
    ("does not answer any more", "alert"),
    ("was checked, all is well", "normal"),
    ("broke down with a fatal error", "alert"),
    ("started in time", "normal"),
    ("lost its connection", "alert"),
]
