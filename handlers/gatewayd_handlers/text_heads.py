"""From a text's vector to the probability of each label: by comparison with examples, or by a fitted head."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np

from gatewayd.api import Model, ModelError
from gatewayd_handlers.text_encoder import Encode, Vectors


class Judgment(msgspec.Struct, frozen=True):
    """What a head says about one text."""

    label: str
    scores: dict[str, float]  # by label; they sum to 1


class Head(Protocol):
    """Judges vectors. `name` and `version` go into the result."""

    name: str
    version: str

    def judge(self, vectors: Vectors) -> list[Judgment]:
        """One judgment a row of `vectors`, float32 [n, n_dimensions]."""


class ExampleHead:
    """Zero-shot: a label is as near as the nearest of its descriptions and examples.

    The nearest one beat the mean of all, the mean of the best three, centered vectors and ridge regression on the
    examples where it was measured (benchmarks/quality_text.py). The scores are softmax(cosine / temperature): they
    rank, and are no frequencies. A fitted head is calibrated.
    """

    def __init__(self, model: Model, encode: Encode, labels: Mapping[str, Sequence[str]], temperature: float) -> None:
        self.name, self.version = model.name, model.version
        self._labels = list(labels)
        self._vectors = [encode(texts) for texts in labels.values()]
        self._temperature = temperature

    def judge(self, vectors: Vectors) -> list[Judgment]:
        """See Head."""
        nearest = np.stack([(vectors @ known.T).max(axis=1) for known in self._vectors], axis=1)
        exponent = np.exp((nearest - nearest.max(axis=1, keepdims=True)) / self._temperature)
        rows = exponent / exponent.sum(axis=1, keepdims=True)
        return [_highest(self._labels, row) for row in rows]


class FittedHead:
    """A head out of `gatewayd models fit --text`: ONNX, `embedding` [n, n_dimensions] to `probabilities` [n, labels].

    Where the bundle's calibration names a `positive` label with a `threshold`, that label wins from the threshold on
    and not only from one half on: labels are rarely as frequent as each other.
    """

    def __init__(self, head: Model, encoder: Model) -> None:
        """Raises ModelError when the head was fitted to another encoder than this one."""
        _check_fits(head, encoder)
        self.name, self.version = head.name, head.version
        self._labels = list(head.labels)
        self._session = head.tensors()
        self._positive = str(head.calibration.get("positive", ""))
        self._threshold = float(head.calibration.get("threshold", 0.5))

    def judge(self, vectors: Vectors) -> list[Judgment]:
        """See Head."""
        rows = self._session.run({"embedding": vectors})["probabilities"]
        return [self._decided(_highest(self._labels, row)) for row in rows]

    def _decided(self, judgment: Judgment) -> Judgment:
        scores = judgment.scores
        if self._positive not in scores:
            return judgment
        if scores[self._positive] >= self._threshold:
            return Judgment(self._positive, scores)
        others = {label: score for label, score in scores.items() if label != self._positive}
        return Judgment(max(others, key=others.__getitem__), scores)


def _highest(labels: Sequence[str], row: Any) -> Judgment:
    scores = {label: float(score) for label, score in zip(labels, row, strict=True)}
    return Judgment(max(scores, key=scores.__getitem__), scores)


def _check_fits(head: Model, encoder: Model) -> None:
    """The vectors of another encoder have the same shape and another meaning: the answers would be noise."""
    wanted = str(head.input.get("encoder_sha256", ""))
    found = hashlib.sha256(Path(encoder.file("model")).read_bytes()).hexdigest()
    if wanted != found:
        made_for = f"{head.input.get('encoder', 'an unnamed encoder')} (sha256 {wanted[:12] or 'missing'})"
        raise ModelError(f"{head.name} was fitted to {made_for}, and {encoder.name} has {found[:12]}: fit it again")
