"""`gatewayd models calibrate`: how sure a model is, learned from labeled recordings and written into its bundle.

Invariants: the bundle is exchanged as a whole or stays as it was; its files are copied after their digests were
checked; its version says that it was calibrated, so a result tells which thresholds it was judged by. Every figure
reported is of answers that nothing was fitted on.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from gatewayd.api import Handler
from gatewayd.cascade.confidence import NOVELTY_TABLE, TABLE, Calibration
from gatewayd.models import calibrate_fit as fit
from gatewayd.models.bundle import Bundle, Verifier, read_bundle
from gatewayd.models.calibrate_run import Heard, Labeled, Progress, hear
from gatewayd.models.fit_head import require_sklearn
from gatewayd.models.novelty import Guard, fit_guard
from gatewayd.models.store import ModelStore
from gatewayd.models.write import write_bundle

GOOD_ECE = 0.05
_SUFFIX = re.compile(r"\+cal(\d+)$")
_MAX_VERSION_CHARS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What the threshold is chosen for: one of the two."""

    accuracy: float | None = None  # of the answers that are taken
    escalation_rate: float | None = None  # of all answers, those that are handed on
    repeats_once: bool = False  # of those handed on what repeats counts once: the tier above remembers

    def __str__(self) -> str:
        if self.accuracy is not None:
            return f"accuracy of what is taken >= {self.accuracy:g}"
        return f"share handed on <= {self.escalation_rate:g}" + (", repeats once" if self.repeats_once else "")


class CalibrationReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was found out, and what stands in the bundle now."""

    folder: Path
    version: str
    labels: tuple[str, ...]
    samples: int
    rejected: int  # by the handler
    without_answer: int  # the window was not full, or the handler said "unknown"
    fitted_on: int  # answers, the earlier ones
    judged_on: int  # answers, the later ones
    independent: int  # of those judged on: lines that repeat and windows that overlap count once
    accuracy: float  # of the answers judged on
    method: str
    temperature: float
    ece_before: float  # expected calibration error of the bare scores, 15 bins of equal mass
    ece: float  # of the confidences
    eces: Mapping[str, float]  # of every method tried
    goal: str
    accept: float  # from this confidence on an answer is taken
    taken: int  # answers judged on that are
    taken_accuracy: float  # NaN: none is
    taken_accuracy_low: float  # lower bound, one-sided 90 %
    escalation_rate: float
    novelty_radius: float  # 0: no guard, the handler gives no points or too few
    novelty_prototypes: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Calibrated:
    """The report, and what its picture shows."""

    report: CalibrationReport
    before: list[fit.Bin]
    after: list[fit.Bin]


def calibrate(
    store: ModelStore,
    models_dir: Path,
    name: str,
    *,
    handler: Handler,
    labeled: Labeled,
    goal: Goal,
    progress: Progress = lambda _done, _total: None,
    seen: Labeled | None = None,
) -> Calibrated:
    """Run the samples, fit on the earlier half, choose and judge on the later half, write the bundle `name` anew.

    `seen`: more inputs that are not new (what the model was fitted on): for the novelty guard alone.

    Raises ModelError naming what to do: labels unknown to the model, one label only, too few samples.
    """
    require_sklearn()
    model = store.get(name)
    heard = hear(handler, store, model, labeled, progress)
    earlier, later = fit.split_by_time(heard.answers)
    chosen = fit.choose(earlier, later)
    threshold = _threshold(chosen, later, goal)
    known = hear(handler, store, model, seen) if seen is not None else None
    guard = _guard([heard] if known is None else [heard, known], labeled.overlap)
    bundle = read_bundle(models_dir / name, name=name)
    version = next_version(bundle.manifest.version)
    calibration = msgspec.structs.replace(chosen.calibration, accept=threshold.accept)
    folder = _write(models_dir, bundle, version, calibration, guard, goal)
    report = _report(folder, version, heard, (earlier, later), chosen, threshold, guard, goal)
    bare = fit.confidences_of(Calibration(), later)
    return Calibrated(report, fit.reliability(bare, later.right), fit.reliability(chosen.confidences, chosen.right))


def next_version(version: str) -> str:
    """The version of a bundle that was calibrated once more: "1", "1+cal1", "1+cal2"."""
    found = _SUFFIX.search(version)
    number = int(found.group(1)) + 1 if found else 1
    suffix = f"+cal{number}"
    return _SUFFIX.sub("", version)[: _MAX_VERSION_CHARS - len(suffix)] + suffix


def _threshold(chosen: fit.Chosen, later: fit.Answers, goal: Goal) -> fit.Threshold:
    if goal.accuracy is not None:
        return fit.threshold_for_accuracy(chosen.confidences, later, goal.accuracy)
    assert goal.escalation_rate is not None
    return fit.threshold_for_rate(chosen.confidences, later, goal.escalation_rate, repeats_once=goal.repeats_once)


def _guard(heard: Sequence[Heard], overlap: int) -> Guard | None:
    """Of all samples: an input like any of them is not new. Those of one recording are far in time from another's."""
    points, at, begin = [], [], 0
    for each in heard:
        if each.points is None:
            return None
        points.append(each.points)
        at.append(each.points_at + begin)
        begin += each.n_samples + overlap
    known = np.concatenate(points)
    are_unit_vectors = bool(np.allclose(np.linalg.norm(known, axis=1), 1.0, atol=1e-3))
    return fit_guard(known, np.concatenate(at), apart=overlap, standardize=not are_unit_vectors)


