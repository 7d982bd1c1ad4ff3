"""Fitting: CSV with its errors, features against numpy, honest hold-out, bundles that classify_series runs."""

import csv
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from gatewayd.api import Batch, Message
from gatewayd.config.schema import Models as ModelsConfig
from gatewayd.errors import ModelError
from gatewayd.models import fit_head
from gatewayd.models.fit_csv import read_recordings
from gatewayd.models.fit_graph import (
    FEATURES,
    Dense,
    Head,
    feature_model,
    head_model,
    quantize_head,
    run_model,
    series_model,
)
from gatewayd.models.fit_series import FitReport, fit_series
from gatewayd.models.store import ModelStore
from gatewayd_handlers.classify_series import ClassifySeries

N = 12


def write(path: Path, header: str, *lines: str) -> Path:
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def record(folder: Path, number: int, *, rows: int = 240, room: float = 20.0) -> Path:
    """A pump that vibrates more in its last third, in a room whose temperature says only which recording it is."""
    draw = np.random.default_rng(number)
    path = folder / f"pump-{number}.csv"
    with path.open("w", newline="") as file:
        lines = csv.writer(file, delimiter=";")
        lines.writerow(["time", "vibration", "room", "noise", "worn"])
        for row in range(rows):
            worn = row >= rows * 2 // 3
            vibration = 1.0 + 0.2 * draw.normal() + 0.6 * worn
            lines.writerow([row, vibration, room + 0.01 * draw.normal(), draw.normal(), int(worn)])
    return path


@pytest.fixture
def pumps(tmp_path: Path) -> list[Path]:
    return [record(tmp_path, number, room=20.0 + 3 * number) for number in range(3)]


def replayed(report: FitReport, path: Path, **options: Any) -> list[dict[str, Any]]:
    """What the handler says of a recording, with the bundle read from disk."""
    handler = ClassifySeries(msgspec.convert({"model": report.folder.name, **options}, ClassifySeries.Config))
    handler.start(ModelStore(report.folder.parent, ModelsConfig()))
    with path.open() as file:
        rows = list(csv.DictReader(file, delimiter=";"))
    messages = [
        Message(topic="p", value={k: float(v) for k, v in row.items()}, time=float(row["time"]), key=str(i))
        for i, row in enumerate(rows)
    ]
    return [dict(answer.data) for answer in handler.handle(Batch(route="r", messages=messages, now=0.0))]


def test_features_are_what_their_names_say() -> None:
    series = (np.random.default_rng(0).normal(size=(20, N, 2)) * [1.0, 0.01] + [0.0, 230.0]).astype(np.float32)

    found = run_model(feature_model(N, 2), {"window": series}, "features").reshape(20, 2, len(FEATURES))

    x = series.astype(np.float64).transpose(0, 2, 1)
    short, half = x[..., -2:], x[..., -6:]
    blocks = x.reshape(20, 2, 6, 2).mean(axis=3)
    time = np.arange(N) - (N - 1) / 2
    expected = {
        "mean_short": short.mean(2), "mean_half": half.mean(2), "mean_all": x.mean(2),
        "short_minus_all": short.mean(2) - x.mean(2), "half_minus_all": half.mean(2) - x.mean(2),
        "slope": N * (x * time).sum(2) / (time**2).sum(),
        "block_high": blocks.max(2) - blocks[..., -1], "block_low": blocks[..., -1] - blocks.min(2),
        "std_short": short.std(2), "std_half": half.std(2), "std_all": x.std(2),
        "up_short": short.max(2) - short.mean(2), "up_half": half.max(2) - half.mean(2), "up_all": x.max(2) - x.mean(2),
        "down_short": short.mean(2) - short.min(2), "down_half": half.mean(2) - half.min(2),
        "down_all": x.mean(2) - x.min(2), "step": np.abs(np.diff(x, axis=2)).mean(2),
    }  # fmt: skip
    assert tuple(expected) == FEATURES
    for at, (name, values) in enumerate(expected.items()):
        np.testing.assert_allclose(found[:, :, at], values, atol=3e-5, err_msg=name)


def test_a_score_does_not_depend_on_its_neighbors_in_the_batch() -> None:
    graph, windows = a_model()
    together = run_model(graph, {"window": windows}, "scores")

    alone = np.concatenate([run_model(graph, {"window": windows[i : i + 1]}, "scores") for i in range(len(windows))])

    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_an_int8_head_does_not_either_and_stays_close_to_the_float_one(tmp_path: Path) -> None:
    graph, windows = a_model()
    small = quantize_head(graph, windows, tmp_path)

    together = run_model(small, {"window": windows}, "scores")
    alone = np.concatenate([run_model(small, {"window": windows[i : i + 1]}, "scores") for i in range(len(windows))])

    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert np.abs(together - run_model(graph, {"window": windows}, "scores")).max() < 0.05
    assert any(node.op_type == "DequantizeLinear" for node in small.graph.node)


