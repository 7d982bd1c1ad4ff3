"""The cascade on labeled text (BGL) and labeled series (SKAB valve1): calls saved, quality kept, confidence calibrated.

    GATEWAYD_DATA=DIR python -m benchmarks.cascade_quality [--only text,series] [--out benchmarks/results]

The "cloud" knows the true labels. Every split is by time: the student is fitted on the oldest part, calibrated by the
code of `gatewayd models calibrate` on the next, and meets the newest part for the first time when it is judged. The
goal is stated beforehand: 10 % of the messages handed on, repeats counted once. Beside it in the same run: the same
student without calibration at a fixed 0.9, escalation by lot at the cascade's own rate, and a cloud that remembers.

Wanted: at least 85 % fewer calls at 95 % or more of the cloud's F1 (which is 1), calibration error at most 0.05. Of
SKAB the rows just after a change of state are not judged for that (see `_settled`); those of all rows stand below it.
Exit status: 0; 1 when a part did not reach what is wanted; 2 when there are no recordings or no models.
"""

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import structlog

from benchmarks import cascade_run as cascade
from benchmarks import novelty_cost
from benchmarks import quality_text as texts
from benchmarks.cascade_pictures import calls_chart
from benchmarks.cascade_run import Heard
from benchmarks.quality import FOLDERS, MissingError, bundles, recordings
from gatewayd.api import Handler
from gatewayd.config.schema import Models as ModelsConfig
from gatewayd.models.calibrate import CalibrationReport, Goal, calibrate
from gatewayd.models.calibrate_fit import reliability
from gatewayd.models.calibrate_picture import reliability_svg
from gatewayd.models.calibrate_run import Labeled, read_labeled_series, read_labeled_texts
from gatewayd.models.fit_series import fit_series
from gatewayd.models.store import ModelStore
from gatewayd_handlers.classify_series import ClassifySeries
from gatewayd_handlers.classify_text import ClassifyText

GOAL = Goal(escalation_rate=0.1, repeats_once=True)
WANTED = {"fewer_calls": 0.85, "f1": 0.95, "ece": 0.05}
HINDSIGHT_CALLS = 1 - WANTED["fewer_calls"]  # the best any threshold could have done: a bound, not a result
HALF, QUARTER = 1000, 1500  # lines of BGL: half to fit on, a quarter to calibrate, a quarter to judge
ROLLING = tuple((cut, cut + 400, cut + 800) for cut in (800, 900, 1000, 1100, 1200))  # five more, each later in time
KNOWN, SEEN = range(4), range(4, 6)  # files of SKAB valve1, in order of time; 6 and 7 judge
WINDOW = 60  # rows, as `gatewayd models fit` takes
PICTURES = Path(__file__).parents[1] / "docs" / "guides" / "pictures"


def text_part(data: Path, models: Path) -> dict[str, Any]:
    """BGL: one conventional split, judged with and without a cloud that remembers, and five rolling ones."""
    corpus = texts.bgl(data)
    heard, report = _hear_text(corpus, models, HALF, QUARTER, len(corpus.lines))
    _pictures("bgl", "BGL, 500 newest lines", heard, report, recall="template")
    rolling = [_rolled(corpus, models, *cuts) for cuts in ROLLING]
    return {
        "what": "BGL, 2,000 log lines: alert or normal; fitted on 1,000, calibrated on 500, judged on the 500 newest",
        **_figures(heard, report, recall="template"),
        "rolling": rolling,
        "rolling_median": {
            key: round(statistics.median(each[key] for each in rolling), 4) for key in ("calls", "f1", "ece")
        },
    }


def _rolled(corpus: texts.Bgl, models: Path, fitted: int, calibrated: int, judged: int) -> dict[str, Any]:
    heard, report = _hear_text(corpus, models, fitted, calibrated, judged)
    found = _figures(heard, report, recall="template")
    ours = found["rows"]["cascade, cloud remembers"]
    return {
        "judged": f"{calibrated}-{judged}",
        "positives": found["positives"],
        "student_f1": found["rows"]["student alone"]["f1"],
        "f1_without_recall": found["rows"]["cascade"]["f1"],
        "calls_without_recall": found["rows"]["cascade"]["calls"],
        "calls_cloud_remembers": found["rows"]["cloud alone that remembers"]["calls"],
        "calls": ours["calls"],
        "f1": ours["f1"],
        "ece": found["ece"],
    }


