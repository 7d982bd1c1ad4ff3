"""Lessons as a student of this kind is fitted and judged on them: texts, or windows of a series.

Invariant: parts are by time. What judges is later than all that was fitted on, and a lesson that was kept twice (a
crash repeats work) counts once.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gatewayd.api import Handler, Message
from gatewayd.cascade.lesson_files import Lesson
from gatewayd.cascade.policy import DEFAULT_ACCEPT, TierView
from gatewayd.config.tiers import HandlerTier
from gatewayd.errors import ModelError
from gatewayd.models.bundle import Manifest
from gatewayd.models.calibrate_run import Labeled
from gatewayd.models.distill_judge import Sample

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


def usable_of(student: Student, lessons: Iterable[Lesson]) -> tuple[list[Lesson], int]:
    """The lessons that hold what this kind of student reads, and how many do not."""
    usable, n_unusable = [], 0
    for each in lessons:
        content = text_of(student, each) if student.kind == "text" else window_of(student, each)
        if content:
            usable.append(each)
        else:
            n_unusable += 1
    return usable, n_unusable


def text_of(student: Student, lesson: Lesson) -> str:
    """Where the student's handler reads it; "" where there is none."""
    value = lesson.value
    for name in str(student.config.options.get("field", "")).split("."):
        if name:
            value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, str) and value.strip() else ""


def window_of(student: Student, lesson: Lesson) -> list[list[float]]:
    """The rows that the student judged: its handler's evidence."""
    assert student.manifest is not None
    value = lesson.value
    rows = value.get("window") if lesson.is_evidence and isinstance(value, Mapping) else None
    fits = isinstance(rows, list) and len(rows) == student.manifest.input.get("window")
    return rows if fits and isinstance(rows, list) else []


def samples_of(student: Student, lessons: Sequence[Lesson]) -> list[Sample]:
    """As the student's handler gets them; keys are places in what all of them have together."""
    samples, at = [], 0
    for number, each in enumerate(lessons):
        values = [each.value] if student.kind == "text" else rows_of(student, each, number)
        topic = each.topic if student.kind == "text" else f"lesson/{number}"
        messages = [
            Message(topic=topic, value=value, time=float(at + offset), key=str(at + offset))
            for offset, value in enumerate(values)
        ]
        samples.append(Sample(messages=messages, label=each.label))
        at += len(messages)
    return samples


def rows_of(student: Student, lesson: Lesson, number: int) -> list[dict[str, Any]]:
    assert student.manifest is not None
    fields = student.config.options.get("fields") or student.manifest.input["fields"]
    device = str(student.config.options.get("device", "topic"))
    named = {} if device == "topic" else {device: f"lesson {number}"}
    return [{**dict(zip(fields, row, strict=True)), **named} for row in window_of(student, lesson)]


def labeled_of(student: Student, lessons: Sequence[Lesson]) -> Labeled:
    """As `calibrate` takes them."""
    samples = samples_of(student, lessons)
    messages = [message for sample in samples for message in sample.messages]
    return Labeled(messages, [sample.label for sample in samples for _ in sample.messages])
