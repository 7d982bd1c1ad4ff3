"""`gatewayd models distill`: the next student, fitted on what better tiers answered, offered beside the present one.

Invariants: the present bundle is not touched; what judges was not fitted on, and is later in time than all that was;
both students are judged on the same lessons. What the present student was sure of (rehearsals) and the recordings given
with it are fitted on as well, so that the next one does not forget what the lessons do not tell.

Needs the extra `fit`; imported by the command that distills, never by the daemon.
"""

import csv
import json
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import msgspec
import structlog

from gatewayd.cascade.confidence import NOVELTY_TABLE, TABLE
from gatewayd.cascade.lesson_files import Lesson
from gatewayd.cascade.policy import DEFAULT_ACCEPT
from gatewayd.config import schema
from gatewayd.errors import ConfigError, ModelError
from gatewayd.models.bundle import Verifier, read_bundle
from gatewayd.models.calibrate import Goal, calibrate
from gatewayd.models.distill_data import Parts, Student, labeled_of, samples_of, split, text_of, usable_of, window_of
from gatewayd.models.distill_judge import Figures, Heard, judge
from gatewayd.models.fit_series import fit_series
from gatewayd.models.fit_text import fit_text
from gatewayd.models.offers import Offered, keep_report, offers_dir
from gatewayd.models.store import ModelStore
from gatewayd.models.write import write_bundle

log = structlog.get_logger(__name__)


class DistillReport(msgspec.Struct, frozen=True, kw_only=True):
    """What is offered, and how both did."""

    route: str
    name: str
    folder: Path
    n_fitted: int
    n_rehearsals_fitted: int
    n_unusable: int
    is_whole: bool  # after it was judged it was fitted on the latest lessons too
    labels: Mapping[str, int]  # of the lessons
    present: Figures
    offered: Figures
    offered_accept: float  # the threshold that was chosen for the offer
    notes: list[str]


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
    usable, n_unusable = usable_of(student, lessons)
    parts = split(route, usable)
    fit = partial(_fit, student, models_dir=models_dir, also=also, label=label_column, seed=seed)
    try:
        fit((*parts.fit, *parts.rehearse))
    except (ConfigError, ModelError) as error:
        raise ModelError(f"{error} (lessons of route {route}; labeled texts can be added with --also)") from error
    offers = ModelStore(offers_dir(models_dir), config)
    models = Offered(offers, store, student.name)
    notes: list[str] = []
    accept = _calibrate(student, parts, models, models_dir, accuracy, notes)
    offers.close()  # it was written anew
    report = _judged(route, student, parts, store, models, accept, models_dir)
    offers.close()
    is_whole = _fit_on_all(student, parts, models, offers, report.offered, fit, models_dir)
    labels = Counter(each.label for each in usable if not each.is_rehearsal)
    report = msgspec.structs.replace(
        report, n_unusable=n_unusable, labels=dict(labels.most_common()), is_whole=is_whole, notes=notes
    )
    keep_report(models_dir, student.name, msgspec.to_builtins(report, enc_hook=str))
    return report


def next_version(version: str) -> str:
    """Of the student after the one with this version: "1" and "1+cal2" give "2"."""
    found = re.match(r"(\d+)", version)
    return str(int(found[1]) + 1) if found else f"{version.partition('+')[0][:48]}.next"


def _judged(
    route: str, student: Student, parts: Parts, store: ModelStore, models: Offered, accept: float, models_dir: Path
) -> DistillReport:
    judged, kept_back = samples_of(student, parts.judge), samples_of(student, parts.kept_back)
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
        is_whole=False,
        labels={},
        present=old,
        offered=new,
        offered_accept=accept,
        notes=[],
    )


