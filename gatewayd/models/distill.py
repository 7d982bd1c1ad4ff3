"""`gatewayd models distill`: the next student, fitted on what better tiers answered, offered beside the present one.

Invariants: the present bundle is not touched; what judges was not fitted on, and is later in time than all that was;
both students are judged on the same lessons. What the present student was sure of (rehearsals) and the recordings given
with it are fitted on as well, so that the next one does not forget what the lessons do not tell.

Needs the extra `fit`; imported by the command that distills, never by the daemon.
"""

import csv
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from gatewayd.api import Handler, Message
from gatewayd.cascade.lesson_files import Lesson
from gatewayd.cascade.policy import DEFAULT_ACCEPT, TierView
from gatewayd.config import schema
from gatewayd.config.tiers import HandlerTier
from gatewayd.errors import ConfigError, ModelError
from gatewayd.models.bundle import Manifest
from gatewayd.models.calibrate import Goal, calibrate
from gatewayd.models.calibrate_run import Labeled
from gatewayd.models.distill_judge import Figures, Heard, Sample, judge
from gatewayd.models.fit_series import fit_series
from gatewayd.models.fit_text import fit_text
from gatewayd.models.offers import Offered, keep_report, offers_dir
from gatewayd.models.store import ModelStore

MIN_LESSONS = 80  # 48 to fit on; the 32 later ones with as many rehearsals are what calibrating takes at least
FIT_SHARE = 0.6  # of the lessons, the earlier ones
JUDGE_SHARE = 0.2  # the latest ones; on those in between the next student's confidence is fitted

Kind = Literal["text", "series"]
MakeHandler = Callable[[Mapping[str, Any]], Handler]  # of the student's kind, with these options
Encode = Callable[[str, int, bool], Any]  # (encoder, max_tokens, mask_numbers) -> texts to vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """The first tier of a route as it is now."""

    tier: str
    config: HandlerTier
    kind: Kind
    name: str  # of the bundle that is offered
    manifest: Manifest | None  # of the present one; None: it has no head yet (zero-shot)
    make: MakeHandler
    encode: Encode

    @property
    def next_options(self) -> dict[str, Any]:
        """Options of the handler with the offered bundle."""
        options = {**self.config.options, "head" if self.kind == "text" else "model": self.name}
        if self.manifest is None:
            options.pop("labels", None)
        return options

    def view(self, calibrated: float | None) -> TierView:
        """As the policy sees it."""
        accept = self.config.accept if self.config.accept is not None else calibrated
        low_high = self.config.abstain
        return TierView(
            name=self.tier,
            accept=DEFAULT_ACCEPT if accept is None else accept,
            max_novelty=self.config.max_novelty,
            abstain=(low_high[0], low_high[1]) if low_high else None,
        )


class DistillReport(msgspec.Struct, frozen=True, kw_only=True):
    """What is offered, and how both did."""

    route: str
    name: str
    folder: Path
    n_fitted: int
    n_rehearsals_fitted: int
    n_unusable: int
    labels: Mapping[str, int]  # of the lessons
    present: Figures
    offered: Figures
    offered_accept: float  # the threshold that was chosen for the offer
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Parts:
    """Lessons by what they are for, each in order of time."""

    fit: Sequence[Lesson]
    rehearse: Sequence[Lesson]
    calibrate: Sequence[Lesson]
    judge: Sequence[Lesson]
    kept_back: Sequence[Lesson]  # rehearsals to judge forgetting by


def split(route: str, lessons: Iterable[Lesson]) -> Parts:
    """By time. A lesson that was kept twice (a crash repeats work) counts once. Raises ModelError: too few."""
    ordered = sorted({each.key: each for each in lessons}.values(), key=lambda each: each.time)
    taught = [each for each in ordered if not each.is_rehearsal]
    if len(taught) < MIN_LESSONS:
        raise ModelError(
            f"route {route} has {len(taught)} lessons: {MIN_LESSONS} are needed, some hundreds are better; "
            "they come with every answer of a higher tier while routes.<name>.escalation.lessons is true"
        )
    first, second = round(len(taught) * FIT_SHARE), round(len(taught) * (1 - JUDGE_SHARE))
    until = taught[first].time
    return Parts(
        fit=taught[:first],
        rehearse=[each for each in ordered if each.is_rehearsal and each.time < until],
        calibrate=taught[first:second],
        judge=taught[second:],
        kept_back=[each for each in ordered if each.is_rehearsal and each.time >= until],
    )


