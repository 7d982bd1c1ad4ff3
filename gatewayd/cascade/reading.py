"""A handler's result read as a verdict, and a bundle's calibration found for it.

Invariant: whatever a handler answers, it becomes a verdict or None; never an exception.
"""

import math
from collections.abc import Mapping
from typing import Any

import structlog

from gatewayd.api import Model, Models
from gatewayd.cascade.confidence import Calibration
from gatewayd.cascade.verdict import Verdict
from gatewayd.errors import ModelError

log = structlog.get_logger(__name__)

UNKNOWN = "unknown"  # what the built-in handlers answer below their own least score


class Calibrations:
    """Models as a handler gets them, remembering how each that it asked for was calibrated."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._found: dict[str, Calibration] = {}

    def get(self, name: str) -> Model:
        """See gatewayd.api.Models. A calibration that makes no sense is one that is not there; said once."""
        model = self._models.get(name)
        try:
            self._found[name] = Calibration.of(model.calibration, model=name)
        except ModelError as error:
            log.warning("calibration cannot be used", model=name, cause=str(error))
        return model

    def of(self, model: str) -> Calibration:
        """That of a model the handler asked for; one that changes nothing for any other."""
        return self._found.get(model, _NONE)

    @property
    def accept(self) -> float | None:
        """The confidence that the calibration says is enough: of several models, the one that asks for most."""
        return max((found.accept for found in self._found.values() if found.accept is not None), default=None)


_NONE = Calibration()


def verdict_of(
    tier: str, kind: str, data: Mapping[str, Any], calibrations: Calibrations, latency_ms: float = 0.0
) -> Verdict | None:
    """What a tier's handler says; None when it says no label. Without `scores` the `score` is that of the label.
    `latency_ms`: what is told of one that does not tell it."""
    label = data.get("label")
    if not isinstance(label, str):
        return None
    scores = _scores(data, label)
    model = data.get("model")
    name = model if isinstance(model, str) else ""
    version = data.get("model_version")
    # "unknown" is the handler's own word for not being sure: it is handed on, whatever the score is.
    confidence = 0.0 if label == UNKNOWN else calibrations.of(name).confidence(scores, label)
    return Verdict(
        tier=tier,
        label=label,
        scores=scores,
        confidence=confidence if math.isfinite(confidence) else 0.0,
        novelty=_number(data.get("novelty")),
        kind=kind,
        model=name,
        model_version=version if isinstance(version, str) else "",
        latency_ms=_number(data.get("latency_ms")) or latency_ms,
        tokens_in=int(_number(data.get("tokens_in")) or 0),
        tokens_out=int(_number(data.get("tokens_out")) or 0),
    )


def _scores(data: Mapping[str, Any], label: str) -> dict[str, float]:
    given = data.get("scores")
    if type(given) is dict and all(map(_is_number, given.values())):
        return given  # as nearly every handler gives them: nothing to mend
    if isinstance(given, Mapping) and given:
        return {str(name): number for name, value in given.items() if (number := _number(value)) is not None}
    score = _number(data.get("score"))
    return {} if score is None else {label: score}


def _is_number(value: object) -> bool:
    return type(value) is float and -math.inf < value < math.inf


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
