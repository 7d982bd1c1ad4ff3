"""The novelty guard: what was seen is near, what was not is far; a damaged one says so; without one nothing changes."""

import io
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from gatewayd.api import Batch, Message, ModelError
from gatewayd.config.schema import Models as ModelsConfig
from gatewayd.models.fit_graph import FEATURES, Dense, Head, series_model
from gatewayd.models.novelty import MAX_PROTOTYPES, Guard, farthest_first, fit_guard
from gatewayd.models.store import ModelStore
from gatewayd.models.write import write_bundle
from gatewayd_handlers.classify_series import ClassifySeries
from gatewayd_handlers.novelty import NoveltyGuard, statistics

WINDOW = 6


def guard(found: Guard | None) -> NoveltyGuard:
    assert found is not None
    return NoveltyGuard("m", np.load(io.BytesIO(found.content)), found.radius)


def cloud(n: int, seed: int = 0, center: float = 0.0) -> Any:
    return np.random.default_rng(seed).normal(center, 1.0, (n, 5)).astype(np.float32)


def test_of_points_like_those_seen_about_one_in_a_hundred_is_beyond_the_edge() -> None:
    found = guard(fit_guard(cloud(3000), np.arange(3000), apart=1, standardize=True))

    novelties = np.array(found.of(cloud(3000, seed=1)))

    assert 0.0 < (novelties > 1).mean() < 0.04


def test_a_point_from_elsewhere_is_novel_and_one_that_was_seen_is_not() -> None:
    points = cloud(200)
    found = guard(fit_guard(points, np.arange(200), apart=1, standardize=True))

    assert max(found.of(points)) < 1.0
    assert min(found.of(cloud(50, center=20.0))) > 3.0


def test_the_farther_the_more_novel() -> None:
    found = guard(fit_guard(cloud(200), np.arange(200), apart=1, standardize=True))

    novelties = [found.of(np.full((1, 5), distance, np.float32))[0] for distance in (3.0, 5.0, 10.0, 30.0)]

    assert novelties == sorted(novelties)


def test_what_overlaps_a_point_in_time_does_not_vouch_for_it() -> None:
    """Windows that share rows are nearly one; without their neighbors they are as far apart as visits are."""
    visits = np.repeat(cloud(40) * 10, 10, axis=0) + cloud(400, seed=2) * 0.01
    at = np.arange(400)

    naive = fit_guard(visits, at, apart=1, standardize=False)
    honest = fit_guard(visits, at, apart=10, standardize=False)

    assert naive is not None
    assert honest is not None
    assert honest.radius > 10 * np.quantile(np.linalg.norm(cloud(400, seed=2) * 0.01, axis=1), 0.5)
    assert honest.radius >= naive.radius


def test_repetitions_count_once_and_what_is_one_point_alone_has_no_radius() -> None:
    assert fit_guard(np.ones((100, 3), np.float32), np.arange(100), apart=1, standardize=False) is None


def test_prototypes_cover_the_set_and_are_bounded() -> None:
    points = cloud(2000)

    chosen = farthest_first(points, 50)

    away = np.linalg.norm(points[:, None] - points[chosen], axis=2).min(axis=1)
    assert len(set(chosen.tolist())) == 50
    assert away.max() <= min(
        np.linalg.norm(points[one] - points[other]) for one in chosen for other in chosen if one != other
    )
    found = fit_guard(points, np.arange(2000), apart=1, standardize=True)
    assert found is not None
    assert found.n_prototypes == MAX_PROTOTYPES


def test_points_of_other_dimensions_are_refused() -> None:
    found = guard(fit_guard(cloud(50), np.arange(50), apart=1, standardize=True))

    with pytest.raises(ModelError, match="5 dimensions, not of 3"):
        found.of(np.zeros((1, 3), np.float32))