def distill(
    route: str,
    student: Student,
    lessons: Iterable[Lesson],
    store: ModelStore,
    models_dir: Path,
    config: schema.Models,
    *,
    also: Sequence[Path] = (),
    label_column: str = "label",
    accuracy: float = 0.95,
    seed: int = 0,
) -> DistillReport:
    """Fit, calibrate and judge the next student; write it as an offer. Raises ModelError or ConfigError."""
    usable, n_unusable = _usable(student, lessons)
    parts = split(route, usable)
    fit = _fit_text if student.kind == "text" else _fit_series
    with tempfile.TemporaryDirectory(prefix="gatewayd-distill-") as scratch:
        try:
            fit(student, parts, Path(scratch), models_dir, also, label_column, seed)
        except (ConfigError, ModelError) as error:
            raise ModelError(f"{error} (lessons of route {route}; labeled texts can be added with --also)") from error
    offers = ModelStore(offers_dir(models_dir), config)
    models = Offered(offers, store, student.name)
    notes: list[str] = []
    accept = _calibrate(student, parts, models, models_dir, accuracy, notes)
    offers.close()  # it was written anew
    report = _judged(route, student, parts, store, models, accept, models_dir)
    offers.close()
    labels = Counter(each.label for each in usable if not each.is_rehearsal)
    report = msgspec.structs.replace(report, n_unusable=n_unusable, labels=dict(labels.most_common()), notes=notes)
    keep_report(models_dir, student.name, msgspec.to_builtins(report, enc_hook=str))
    return report


def next_version(version: str) -> str:
    """Of the student after the one with this version: "1" and "1+cal2" give "2"."""
    found = re.match(r"(\d+)", version)
    return str(int(found[1]) + 1) if found else f"{version.partition('+')[0][:48]}.next"


def _judged(
    route: str, student: Student, parts: Parts, store: ModelStore, models: Offered, accept: float, models_dir: Path
) -> DistillReport:
    judged, kept_back = _samples(student, parts.judge), _samples(student, parts.kept_back)
    present = Heard(student.make(student.config.options), store, student.tier)
    view = student.view(present.calibrations.accept)
    old = judge(present, view, judged, kept_back)
    present.handler.stop()
    offered = Heard(student.make(student.next_options), models, student.tier)
    new = judge(offered, view, judged, kept_back)
    offered.handler.stop()
    return DistillReport(
        route=route,
        name=student.name,
        folder=offers_dir(models_dir) / student.name,
        n_fitted=len(parts.fit),
        n_rehearsals_fitted=len(parts.rehearse),
        n_unusable=0,
        labels={},
        present=old,
        offered=new,
        offered_accept=accept,
        notes=[],
    )


def _calibrate(
    student: Student, parts: Parts, models: Offered, models_dir: Path, accuracy: float, notes: list[str]
) -> float:
    """Fit the offer's confidence on lessons it was not fitted on; the threshold. What it was fitted on is not new."""
    known = set(models.get(student.name).labels)
    after = sorted((*parts.calibrate, *parts.judge, *parts.kept_back), key=lambda each: each.time)
    later = [each for each in after if each.label in known]
    if n_unknown := len(after) - len(later):
        notes.append(f"{n_unknown} later lessons have labels that the earlier ones do not: they count as wrong")
    earlier = [each for each in (*parts.fit, *parts.rehearse) if each.label in known]
    handler = student.make(student.next_options)
    try:
        done = calibrate(
            cast("ModelStore", models),
            offers_dir(models_dir),
            student.name,
            handler=handler,
            labeled=_labeled(student, later),
            goal=Goal(accuracy=accuracy),
            seen=_labeled(student, earlier),
        )
    except ModelError as error:
        notes.append(f"its confidence is not calibrated: {error}")
        return DEFAULT_ACCEPT
    notes.extend(done.report.warnings)
    return done.report.accept


