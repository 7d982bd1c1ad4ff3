"""Learning from one's betters on BGL: how many calls of the cloud it saves that a student is distilled, now and then.

    python -m benchmarks.learning --data DIR [--models DIR]

The log lines come in order of time. A head is fitted on the first ones and calibrated on those after them, as
`gatewayd models fit --text` and `calibrate` do it; from then on every line goes through the handler, the calibration
and `decide`, the true label being what the cloud answers, and what it answers goes to the lessons. Ours is distilled
every EVERY lines, with `gatewayd models distill`, and the offer is adopted where it is right at least as often on the
held-out lessons; the baseline is never distilled. Encoder, head and lessons on disk are the real ones.
"""

import argparse
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import structlog

from benchmarks.charts import line_chart
from benchmarks.quality_text import ENCODER, Bgl, bgl, judge
from gatewayd.api import Batch, Message, Result
from gatewayd.cascade.lesson_files import FOLDER, read_lessons
from gatewayd.cascade.lessons import Lessons
from gatewayd.cascade.policy import Case, Rules, TierView, decide
from gatewayd.cascade.reading import Calibrations, verdict_of
from gatewayd.cascade.verdict import Decision, Verdict
from gatewayd.cli.distill import student_of
from gatewayd.config.environment import Paths
from gatewayd.config.schema import Config
from gatewayd.errors import ModelError
from gatewayd.models.calibrate import Goal, calibrate
from gatewayd.models.calibrate_run import Labeled
from gatewayd.models.distill import distill
from gatewayd.models.fit_text import fit_text
from gatewayd.models.offers import adopt, discard
from gatewayd.models.store import ModelStore
from gatewayd_handlers.classify_text import ClassifyText

N_FIT, N_CALIBRATE = 200, 100
EVERY = 100  # lines between two attempts to distill
MIN_NEW = 10  # lessons since the last attempt
ACCEPT = 0.99  # confidence from which on the student's answer is taken
ACCURACY = 0.99  # asked for, of the answers that are taken
BLOCK = 100  # lines, for the rate over time
ROLLING = 300  # lines, for the picture
HEAD = "bgl-head"
ROUTE = "logs"
RESULTS = Path(__file__).parent / "results" / "learning.json"
PICTURE = Path(__file__).parents[1] / "docs/guides/pictures/escalation-falls.svg"


@dataclass
class Run:
    """What came of the stream."""

    asked: list[bool] = field(default_factory=list)  # of the cloud, line by line
    answers: list[str] = field(default_factory=list)
    distilled: list[dict[str, Any]] = field(default_factory=list)


class Box:
    """A gateway's models, lessons and config."""

    def __init__(self, root: Path, encoder: Path, accept: float | None) -> None:
        self.paths = Paths(
            gateway="g", config_dir=root, state_dir=root, spool=root / "spool.db", models=root / "models"
        )
        self.paths.models.mkdir(parents=True)
        (self.paths.models / ENCODER).symlink_to(encoder.resolve())
        student = {"type": "handler", "handler": "classify_text", "options": {"model": ENCODER, "head": HEAD}}
        tables = {
            "tiers": {"student": student | ({} if accept is None else {"accept": accept}), "cloud": CLOUD},
            "routes": {ROUTE: {"topics": ["bgl"], "tiers": ["student", "cloud"], "escalation": ESCALATION}},
        }
        self.config = msgspec.convert(tables, Config)

    def store(self) -> ModelStore:
        """Anew: a bundle was exchanged."""
        return ModelStore(self.paths.models, self.config.models)


CLOUD = {"type": "http", "url": "http://127.0.0.1:1/"}
ESCALATION = {"privacy": "cloud", "lessons": True}


