"""A labeled stream through a cascade of one student and a cloud that knows the truth, by the daemon's own code.

Invariant: what decides is `gatewayd.cascade.policy.decide` on verdicts read by `gatewayd.cascade.reading`, as in the
daemon; what is asked goes through `gatewayd.cascade.recall` where that is on. Nothing here has seen the stream before.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from gatewayd.api import Batch, Handler, Result
from gatewayd.cascade.confidence import Calibration
from gatewayd.cascade.policy import DEFAULT_ACCEPT, Case, Rules, TierView, decide
from gatewayd.cascade.reading import Calibrations, verdict_of
from gatewayd.cascade.recall import Recall, ask_once
from gatewayd.cascade.verdict import Question, Verdict
from gatewayd.models.calibrate_fit import reliability
from gatewayd.models.calibrate_run import Labeled, named
from gatewayd.models.store import ModelStore

Bools = NDArray[np.bool_]
STUDENT, CLOUD = "student", "cloud"
RULES = Rules(privacy="cloud")
N_SHUFFLES = 20  # draws of the random baseline


@dataclass(frozen=True)
class Heard:
    """What the student said of a stream, in its order."""

    verdicts: list[Verdict]
    values: list[Any]  # of the messages: what a cloud would be asked
    truth: list[str]
    accept: float  # what the bundle's calibration says is enough
    positive: str
    judged: Bools  # [n]: rows that are judged

    @property
    def right(self) -> Bools:
        return np.array([verdict.label == truth for verdict, truth in zip(self.verdicts, self.truth, strict=True)])

    @property
    def confidences(self) -> NDArray[np.float64]:
        return np.array([verdict.confidence for verdict in self.verdicts])

    @property
    def scores(self) -> NDArray[np.float64]:
        """Bare scores of the label that was said."""
        bare = Calibration()
        return np.array([bare.confidence(verdict.scores, verdict.label) for verdict in self.verdicts])


@dataclass(frozen=True)
class Outcome:
    """What became of a stream. Shares are of all its messages."""

    f1: float  # of the rarer label; the cloud alone has 1
    accuracy: float
    handed_on: float
    calls: float  # questions that the cloud was asked
    causes: Mapping[str, int]

    def row(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "f1": round(self.f1, 4),
            "accuracy": round(self.accuracy, 4),
            "handed_on": round(self.handed_on, 4),
            "calls": round(self.calls, 4),
            "fewer_calls": round(1 - self.calls, 4),
            "causes": dict(self.causes),
        }


def hear(handler: Handler, store: ModelStore, labeled: Labeled, labels: Sequence[str], positive: str) -> Heard:
    """The student's verdicts, as a tier's handler gives them in the daemon; batches of 64."""
    calibrations = Calibrations(store)
    handler.start(calibrations)
    truth = named(labeled.truth, labels)
    verdicts: list[Verdict] = []
    rows: list[int] = []
    for start in range(0, len(labeled.messages), 64):
        messages = labeled.messages[start : start + 64]
        for answer in handler.handle(Batch(route="r", messages=messages, now=messages[-1].time)):
            assert isinstance(answer, Result)
            assert answer.message is not None
            verdict = verdict_of(STUDENT, answer.kind, answer.data, calibrations)
            assert verdict is not None
            verdicts.append(verdict)
            rows.append(int(answer.message.key))
    handler.stop()
    accept = calibrations.accept
    return Heard(
        verdicts,
        [labeled.messages[row].value for row in rows],
        [truth[row] for row in rows],
        DEFAULT_ACCEPT if accept is None else accept,
        positive,
        np.ones(len(rows), np.bool_),
    )


def run(heard: Heard, *, accept: float, max_novelty: float = 1.0, recall: str = "off", bare: bool = False) -> Outcome:
    """The stream through the cascade. `bare`: the score is taken for the confidence, as without a calibration."""
    return asyncio.run(_run(heard, accept, max_novelty, recall, bare))


async def _run(heard: Heard, accept: float, max_novelty: float, recall: str, bare: bool) -> Outcome:
    tiers = (TierView(name=STUDENT, accept=accept, max_novelty=max_novelty), TierView(name=CLOUD, place="cloud"))
    memory = None if recall == "off" else Recall(recall, max_answers=4096, max_age_s=float("inf"))  # type: ignore[arg-type]
    labels: list[str] = []
    causes: dict[str, int] = {}
    n_handed_on, asked = 0, 0
    bare_scores = heard.scores if bare else None

    for index, (verdict, value, truth) in enumerate(zip(heard.verdicts, heard.values, heard.truth, strict=True)):
        if bare_scores is not None:
            verdict = msgspec.structs.replace(verdict, confidence=float(bare_scores[index]), novelty=None)
        decision = decide(RULES, tiers, Case(route="r", key=str(index), time=0.0, asked=(verdict,)))
        causes[decision.cause] = causes.get(decision.cause, 0) + 1
        if decision.next_tier != CLOUD:
            labels.append(verdict.label)
            continue
        n_handed_on += 1
        question = _question(index, value, verdict)
        if memory is None:
            asked += 1
            labels.append(truth)
            continue
        cloud = _Cloud(truth)
        answers, _ = await ask_once(memory, [question], cloud.ask, float(index))
        asked += cloud.n
        assert isinstance(answers[0], Verdict)
        labels.append(answers[0].label)
    return outcome(heard, labels, n_handed_on, asked, causes)


class _Cloud:
    """Answers with the truth, and counts."""

    def __init__(self, truth: str) -> None:
        self._truth = truth
        self.n = 0

    async def ask(self, questions: Sequence[Question]) -> Sequence[Verdict]:
        self.n += len(questions)
        answer = Verdict(tier=CLOUD, label=self._truth, scores={self._truth: 1.0}, confidence=1.0)
        return [answer] * len(questions)


def _question(index: int, value: Any, verdict: Verdict) -> Question:
    return Question(key=str(index), topic="t", value=value, time=0.0, labels=tuple(verdict.scores), first=verdict)


def at_random(heard: Heard, share: float) -> Outcome:
    """The same share handed on, chosen by lot: the mean of N_SHUFFLES draws."""
    draw = np.random.default_rng(0)
    n = len(heard.verdicts)
    runs = []
    for _ in range(N_SHUFFLES):
        chosen = set(draw.permutation(n)[: round(share * n)].tolist())
        labels = [
            truth if index in chosen else verdict.label
            for index, (verdict, truth) in enumerate(zip(heard.verdicts, heard.truth, strict=True))
        ]
        runs.append(outcome(heard, labels, len(chosen), len(chosen), {}))
    return Outcome(
        float(np.mean([each.f1 for each in runs])), float(np.mean([each.accuracy for each in runs])), share, share, {}
    )


def outcome(heard: Heard, labels: Sequence[str], handed_on: int, asked: int, causes: Mapping[str, int]) -> Outcome:
    """Judge the final labels: calls are of all rows, F1 and accuracy of those that are judged."""
    said, truth = np.array(labels)[heard.judged], np.array(heard.truth)[heard.judged]
    hits = int(((said == heard.positive) & (truth == heard.positive)).sum())
    named_ = int((said == heard.positive).sum() + (truth == heard.positive).sum())
    n = len(labels)
    return Outcome(
        2 * hits / named_ if named_ else 1.0, float((said == truth).mean()), handed_on / n, asked / n, causes
    )


def ece(confidences: NDArray[np.float64], right: Bools) -> float:
    """Expected calibration error, 15 bins of equal mass."""
    bins = reliability(confidences, right)
    return sum(each.n * abs(each.confidence - each.accuracy) for each in bins) / len(right)


def curve(heard: Heard, *, recall: str = "off") -> list[tuple[float, float]]:
    """(share of calls, F1) for every threshold worth looking at: a picture, not a choice."""
    cuts = np.unique(np.quantile(heard.confidences, np.linspace(0, 1, 60), method="nearest"))
    points = [run(heard, accept=float(cut), recall=recall) for cut in [*cuts.tolist(), 1.01]]
    return sorted((each.calls, each.f1) for each in points)


def random_curve(heard: Heard) -> list[tuple[float, float]]:
    """The same by lot."""
    return [(share, at_random(heard, share).f1) for share in np.linspace(0, 1, 21).tolist()]
