"""Two students judged on the same lessons, as the cascade would judge them.

Invariant: an answer is read, calibrated and doubted by the code that the daemon runs (`verdict_of`, `doubt`); a message
without an answer counts as wrong and as handed on.
"""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from gatewayd.api import Batch, Handler, Message, Models, Result
from gatewayd.cascade.policy import TierView, doubt
from gatewayd.cascade.reading import Calibrations, verdict_of
from gatewayd.cascade.verdict import Verdict
from gatewayd.models.calibrate_fit import expected_calibration_error

_BATCH = 64


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """A lesson as the student gets it: the last message is the one that is answered."""

    messages: Sequence[Message]
    label: str


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """How a student did on lessons held out. They are what the present student was not sure of: the hard ones."""

    version: str
    n: int
    accuracy: float
    f1: Mapping[str, float]  # by label
    mean_f1: float
    ece: float  # expected calibration error, 15 bins of equal mass
    accept: float  # confidence needed, as it is today
    escalation_rate: float  # share of these lessons that it would hand on again
    taken_accuracy: float  # of those it would take; NaN: none
    n_rehearsals: int
    still_sure: float  # share of what the present student was sure of that it answers alike and takes; NaN: none


class Heard:
    """A student's answers to samples, in their order; None where it gave none."""

    def __init__(self, handler: Handler, models: Models, tier: str) -> None:
        self.handler = handler
        self.calibrations = Calibrations(models)
        self.tier = tier
        self.version = ""
        handler.start(self.calibrations)

    def answers(self, samples: Sequence[Sample]) -> list[Verdict | None]:
        """One for each sample."""
        found: dict[str, Verdict] = {}
        pending: list[Message] = []
        for sample in samples:
            pending += sample.messages
            if len(pending) >= _BATCH:
                self._hear(pending, found)
                pending = []
        self._hear(pending, found)
        return [found.get(sample.messages[-1].key) for sample in samples]

    def _hear(self, messages: Sequence[Message], found: dict[str, Verdict]) -> None:
        if not messages:
            return
        for answer in self.handler.handle(Batch(route="distill", messages=messages, now=messages[-1].time)):
            if isinstance(answer, Result) and answer.message is not None:
                verdict = verdict_of(self.tier, answer.kind, answer.data, self.calibrations)
                if verdict is not None:
                    found[answer.message.key] = verdict
                    self.version = verdict.model_version


def judge(heard: Heard, view: TierView, lessons: Sequence[Sample], rehearsals: Sequence[Sample]) -> Figures:
    """Figures on `lessons` (labels of a better tier) and `rehearsals` (labels of the present student itself)."""
    answers = heard.answers(lessons)
    right = np.array([said is not None and said.label == one.label for said, one in zip(answers, lessons, strict=True)])
    taken = np.array([said is not None and doubt(view, said) is None for said in answers])
    confidences = np.array([0.0 if said is None else said.confidence for said in answers])
    f1 = _f1([one.label for one in lessons], ["" if said is None else said.label for said in answers])
    kept = heard.answers(rehearsals)
    alike = [
        said is not None and said.label == one.label and doubt(view, said) is None
        for said, one in zip(kept, rehearsals, strict=True)
    ]
    return Figures(
        version=heard.version,
        n=len(lessons),
        accuracy=float(right.mean()),
        f1=f1,
        mean_f1=float(np.mean(list(f1.values()))),
        ece=expected_calibration_error(confidences, right),
        accept=view.accept,
        escalation_rate=float(1.0 - taken.mean()),
        taken_accuracy=float(right[taken].mean()) if taken.any() else float("nan"),
        n_rehearsals=len(rehearsals),
        still_sure=float(np.mean(alike)) if alike else float("nan"),
    )


def _f1(truth: Sequence[str], said: Sequence[str]) -> dict[str, float]:
    """By label that occurs: 2 TP / (2 TP + FP + FN)."""
    pairs = list(zip(truth, said, strict=True))
    found = {}
    for label in sorted(set(truth)):
        hits = sum(one == other == label for one, other in pairs)
        wrong = sum((one == label) != (other == label) for one, other in pairs)
        found[label] = 2 * hits / (2 * hits + wrong)
    return found