def a_model() -> tuple[Any, Any]:
    draw = np.random.default_rng(1)
    windows = draw.normal(size=(64, N, 2)).astype(np.float32)
    size = 2 * len(FEATURES)
    layers = (
        Dense(0.2 * draw.normal(size=(size, 8)).astype(np.float32), np.zeros(8, np.float32)),
        Dense(0.5 * draw.normal(size=(8, 1)).astype(np.float32), np.zeros(1, np.float32)),
    )
    return series_model(N, 2, Head(np.zeros(size, np.float32), np.ones(size, np.float32), layers, "sigmoid")), windows


@pytest.mark.parametrize("recipe", fit_head.RECIPES, ids=str)
@pytest.mark.parametrize("n_labels", [2, 3])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_graph_gives_what_scikit_learn_was_trained_to_give(recipe: fit_head.Recipe, n_labels: int) -> None:
    draw = np.random.default_rng(2)
    features = draw.normal(size=(300, 5)).astype(np.float32)
    classes = np.asarray((features[:, 0] > 0).astype(int) + (features[:, 1] > 1) * (n_labels - 2), np.intp)

    head = fit_head.train(recipe, features, classes, n_labels=n_labels, seed=0)
    scores = run_model(head_model(head), {"features": features}, "scores")

    standard = (features - features.mean(axis=0)) / features.std(axis=0)
    expected = sklearn_model(recipe).fit(standard, classes).predict_proba(standard)
    np.testing.assert_allclose(scores, expected, atol=1e-3)
    np.testing.assert_allclose(scores, fit_head.probabilities(fit_head.logits(head, features)), atol=1e-5)


def sklearn_model(recipe: fit_head.Recipe) -> Any:
    if recipe.hidden:
        return MLPClassifier((recipe.hidden,), alpha=recipe.penalty, max_iter=60, random_state=0)
    return LogisticRegression(C=1 / recipe.penalty, max_iter=2000)


def test_a_classifier_finds_wear_in_a_recording_it_has_not_seen(pumps: list[Path], tmp_path: Path) -> None:
    report = fit_series(pumps, tmp_path / "models", name="pumps", label_column="worn", window=N)

    answers = replayed(report, record(tmp_path, 9, room=40.0))

    truth = [row >= 160 for row in range(N - 1, 240)]
    said = [answer["label"] == "worn" for answer in answers]
    assert fit_head.f1_score(np.array(truth), np.array(said)) > 0.85
    assert report.labels == ("normal", "worn")
    assert report.fields == ("vibration",)  # not the room: it drifts; not the noise: it does not help
    assert report.f1 > 0.85


def test_the_handler_scores_exactly_as_the_fit_did(pumps: list[Path], tmp_path: Path) -> None:
    report = fit_series(pumps, tmp_path / "models", name="pumps", label_column="worn", window=N)
    model = (report.folder / "model.onnx").read_bytes()
    with pumps[0].open() as file:
        rows = np.array([[float(row["vibration"])] for row in csv.DictReader(file, delimiter=";")], np.float32)
    windows = np.stack([rows[end - N : end] for end in range(N, len(rows) + 1)])

    by_handler = [answer["scores"]["worn"] for answer in replayed(report, pumps[0])]

    np.testing.assert_allclose(by_handler, run_model(model, {"window": windows}, "scores")[:, 1], atol=1e-6)


def test_the_same_recordings_and_seed_give_the_same_bundle(pumps: list[Path], tmp_path: Path) -> None:
    manifests = [
        (fit_series(pumps, tmp_path / where, name="m", label_column="worn", window=N).folder / "model.toml").read_text()
        for where in ("one", "two")
    ]

    assert manifests[0] == manifests[1]


def test_without_labels_the_detector_keeps_its_false_alarms_and_sees_wear(tmp_path: Path) -> None:
    normal = [record(tmp_path, number, rows=150) for number in range(4)]
    for path in normal:
        lines = path.read_text().splitlines()
        path.write_text("\n".join(lines[:100]) + "\n")

    report = fit_series(normal, tmp_path / "models", name="odd", fields=["vibration"], window=N, false_alarm_rate=0.05)
    answers = replayed(report, record(tmp_path, 9))

    scores = np.array([answer["score"] for answer in answers])
    truth = np.arange(N - 1, 240) >= 160
    assert (report.kind, report.threshold) == ("anomaly", 0.5)
    assert fit_head.roc_auc(np.stack([1 - scores, scores], axis=1), truth.astype(np.intp)) > 0.9
    assert report.false_alarms < 0.15
    assert ((scores >= 0) & (scores < 1)).all()
    assert all((answer["score"] >= 0.5) == (answer["label"] == "anomaly") for answer in answers)