class Student:
    """The route's first tier, and what is decided of its answers."""

    def __init__(self, box: Box) -> None:
        tier = box.config.tiers["student"]
        self._store = box.store()
        self._handler = ClassifyText(msgspec.convert(tier.options, ClassifyText.Config))  # type: ignore[union-attr,arg-type]
        self._calibrations = Calibrations(self._store)
        self._handler.start(self._calibrations)
        accept = tier.accept if tier.accept is not None else self._calibrations.accept or 0.9
        self.views = [TierView(name="student", accept=accept), TierView(name="cloud", place="cloud")]

    def decide(self, number: int, line: str, truth: str) -> Decision:
        """The final decision; the cloud is asked where the student is not sure, and says the truth."""
        message = Message(topic="bgl", value=line, time=float(number), key=str(number))
        (answer,) = self._handler.handle(Batch(route=ROUTE, messages=[message], now=float(number)))
        assert isinstance(answer, Result)
        said = verdict_of("student", answer.kind, answer.data, self._calibrations)
        assert said is not None
        decision = self._decision(number, said)
        if decision.next_tier:
            better = Verdict(tier="cloud", label=truth, scores={truth: 1.0}, confidence=1.0, model="truth")
            decision = self._decision(number, said, better)
        return decision

    def close(self) -> None:
        """Let go of the sessions."""
        self._handler.stop()
        self._store.close()

    def _decision(self, number: int, *asked: Verdict) -> Decision:
        case = Case(route=ROUTE, key=str(number), time=float(number), asked=asked)
        return decide(Rules(privacy="cloud"), self.views, case)


def fit_first(box: Box, corpus: Bgl) -> Path:
    """The first student, and the file it was fitted on."""
    store = box.store()
    texts = box.paths.config_dir / "first.ndjson"
    rows = [{"text": corpus.lines[i], "label": corpus.labels[i]} for i in range(N_FIT)]
    texts.write_text("\n".join(json.dumps(row) for row in rows))
    encode = ClassifyText.encoder(store, ENCODER)
    models = box.paths.models
    fit_text([texts], models, name=HEAD, encoder=models / ENCODER, encode=encode)
    handler = ClassifyText(msgspec.convert(box.config.tiers["student"].options, ClassifyText.Config))  # type: ignore[union-attr,arg-type]
    calibrate(
        store,
        models,
        HEAD,
        handler=handler,
        labeled=_labeled(corpus, range(N_FIT, N_FIT + N_CALIBRATE)),
        goal=Goal(accuracy=ACCURACY),
        seen=_labeled(corpus, range(N_FIT)),
    )
    store.close()
    return texts


def _labeled(corpus: Bgl, rows: range) -> Labeled:
    messages = [
        Message(topic="bgl", value=corpus.lines[i], time=float(i), key=str(place)) for place, i in enumerate(rows)
    ]
    return Labeled(messages, [corpus.labels[i] for i in rows])


def play(box: Box, corpus: Bgl, first: Path, *, learns: bool) -> Run:
    """The rest of the recording, line by line."""
    run, student = Run(), Student(box)
    lessons = Lessons(box.paths.state_dir / FOLDER, box.config.routes)
    n_tried = 0
    for number in range(N_FIT + N_CALIBRATE, len(corpus.lines)):
        decision = student.decide(number, corpus.lines[number], corpus.labels[number])
        lessons.keep(ROUTE, decision, topic="bgl", time=float(number), value=corpus.lines[number])
        run.asked.append(decision.verdict.tier == "cloud")
        run.answers.append(decision.verdict.label)
        n_asked = sum(run.asked)
        is_due = (number + 1) % EVERY == 0 and number + 1 < len(corpus.lines) and n_asked - n_tried >= MIN_NEW
        if learns and is_due:
            n_tried = n_asked
            lessons.close()
            if (told := next_student(box, first)) is not None:
                run.distilled.append({"line": number + 1, **told})
                student.close()
                student = Student(box)
            lessons = Lessons(box.paths.state_dir / FOLDER, box.config.routes)
    lessons.close()
    student.close()
    return run


