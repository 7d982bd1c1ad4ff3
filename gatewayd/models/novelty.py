"""The novelty guard of a bundle: some of the points a model was calibrated on, and how far apart those are.

The radius is such that of the points themselves 99 in 100 are nearer to the others: each is judged by the prototypes
without itself, and without what overlaps it in time. Needs numpy alone; used by the command that calibrates.
"""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float32]
Ints = NDArray[np.intp]

MAX_PROTOTYPES = 256
MAX_POINTS = 8192  # more are thinned evenly
QUANTILE = 0.99  # of the points' own distances: the far edge
CLIP = 30.0  # as in the handlers
EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class Guard:
    """What goes into the bundle: the file with the role "novelty", and its radius."""

    content: bytes  # .npy, float32 [2 + prototypes, dimensions]: mean, scale, prototypes
    radius: float
    n_prototypes: int
    n_points: int


def fit_guard(points: Points, at: Ints, *, apart: int, standardize: bool) -> Guard | None:
    """Prototypes and radius of points [n, dimensions]; None where there are too few, or all are one.

    Args:
        at: [n] place in time of each point; two that are nearer than `apart` are no news to each other.
        standardize: divide each dimension by its spread; unit vectors stay as they are.
    """
    points, at = _distinct(points, at)
    if len(points) < 3:
        return None
    step = -(-len(points) // MAX_POINTS)
    points, at = points[::step], at[::step]
    mean, scale = _standardizer(points) if standardize else (np.zeros(points.shape[1]), np.ones(points.shape[1]))
    standard = np.clip((points - mean) / scale, -CLIP, CLIP).astype(np.float32)
    chosen = farthest_first(standard, MAX_PROTOTYPES)
    prototypes = standard[chosen]
    own = _without_itself(standard, at, prototypes, at[chosen], apart)
    if not len(own) or not (radius := float(np.quantile(own, QUANTILE))) > EPSILON:
        return None
    file = io.BytesIO()
    np.save(file, np.concatenate([mean[None], scale[None], prototypes]).astype(np.float32))
    return Guard(file.getvalue(), radius, len(prototypes), len(points))


def farthest_first(points: Points, limit: int) -> Ints:
    """Indices of up to `limit` points, each the farthest from those before it (Gonzalez 1985): they cover the set."""
    first = int(np.argmin(((points - points.mean(axis=0)) ** 2).sum(axis=1)))
    chosen = [first]
    nearest = ((points - points[first]) ** 2).sum(axis=1)
    while len(chosen) < limit:
        farthest = int(np.argmax(nearest))
        if nearest[farthest] <= EPSILON**2:
            break
        chosen.append(farthest)
        nearest = np.minimum(nearest, ((points - points[farthest]) ** 2).sum(axis=1))
    return np.array(chosen, np.intp)


def _distinct(points: Points, at: Ints) -> tuple[Points, Ints]:
    """Each point once, in order of time: what is repeated is one thing that was seen."""
    _, first = np.unique(points, axis=0, return_index=True)
    first.sort()
    return points[first], at[first]


def _standardizer(points: Points) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    mean, scale = points.mean(axis=0, dtype=np.float64), points.std(axis=0, dtype=np.float64)
    return mean, np.where(scale <= EPSILON * np.maximum(1.0, np.abs(mean)), 1.0, scale)


def _without_itself(points: Points, at: Ints, prototypes: Points, prototypes_at: Ints, apart: int) -> Points:
    """Distance of each point to the nearest prototype that is `apart` from it; points that have none are left out."""
    found = []
    for start in range(0, len(points), 1024):
        some, when = points[start : start + 1024], at[start : start + 1024]
        squared = (some**2).sum(axis=1)[:, None] + (prototypes**2).sum(axis=1) - 2 * some @ prototypes.T
        squared[np.abs(when[:, None] - prototypes_at) < apart] = np.inf
        found.append(squared.min(axis=1))
    distances = np.sqrt(np.maximum(np.concatenate(found), 0.0))
    return np.asarray(distances[np.isfinite(distances)])