def _write(
    models_dir: Path, bundle: Bundle, version: str, calibration: Calibration, guard: Guard | None, goal: Goal
) -> Path:
    manifest = bundle.manifest
    files: dict[str, Any] = dict(Verifier().verify(bundle))
    table = {key: value for key, value in manifest.calibration.items() if key not in (TABLE, NOVELTY_TABLE)}
    table[TABLE] = _plain(calibration) | {"goal": str(goal)}
    files.pop(NOVELTY_TABLE, None)  # an earlier calibration's
    if guard is not None:
        files[NOVELTY_TABLE] = guard.content
        table[NOVELTY_TABLE] = {"radius": guard.radius, "prototypes": guard.n_prototypes, "points": guard.n_points}
    return write_bundle(
        models_dir,
        name=manifest.name,
        version=version,
        runtime=manifest.runtime,
        task=manifest.task,
        files=files,
        licence=manifest.licence,
        description=manifest.description,
        labels=manifest.labels,
        input=manifest.input,
        calibration=table,
        session=manifest.session,
    )


def _plain(calibration: Calibration) -> dict[str, Any]:
    """As TOML holds it, without what is as it would be anyway."""
    empty: dict[str, Any] = msgspec.to_builtins(Calibration())
    found: dict[str, Any] = msgspec.to_builtins(calibration)
    return {key: value for key, value in found.items() if key == "method" or value != empty[key]}


def _report(
    folder: Path, version: str, heard: Heard, parts: tuple[fit.Answers, fit.Answers], chosen: fit.Chosen,
    threshold: fit.Threshold, guard: Guard | None, goal: Goal,
) -> CalibrationReport:  # fmt: skip
    earlier, later = parts
    calibration = chosen.calibration
    return CalibrationReport(
        folder=folder, version=version, labels=later.labels, samples=heard.n_samples, rejected=heard.n_rejected,
        without_answer=heard.n_without, fitted_on=len(earlier), judged_on=len(later),
        independent=int(later.n_independent), accuracy=float(later.right.mean()),
        method=calibration.method + (" and bias" if calibration.bias else ""), temperature=calibration.temperature,
        ece_before=calibration.ece_before or 0.0, ece=calibration.ece or 0.0, eces=chosen.eces, goal=str(goal),
        accept=threshold.accept, taken=threshold.n_taken, taken_accuracy=threshold.accuracy,
        taken_accuracy_low=threshold.accuracy_low, escalation_rate=1 - threshold.n_taken / threshold.n,
        novelty_radius=guard.radius if guard else 0.0, novelty_prototypes=guard.n_prototypes if guard else 0,
        warnings=tuple(_warnings(heard, earlier, later, calibration, threshold, goal)),
    )  # fmt: skip


def _warnings(
    heard: Heard, earlier: fit.Answers, later: fit.Answers, calibration: Calibration, threshold: fit.Threshold,
    goal: Goal,
) -> list[str]:  # fmt: skip
    said: list[str] = []
    n_own = int(later.n_independent)
    if not threshold.n_taken:
        said.append("no threshold reaches the accuracy asked for: every answer would be handed on; fit a better model")
    elif not threshold.is_supported and goal.accuracy is not None:
        said.append(
            f"the threshold rests on too few samples: its accuracy may be {threshold.accuracy_low:.3f}; the later half "
            f"has {n_own} that do not repeat each other, {fit.needed(goal.accuracy)} all right would do: label more"
        )
    elif not threshold.is_supported:
        said.append(f"the threshold rests on {n_own} samples that do not repeat each other: the rate may be another")
    if (calibration.ece or 0.0) > GOOD_ECE:
        said.append(f"the calibration error is above {GOOD_ECE}: take confidences for what they are, or label more")
    before, after = float(earlier.right.mean()), float(later.right.mean())
    if abs(before - after) > 0.1:
        said.append(
            f"the earlier half is right in {before:.2f}, the later one in {after:.2f}: what is recorded changes"
        )
    if heard.n_rejected:
        said.append(f"the handler rejected {heard.n_rejected} samples")
    missing = [label for at, label in enumerate(later.labels) if not (later.truth == at).any()]
    if missing:
        said.append(f"the later half has no sample of {', '.join(map(repr, missing))}: nothing here is about those")
    return said