def _hear_text(
    corpus: texts.Bgl, models: Path, fitted: int, calibrated: int, judged: int
) -> tuple[Heard, CalibrationReport]:
    store = ModelStore(models, ModelsConfig())
    texts.fit_head(corpus, range(fitted), models, name="head", encode=texts.encoder(store), seed=0, hints=False)
    store.close()

    report = _calibrate(models, "head", _head_handler(), _lines(corpus, fitted, calibrated))
    store = ModelStore(models, ModelsConfig())
    labels = store.get("head").labels
    return cascade.hear(_head_handler(), store, _lines(corpus, calibrated, judged), labels, "alert"), report


def _head_handler() -> Handler:
    options = {"model": texts.ENCODER, "head": "head", "max_measure_ms": 0}
    return ClassifyText(msgspec.convert(options, ClassifyText.Config))  # type: ignore[arg-type]


def _lines(corpus: texts.Bgl, start: int, end: int) -> Labeled:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lines.ndjson"
        rows = [{"text": corpus.lines[at], "label": corpus.labels[at]} for at in range(start, end)]
        path.write_text("\n".join(json.dumps(row) for row in rows))
        return read_labeled_texts([path])


def series_part(data: Path, models: Path) -> dict[str, Any]:
    """SKAB valve1: four files to fit on, two to calibrate, two to judge, in order of time."""
    files = [data / f"skab_valve1_{number}.csv" for number in range(8)]
    known, seen, new = ([files[at] for at in some] for some in (KNOWN, SEEN, range(SEEN.stop, 8)))
    fit_series(known, models, name="valve", label_column="anomaly", ignore=("changepoint",), window=WINDOW)
    report = _calibrate(models, "valve", _valve(), _readings(models, seen))
    store = ModelStore(models, ModelsConfig())
    labels = store.get("valve").labels
    strict = cascade.hear(_valve(), store, _readings(models, new), labels, labels[1])
    settled = replace(strict, judged=_settled(strict.truth, WINDOW))
    _pictures("skab", "SKAB valve1, files 6 and 7", settled, report, recall="off")
    return {
        "what": f"SKAB valve1 at 1 Hz: files 0-3 fitted on, 4-5 calibrated on, 6-7 judged; windows of {WINDOW} s",
        "strict": _figures(strict, report, recall="off"),
        **_figures(settled, report, recall="off"),
    }


def _settled(truth: Sequence[str], window: int) -> Any:
    """Rows whose window lies in one state: after a change of the truth a window of rows is not judged.

    A valve that is being closed shows in the flow some 50 s after the label says so, and a window that spans both
    states has no one label. Stated beforehand, and the same for every row of the table.
    """
    states = np.array(truth)
    changes = np.flatnonzero(states[1:] != states[:-1]) + 1
    judged = np.ones(len(states), np.bool_)
    for at in changes.tolist():
        judged[at : at + window] = False
    return judged


def _valve() -> Handler:
    return ClassifySeries(msgspec.convert({"model": "valve"}, ClassifySeries.Config))  # type: ignore[arg-type]


def _readings(models: Path, files: Sequence[Path]) -> Labeled:
    expects = ModelStore(models, ModelsConfig()).get("valve").input
    fields, interval_s = list(expects["fields"]), float(expects["interval_s"])
    return read_labeled_series(files, fields=fields, label_column="anomaly", window=WINDOW, interval_s=interval_s)


def _calibrate(models: Path, name: str, handler: Handler, labeled: Labeled) -> CalibrationReport:
    store = ModelStore(models, ModelsConfig())
    done = calibrate(store, models, name, handler=handler, labeled=labeled, goal=GOAL)
    store.close()
    return done.report


def _figures(heard: Heard, report: CalibrationReport, *, recall: str) -> dict[str, Any]:
    """Ours beside the baselines, on the same stream."""
    ours = cascade.run(heard, accept=heard.accept)
    rows = {
        "cloud alone": cascade.run(heard, accept=1.01),
        "student alone": cascade.run(heard, accept=0.0, max_novelty=0.0),
        "student, not calibrated, at 0.9": cascade.run(heard, accept=0.9, bare=True),
        "by lot, at the cascade's rate": cascade.at_random(heard, ours.handed_on),
        "cascade": ours,
    }
    if recall != "off":
        rows["cloud alone that remembers"] = cascade.run(heard, accept=1.01, recall=recall)
        rows["cascade, cloud remembers"] = cascade.run(heard, accept=heard.accept, recall=recall)
    last = list(rows.values())[-1]
    error = cascade.ece(heard.confidences[heard.judged], heard.right[heard.judged])
    reached = {
        "fewer_calls": 1 - last.calls >= WANTED["fewer_calls"],
        "f1": last.f1 >= WANTED["f1"],
        "ece": error <= WANTED["ece"],
    }
    return {
        "messages": len(heard.verdicts),
        "judged": int(heard.judged.sum()),
        "positives": heard.truth.count(heard.positive),
        "method": report.method,
        "accept": round(heard.accept, 6),
        "ece_bare_scores": round(cascade.ece(heard.scores[heard.judged], heard.right[heard.judged]), 4),
        "ece": round(error, 4),
        "rows": {name: each.row() for name, each in rows.items()},
        "hindsight_f1": round(max(f1 for calls, f1 in cascade.curve(heard) if calls <= HINDSIGHT_CALLS), 4),
        "reached": reached,
    }