def next_student(box: Box, first: Path) -> dict[str, Any] | None:
    """Distill; what both did on the held-out lessons, and whether the offer was adopted. None: too few lessons."""
    store = box.store()
    began = time.monotonic()
    try:
        found = [each for each in read_lessons(box.paths.state_dir / FOLDER / ROUTE) if each is not None]
        report = distill(
            ROUTE,
            student_of(box.config, ROUTE, box.paths, store),
            found,
            store,
            box.paths.models,
            box.config.models,
            also=[first],
            accuracy=ACCURACY,
        )
    except ModelError:
        return None
    finally:
        store.close()
    old, new = report.present, report.offered
    is_better = new.accuracy >= old.accuracy and new.escalation_rate <= old.escalation_rate
    (adopt if is_better else discard)(box.paths.models, HEAD)
    return {
        "adopted": is_better,
        "fitted_on_all": report.is_whole,
        "lessons": sum(report.labels.values()),
        "seconds": round(time.monotonic() - began, 2),
        "present": _figures(old),
        "offered": _figures(new),
        "accept": round(report.offered_accept, 4),
        "notes": report.notes,
    }


def _figures(figures: Any) -> dict[str, float]:
    names = ("accuracy", "mean_f1", "ece", "escalation_rate", "still_sure")
    return {name: round(getattr(figures, name), 4) for name in names}


def summary(run: Run, corpus: Bgl) -> dict[str, Any]:
    """Over the whole stream, and by BLOCK lines."""
    truth = corpus.labels[N_FIT + N_CALIBRATE :]
    figures = judge(truth, run.answers)
    taken = [said == right for said, right, asked in zip(run.answers, truth, run.asked, strict=True) if not asked]
    return {
        "n": len(truth),
        "cloud_calls": sum(run.asked),
        "escalation_rate": round(sum(run.asked) / len(truth), 4),
        "accuracy": round(sum(map(str.__eq__, run.answers, truth)) / len(truth), 4),
        "accuracy_of_taken": round(sum(taken) / max(len(taken), 1), 4),
        "f1_of_alert": round(figures.f1, 4),
        "by_block": [sum(run.asked[at : at + BLOCK]) for at in range(0, len(truth), BLOCK)],
        "distilled": run.distilled,
    }


def measure(data: Path, encoder: Path, accept: float | None) -> dict[str, Any]:
    """Both, on the same recording, from the same first student."""
    corpus = bgl(data)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="gatewayd-learning-") as scratch:
        begin = Box(Path(scratch) / "first", encoder, accept)
        first = fit_first(begin, corpus)
        for name, learns in (("never distilled", False), ("distilled", True)):
            box = Box(Path(scratch) / name.replace(" ", "-"), encoder, accept)
            shutil.copytree(begin.paths.models / HEAD, box.paths.models / HEAD)
            found[name] = summary(play(box, corpus, first, learns=learns), corpus)
    return found


def draw(found: dict[str, Any]) -> str:
    """The share of the last ROLLING lines that was escalated, over the lines so far."""
    lines = {}
    for name, figures in found.items():
        blocks, first = figures["by_block"], N_FIT + N_CALIBRATE
        n = ROLLING // BLOCK
        points = [
            (float(first + end * BLOCK), 100.0 * sum(blocks[end - n : end]) / ROLLING)
            for end in range(n, len(blocks) + 1)
        ]
        shown = f"{name}: {figures['cloud_calls']} calls for {figures['n']} lines, accuracy {figures['accuracy']:.3f}"
        lines[shown] = points
    title = f"Escalated of the last {ROLLING} lines, BGL in order of time, accept {ACCEPT}"
    return line_chart(title, "lines of the log", "%", lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the recordings")
    parser.add_argument("--models", type=Path, required=True, help="folder of bundles, with minilm-int8")
    given = parser.parse_args(arguments)
    logging.getLogger().setLevel(logging.WARNING)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    found = measure(given.data, given.models / ENCODER, ACCEPT)
    for name, figures in found.items():
        print(
            f"{name:16} {figures['cloud_calls']:5} calls of {figures['n']} ({figures['escalation_rate']:.1%})", end=""
        )
        print(f"  accuracy {figures['accuracy']:.4f}  of taken {figures['accuracy_of_taken']:.4f}", end="")
        print(f"  F1 of alert {figures['f1_of_alert']:.3f}  by {BLOCK}: {figures['by_block']}")
        for one in figures["distilled"]:
            print(f"    {one}")
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    PICTURE.write_text(draw(found))


if __name__ == "__main__":
    main()