def bundle(folder: Path, content: bytes | None, table: Any) -> ModelStore:
    """A model for series whose score is the level of its one field."""
    weights = np.zeros((len(FEATURES), 1), np.float32)
    weights[FEATURES.index("mean_all")] = 1.0
    flat = np.zeros(len(FEATURES), np.float32), np.ones(len(FEATURES), np.float32)
    graph = series_model(WINDOW, 1, Head(*flat, (Dense(weights, np.zeros(1, np.float32)),), "sigmoid"))
    files: dict[str, Any] = {"model": graph.SerializeToString()}
    if content is not None:
        files["novelty"] = content
    write_bundle(
        folder, name="level", version="1", runtime="onnx", task="series-classification", files=files,
        labels=["low", "high"], input={"fields": ["a"], "window": WINDOW, "kind": "classification"},
        calibration={"threshold": 0.5, **({} if table is None else {"novelty": table})},
    )  # fmt: skip
    return ModelStore(folder, ModelsConfig())


def started(store: ModelStore) -> ClassifySeries:
    handler = ClassifySeries(msgspec.convert({"model": "level"}, ClassifySeries.Config))
    handler.start(store)
    return handler


def batch(values: list[float]) -> Batch:
    messages = [Message(topic="t", value={"a": v}, time=float(i), key=str(i)) for i, v in enumerate(values)]
    return Batch(route="r", messages=messages, now=0.0)


def level_guard() -> Guard:
    draw = np.random.default_rng(0)
    windows = draw.normal(size=(400, WINDOW, 1)).astype(np.float32)
    found = fit_guard(statistics(windows), np.arange(400), apart=1, standardize=True)
    assert found is not None
    return found


def test_a_series_tells_its_novelty_where_the_bundle_has_a_guard(tmp_path: Path) -> None:
    found = level_guard()
    handler = started(bundle(tmp_path, found.content, {"radius": found.radius}))

    usual = handler.handle(batch([0.3, -0.5, 1.0, 0.1, -0.9, 0.4]))
    strange = handler.handle(batch([500.0] * WINDOW))

    assert usual[-1].data["novelty"] < 1.0  # type: ignore[union-attr]
    assert strange[-1].data["novelty"] > 3.0  # type: ignore[union-attr]


def test_points_are_of_the_messages_that_get_a_result_and_change_nothing(tmp_path: Path) -> None:
    found = level_guard()
    handler = started(bundle(tmp_path, found.content, {"radius": found.radius}))
    asked = batch([0.1 * value for value in range(10)])

    messages, points = handler.points(asked)
    answers = handler.handle(asked)

    assert [message.key for message in messages] == [answer.message.key for answer in answers if answer.message]
    guard_of_bundle = guard(found)
    assert guard_of_bundle.of(points) == [answer.data["novelty"] for answer in answers]  # type: ignore[union-attr]


def test_without_the_table_there_is_no_novelty(tmp_path: Path) -> None:
    handler = started(bundle(tmp_path, None, None))

    answers = handler.handle(batch([1.0] * WINDOW))

    assert "novelty" not in answers[-1].data  # type: ignore[union-attr]


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "table", "said"),
    [
        (None, {"radius": 1.0}, 'no file with the role "novelty"'),
        (b"junk", {"radius": 1.0}, "cannot be read"),
        (npy(np.array([{"an": "object"}], dtype=object)), {"radius": 1.0}, "cannot be read"),
        (npy(np.zeros((2, 3), np.float32)), {"radius": 1.0}, "holds an array"),
        (npy(np.full((4, 5), np.nan, np.float32)), {"radius": 1.0}, "no distance"),
        (npy(np.ones((4, 5), np.float32)), {"radius": -1.0}, "radius above 0"),
        (npy(np.ones((4, 5), np.float32)), 3, "radius above 0"),
    ],
)
def test_a_damaged_guard_is_a_model_error(tmp_path: Path, content: bytes | None, table: Any, said: str) -> None:
    store = bundle(tmp_path, content, table)

    with pytest.raises(ModelError, match=said):
        started(store)