def _pictures(name: str, title: str, heard: Heard, report: CalibrationReport, *, recall: str) -> None:
    """The calibration curve and F1 over calls, of the messages judged."""
    PICTURES.mkdir(exist_ok=True)
    right = heard.right[heard.judged]
    before, after = (reliability(each[heard.judged], right) for each in (heard.scores, heard.confidences))
    errors = [cascade.ece(each[heard.judged], right) for each in (heard.scores, heard.confidences)]
    said = (
        f"{int(heard.judged.sum())} answers, newest part",
        f"ECE of bare scores {errors[0]:.3f}",
        f"ECE {errors[1]:.3f} ({report.method})",
        "15 bins of equal mass",
    )
    (PICTURES / f"cascade-{name}-calibration.svg").write_text(reliability_svg(title, before, after, said=said))
    names = {"least sure first": "off"} | ({} if recall == "off" else {"the cloud remembers": recall})
    lines = {each: cascade.curve(heard, recall=how) for each, how in names.items()}
    chosen = {each: cascade.run(heard, accept=heard.accept, recall=how) for each, how in names.items()}
    picture = calls_chart(
        title,
        {**lines, "by lot": cascade.random_curve(heard)},
        {each: (found.calls, found.f1) for each, found in chosen.items()},
        (1 - WANTED["fewer_calls"], WANTED["f1"]),
    )
    (PICTURES / f"cascade-{name}-calls.svg").write_text(picture)


def shown(part: str, found: dict[str, Any]) -> str:
    """A part as a table."""
    lines = [f"## {part}: {found['what']}", ""] if "what" in found else [f"### {part}", ""]
    lines += [
        f"{found['messages']} messages, {found['judged']} judged, {found['positives']} of the rarer label; "
        f"calibration error {found['ece_bare_scores']:.3f} of bare scores, {found['ece']:.3f} calibrated "
        f"({found['method']}), accept {found['accept']:.4f}; the best threshold in hindsight, without recall, within "
        f"{HINDSIGHT_CALLS:.0%} of calls: F1 {found['hindsight_f1']:.3f}",
        "",
        "| | F1 | accuracy | handed on | calls | fewer calls |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, row in found["rows"].items():
        cells = (f"{row[key]:.3f}" for key in ("f1", "accuracy", "handed_on", "calls", "fewer_calls"))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", f"reached: {', '.join(f'{key} {ok}' for key, ok in found['reached'].items())}", ""]
    if "strict" in found:
        lines += [shown("every row judged, those just after a change of state too", found["strict"])]
    for row in found.get("rolling", ()):
        lines.append(json.dumps(row))
    if "rolling_median" in found:
        lines.append(f"median of five: {json.dumps(found['rolling_median'])}")
    return "\n".join(lines)


PARTS = {"text": text_part, "series": series_part}


def run(arguments: argparse.Namespace) -> int:
    """Run the parts, print and write them; the exit status. Raises MissingError."""
    began = time.monotonic()
    parts: dict[str, Any] = {}
    for part in arguments.only:
        folder = recordings(arguments.data, part)
        with tempfile.TemporaryDirectory(prefix="gatewayd-models-") as work:
            bundles(part, Path(work))
            parts[part] = PARTS[part](folder, Path(work))
        print(shown(part, parts[part]), flush=True)
    results = {"what": "cascade_quality", "goal": str(GOAL), "wanted": WANTED, "parts": parts}
    results["novelty_us"] = novelty_cost.measured()
    print(f"novelty, microseconds a message: {json.dumps(results['novelty_us'], indent=1)}")
    results |= {"seconds": round(time.monotonic() - began), "cores": os.cpu_count()}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "cascade_quality.json").write_text(json.dumps(results, indent=1) + "\n")
    return 0 if all(all(part["reached"].values()) for part in parts.values()) else 1


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("GATEWAYD_DATA"), help="folder of the recordings")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(PARTS), help="parts, commas between")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the results")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    if arguments.data is None or not set(arguments.only) <= set(FOLDERS):
        parser.error("give --data DIR or set GATEWAYD_DATA; --only text,series")
    try:
        sys.exit(run(arguments))
    except MissingError as exc:
        print(exc, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
