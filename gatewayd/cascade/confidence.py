"""How sure a tier is: from the scores of a model to the probability that its label is right. Pure, stdlib alone.

Invariant: what is read here was checked when it was read, so `confidence` cannot fail: it answers a number from 0 to 1
for any scores, and the score itself for a label that nothing was fitted for. `gatewayd models calibrate` writes the
table, `[calibration] confidence = {…}` of a bundle's `model.toml`; who has none gets the score as it is.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from gatewayd.errors import ModelError

TABLE = "confidence"  # the key in the bundle's [calibration] table; its other keys belong to the handlers
NOVELTY_TABLE = "novelty"
MIN_SCORE = 1e-7  # a score of 0 has no logarithm; what is smaller than this is not told apart

Method = Literal["none", "temperature", "isotonic"]
Share = Annotated[float, Meta(ge=0, le=1)]
Bias = Annotated[float, Meta(ge=-100, le=100)]


class Curve(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Breakpoints of an isotonic regression: between two of them a straight line, beyond the outer ones level."""

    scores: Annotated[list[Share], Meta(min_length=1, max_length=1000)]  # ascending
    confidences: list[Share]  # never falling, one a score

    def __post_init__(self) -> None:
        if len(self.confidences) != len(self.scores):
            raise ValueError(f"{len(self.scores)} scores and {len(self.confidences)} confidences")
        if any(left >= right for left, right in pairwise(self.scores)):
            raise ValueError("scores must ascend")
        if any(left > right for left, right in pairwise(self.confidences)):
            raise ValueError("confidences must not fall")

    def at(self, score: float) -> float:
        """The confidence of a score, from 0 to 1."""
        right = bisect_right(self.scores, score)
        if right == 0:
            return self.confidences[0]
        if right == len(self.scores):
            return self.confidences[-1]
        low, high = self.scores[right - 1], self.scores[right]
        share = (score - low) / (high - low)
        return self.confidences[right - 1] + share * (self.confidences[right] - self.confidences[right - 1])


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """What `gatewayd models calibrate` found out about a model. The default is a model that was never calibrated."""

    method: Method = "none"
    temperature: Annotated[float, Meta(ge=0.01, le=100)] = 1.0  # divides the logarithms of the scores (Guo et al. 2017)
    bias: dict[str, Bias] = {}  # by label, added after the division: Platt scaling where there are two labels
    curves: dict[str, Curve] = {}  # isotonic: by the label answered; "" for those without one of their own
    labels: list[str] = []  # those that were calibrated; empty: all
    accept: Share | None = None  # the threshold chosen: from this confidence on the answer is taken
    ece: Share | None = None  # expected calibration error on samples nothing was fitted on
    ece_before: Share | None = None  # the same of the bare scores
    samples: Annotated[int, Meta(ge=0)] = 0  # how many the two were measured on
    radius: float | None = None  # distance that is novelty 1; None: the bundle has no novelty guard

    def __post_init__(self) -> None:
        if self.method == "isotonic" and not self.curves:
            raise ValueError('method "isotonic" needs curves')

    @classmethod
    def of(cls, table: Mapping[str, Any], *, model: str = "") -> "Calibration":
        """Read the bundle's `[calibration]` table; keys of other uses are passed over.

        `model` is named in the ModelError that is raised when the table is damaged.
        """
        radius = _radius(table.get(NOVELTY_TABLE), model)
        try:
            found = msgspec.convert(table.get(TABLE, {}), cls)
        except msgspec.ValidationError as exc:
            raise _damaged(model, f"{TABLE}: {exc}") from exc
        return msgspec.structs.replace(found, radius=radius)

    def confidence(self, scores: Mapping[str, float], label: str) -> float:
        """The probability, 0 to 1, that `label` is right where a model gave these `scores` (0 to 1, by label).

        0 for a label without a score; the score itself for one that was not there when the model was calibrated.
        """
        score = scores.get(label)
        if score is None or not math.isfinite(score):
            return 0.0
        score = min(max(score, 0.0), 1.0)
        if self.method == "none" or (self.labels and label not in self.labels):
            return score
        if self.method == "temperature":
            return self._tempered(scores, label)
        curve = self.curves.get(label) or self.curves.get("")
        return score if curve is None else curve.at(score)

    def _tempered(self, scores: Mapping[str, float], label: str) -> float:
        """Softmax of log(score) / temperature + bias."""
        logits = {
            name: math.log(min(max(score, MIN_SCORE), 1.0)) / self.temperature + self.bias.get(name, 0.0)
            for name, score in scores.items()
            if math.isfinite(score)
        }
        highest = max(logits.values())
        return math.exp(logits[label] - highest) / sum(math.exp(logit - highest) for logit in logits.values())


def _radius(table: object, model: str) -> float | None:
    """The radius in the bundle's novelty table, where it has one."""
    if table is None:
        return None
    radius = table.get("radius") if isinstance(table, Mapping) else None
    if isinstance(radius, int | float) and not isinstance(radius, bool) and 0 < radius < math.inf:
        return float(radius)
    raise _damaged(model, f"{NOVELTY_TABLE}: needs a radius above 0, has {radius!r}")


def _damaged(model: str, problem: str) -> ModelError:
    where = f'model "{model}"' if model else "model.toml"
    return ModelError(f"{where}: [calibration] {problem}; run `gatewayd models calibrate` again")