def _fit_on_all(
    student: Student,
    parts: Parts,
    models: Offered,
    offers: ModelStore,
    judged: Figures,
    fit: Callable[[Sequence[Lesson]], None],
    models_dir: Path,
) -> bool:
    """Fit once more, on the latest lessons too, with the confidence that was fitted when they were held out.

    Taken only where it answers those lessons no worse than the one that had not seen them; else that one stays.
    """
    place = offers_dir(models_dir) / student.name
    aside = place.with_name(f".{student.name}.judged")
    shutil.rmtree(aside, ignore_errors=True)
    place.rename(aside)
    try:
        fit((*parts.fit, *parts.calibrate, *parts.judge, *parts.rehearse, *parts.kept_back))
        _carry_over(aside, place, student.name)
        heard = Heard(student.make(student.next_options), models, student.tier)
        now = judge(
            heard, student.view(judged.accept), samples_of(student, parts.judge), samples_of(student, parts.kept_back)
        )
        heard.handler.stop()
        is_better = now.accuracy >= judged.accuracy and now.escalation_rate <= judged.escalation_rate
        if is_better and not now.still_sure < judged.still_sure:
            shutil.rmtree(aside)
            return True
    except ModelError as error:
        log.warning("the student could not be fitted on all lessons", cause=str(error))
    shutil.rmtree(place, ignore_errors=True)
    aside.rename(place)
    offers.close()
    return False


def _carry_over(judged: Path, place: Path, name: str) -> None:
    """What was fitted on held-out lessons, into the bundle that was fitted on all: confidence, novelty, version."""
    old = read_bundle(judged, name=name)
    new = read_bundle(place, name=name)
    files: dict[str, Any] = dict(Verifier().verify(new))
    table = dict(new.manifest.calibration)
    table |= {key: value for key, value in old.manifest.calibration.items() if key in (TABLE, NOVELTY_TABLE)}
    if (guard := Verifier().verify(old).get(NOVELTY_TABLE)) is not None:
        files[NOVELTY_TABLE] = guard.read_bytes()
    fields = {
        key: getattr(new.manifest, key) for key in ("runtime", "task", "licence", "description", "labels", "input")
    }
    write_bundle(
        place.parent, name=name, version=old.manifest.version, files=files, calibration=table,
        session=new.manifest.session, **fields,
    )  # fmt: skip


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
            labeled=labeled_of(student, later),
            goal=Goal(accuracy=accuracy),
            seen=labeled_of(student, earlier),
        )
    except ModelError as error:
        notes.append(f"its confidence is not calibrated: {error}")
        return DEFAULT_ACCEPT
    notes.extend(done.report.warnings)
    return done.report.accept


def _fit(
    student: Student, lessons: Sequence[Lesson], *, models_dir: Path, also: Sequence[Path], label: str, seed: int
) -> None:
    with tempfile.TemporaryDirectory(prefix="gatewayd-distill-") as scratch:
        fit = _fit_text if student.kind == "text" else _fit_series
        fit(student, sorted(lessons, key=lambda each: each.time), Path(scratch), models_dir, also, label, seed)


def _fit_text(
    student: Student, lessons: Sequence[Lesson], scratch: Path, models_dir: Path, also: Sequence[Path], label: str,
    seed: int,
) -> None:  # fmt: skip
    encoder = str(student.config.options.get("model", "minilm-int8"))
    known = student.manifest.input if student.manifest is not None else student.config.options
    max_tokens, mask = int(known.get("max_tokens", 128)), bool(known.get("mask_numbers", True))
    texts = scratch / "lessons.ndjson"
    texts.write_text("\n".join(json.dumps({"text": text_of(student, each), label: each.label}) for each in lessons))
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
    student: Student, lessons: Sequence[Lesson], scratch: Path, models_dir: Path, also: Sequence[Path], label: str,
    seed: int,
) -> None:  # fmt: skip
    """Every lesson is a device of its own, so that no window spans two."""
    assert student.manifest is not None
    if also:
        raise ModelError("recordings of series cannot be added: fit them again with `gatewayd models fit`")
    fields, window = list(student.manifest.input["fields"]), int(student.manifest.input["window"])
    path = scratch / "lessons.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*fields, label, "lesson"])
        for number, each in enumerate(lessons):
            writer.writerows([*row, each.label, number] for row in window_of(student, each))
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
