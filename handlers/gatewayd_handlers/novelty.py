"""How unlike an input is to those a model was calibrated on: 0 is one of them, 1 the far edge of them, more is beyond.

`gatewayd models calibrate` keeps some of the inputs, as points, in the bundle's file "novelty"; the distance to the
nearest of them, over the radius in `[calibration] novelty`, is the novelty. A bundle without the table costs nothing.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gatewayd.api import Model, ModelError

Points = npt.NDArray[np.float32]
ROLE = "novelty"
CLIP = 30.0  # standard deviations: one broken sensor says "far outside", not how far
MAX_PROTOTYPES = 4096


class NoveltyGuard:
    """Novelty of points [k, dimensions]. The file: an array [2 + prototypes, dimensions]: mean, scale, prototypes."""

    def __init__(self, model: str, table: Points, radius: float) -> None:
        self._model = model
        self._mean, self._scale = table[0], table[1]
        self._prototypes = np.ascontiguousarray(table[2:].T)
        self._lengths = (table[2:] * table[2:]).sum(axis=1)
        self._radius = radius

    def of(self, points: Points) -> list[float]:
        """One novelty a point, from 0. Raises ModelError when they are not the points the guard was made of."""
        if points.shape[1] != len(self._mean):
            raise ModelError(
                f"{self._model}: its novelty guard knows points of {len(self._mean)} dimensions, not of "
                f"{points.shape[1]}; run `gatewayd models calibrate` again"
            )
        standard = np.clip((points - self._mean) / self._scale, -CLIP, CLIP)
        squared = self._lengths - 2.0 * (standard @ self._prototypes)
        nearest = squared.min(axis=1) + (standard * standard).sum(axis=1)
        distances = np.sqrt(np.maximum(nearest, 0.0)) / self._radius
        return [round(distance, 4) for distance in distances.tolist()]


def statistics(windows: Points) -> Points:
    """Points [k, 5 * fields] of windows [k, n, fields], where a model gives no features of its own.

    Mean, spread, least, greatest, and how far the last sixth is from the mean.
    """
    mean = windows.mean(axis=1)
    last = windows[:, -max(1, windows.shape[1] // 6) :].mean(axis=1) - mean
    parts = (mean, windows.std(axis=1), windows.min(axis=1), windows.max(axis=1), last)
    return np.concatenate(parts, axis=1)


def guard_of(model: Model) -> NoveltyGuard | None:
    """The bundle's guard; None when it has none. Raises ModelError when it is damaged."""
    table = model.calibration.get(ROLE)
    if table is None:
        return None
    radius = table.get("radius") if isinstance(table, Mapping) else None
    if isinstance(radius, bool) or not isinstance(radius, int | float) or not 0 < radius < np.inf:
        raise _damaged(model, f"needs a radius above 0, has {radius!r}")
    return NoveltyGuard(model.name, _read(model), float(radius))


def _read(model: Model) -> Points:
    try:
        table: Any = np.load(model.file(ROLE), allow_pickle=False)
    except (OSError, ValueError, EOFError) as exc:
        raise _damaged(model, f"its file cannot be read: {exc}") from exc
    if table.ndim != 2 or not 3 <= len(table) <= MAX_PROTOTYPES + 2 or table.dtype.kind != "f":
        raise _damaged(model, f"its file holds an array {table.shape} of {table.dtype}")
    points: Points = table.astype(np.float32)
    if not np.isfinite(points).all() or not (points[1] > 0).all():
        raise _damaged(model, "its file holds what is no distance")
    return points


def _damaged(model: Model, problem: str) -> ModelError:
    return ModelError(f"{model.name}: [calibration] {ROLE}: {problem}; run `gatewayd models calibrate` again")