def _usable(student: Student, lessons: Iterable[Lesson]) -> tuple[list[Lesson], int]:
    usable, n_unusable = [], 0
    for each in lessons:
        content = _text(student, each) if student.kind == "text" else _window(student, each)
        if content:
            usable.append(each)
        else:
            n_unusable += 1
    return usable, n_unusable


def _text(student: Student, lesson: Lesson) -> str:
    value = lesson.value
    for name in str(student.config.options.get("field", "")).split("."):
        if name:
            value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, str) and value.strip() else ""


def _window(student: Student, lesson: Lesson) -> list[list[float]]:
    """The rows that the student judged: its handler's evidence."""
    assert student.manifest is not None
    value = lesson.value
    rows = value.get("window") if lesson.is_evidence and isinstance(value, Mapping) else None
    fits = isinstance(rows, list) and len(rows) == student.manifest.input.get("window")
    return rows if fits and isinstance(rows, list) else []


def _samples(student: Student, lessons: Sequence[Lesson]) -> list[Sample]:
    """As the student's handler gets them; keys are places in what all of them have together."""
    samples, at = [], 0
    for number, each in enumerate(lessons):
        values = [each.value] if student.kind == "text" else _rows(student, each, number)
        topic = each.topic if student.kind == "text" else f"lesson/{number}"
        messages = [
            Message(topic=topic, value=value, time=float(at + offset), key=str(at + offset))
            for offset, value in enumerate(values)
        ]
        samples.append(Sample(messages=messages, label=each.label))
        at += len(messages)
    return samples


def _rows(student: Student, lesson: Lesson, number: int) -> list[dict[str, Any]]:
    assert student.manifest is not None
    fields = student.config.options.get("fields") or student.manifest.input["fields"]
    device = str(student.config.options.get("device", "topic"))
    named = {} if device == "topic" else {device: f"lesson {number}"}
    return [{**dict(zip(fields, row, strict=True)), **named} for row in _window(student, lesson)]


def _labeled(student: Student, lessons: Sequence[Lesson]) -> Labeled:
    samples = _samples(student, lessons)
    messages = [message for sample in samples for message in sample.messages]
    return Labeled(messages, [sample.label for sample in samples for _ in sample.messages])


def _fit_text(
    student: Student, parts: Parts, scratch: Path, models_dir: Path, also: Sequence[Path], label: str, seed: int
) -> None:
    encoder = str(student.config.options.get("model", "minilm-int8"))
    known = student.manifest.input if student.manifest is not None else student.config.options
    max_tokens, mask = int(known.get("max_tokens", 128)), bool(known.get("mask_numbers", True))
    texts = scratch / "lessons.ndjson"
    rows = [{"text": _text(student, each), label: each.label} for each in (*parts.fit, *parts.rehearse)]
    texts.write_text("\n".join(json.dumps(row) for row in rows))
    fit_text(
        [texts, *also],
        offers_dir(models_dir),
        name=student.name,
        encoder=models_dir / encoder,
        encode=student.encode(encoder, max_tokens, mask),
        label_column=label,
        version=_version(student),
        max_tokens=max_tokens,
        mask_numbers=mask,
        seed=seed,
    )


def _fit_series(
    student: Student, parts: Parts, scratch: Path, models_dir: Path, also: Sequence[Path], label: str, seed: int
) -> None:
    """Every lesson is a device of its own, so that no window spans two."""
    assert student.manifest is not None
    if also:
        raise ModelError("recordings of series cannot be added: fit them again with `gatewayd models fit`")
    fields, window = list(student.manifest.input["fields"]), int(student.manifest.input["window"])
    path = scratch / "lessons.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*fields, label, "lesson"])
        for number, each in enumerate(sorted((*parts.fit, *parts.rehearse), key=lambda each: each.time)):
            writer.writerows([*row, each.label, number] for row in _window(student, each))
    fit_series(
        [path],
        offers_dir(models_dir),
        name=student.name,
        version=_version(student),
        fields=fields,
        label_column=label,
        device_column="lesson",
        window=window,
        seed=seed,
    )


def _version(student: Student) -> str:
    return "1" if student.manifest is None else next_version(student.manifest.version)