def test_one_recording_is_judged_on_its_last_part(tmp_path: Path) -> None:
    states = ["on" if (row // 40) % 2 else "off" for row in range(400)]
    lines = [f"{(state == 'on') + row % 7 / 10},{state}" for row, state in enumerate(states)]
    path = write(tmp_path / "one.csv", "v,state", *lines)

    report = fit_series([path], tmp_path / "models", name="one", label_column="state", window=6)

    assert report.labels == ("off", "on")
    assert report.files[0].windows == 395 - int(395 * 0.7)
    assert report.f1 > 0.9


def test_folds_part_whole_groups_and_a_single_one_by_time() -> None:
    groups = np.repeat([0, 1, 2], 10).astype(np.intp)

    several = fit_head.folds(groups, 5)
    single = fit_head.folds(np.zeros(100, np.intp), 5)

    assert all(not set(groups[a]) & set(groups[b]) for a, b in several)
    assert sorted(np.concatenate([b for _, b in several]).tolist()) == list(range(30))
    assert [(int(a.max()), int(b.min())) for a, b in single] == [(64, 70)]


def test_the_best_threshold_has_the_best_f1_of_all() -> None:
    draw = np.random.default_rng(3)
    truth = draw.random(200) < 0.3
    scores = np.round(draw.random(200) + 0.5 * truth, 1)

    reached = fit_head.f1_score(truth, scores >= fit_head.best_threshold(scores, truth))

    assert reached == pytest.approx(max(fit_head.f1_score(truth, scores >= t) for t in np.unique(scores)))


def test_series_are_cut_at_gaps_and_by_device(tmp_path: Path) -> None:
    lines = [f"{t},{d},{t}" for d in ("a", "b") for t in [0, 1, 2, 3, 100, 101]]

    recordings = read_recordings([write(tmp_path / "x.csv", "time,dev,v", *lines)], fields=["v"], device_column="dev")

    assert [(one.device, len(one.values)) for one in recordings.series] == [("a", 4), ("a", 2), ("b", 4), ("b", 2)]
    assert recordings.interval_s == 1.0


@pytest.mark.parametrize(
    ("header", "lines", "options", "complaint"),
    [
        ("t;v", ["0;1", "1;"], {}, r"x\.csv, line 3, column 'v': is empty"),
        ("t;v", ["0;1", "1;hot"], {}, r"line 3, column 'v': holds no finite number"),
        ("t;v", ["0;1", "1;nan"], {}, "line 3, column 'v'"),
        ("t;v", ["0;1", "1"], {}, "line 3: 1 cells, the header has 2"),
        ("t;v", [], {}, "at least one line"),
        ("v;v", ["1;1"], {}, "distinct names"),
        ("time;v", ["yesterday;1", "x;1"], {}, "line 2: 'yesterday' is no time"),
        ("t;v", ["0;1"], {"fields": ["w"]}, "no column 'w'"),
        ("t;v;l", ["0;1;", "1;1;"], {"label_column": "l"}, "column 'l': is empty"),
        ("name", ["x"], {}, "no numeric column"),
    ],
)
def test_a_csv_that_cannot_be_used_is_an_error_that_says_where(
    tmp_path: Path, header: str, lines: list[str], options: dict[str, Any], complaint: str
) -> None:
    path = write(tmp_path / "x.csv", header, *lines)

    with pytest.raises(ModelError, match=complaint):
        read_recordings([path], **{"fields": None, **options})


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"window": 1000}, "no recording has 1000 rows"),
        ({"kind": "classification"}, "needs labels"),
        ({"label_column": "always"}, "one label only"),
    ],
)
def test_recordings_that_cannot_be_fitted_say_why(tmp_path: Path, options: dict[str, Any], complaint: str) -> None:
    path = write(tmp_path / "x.csv", "v,always", *[f"{row},yes" for row in range(50)])

    with pytest.raises(ModelError, match=complaint):
        fit_series([path], tmp_path / "models", name="x", **{"window": 6, **options})


def test_int8_is_kept_only_where_asked_or_worth_it(pumps: list[Path], tmp_path: Path) -> None:
    options: dict[str, Any] = {"label_column": "worn", "fields": ["vibration"], "window": N}

    asked = fit_series(pumps, tmp_path / "m", name="a", quantize="int8", **options)
    auto = fit_series(pumps, tmp_path / "m", name="b", **options)

    assert (asked.quantized, auto.quantized) == (True, False)
    assert not math.isnan(replayed(asked, pumps[0])[0]["score"])
