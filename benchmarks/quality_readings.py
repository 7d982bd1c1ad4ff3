"""SKAB through the gateway: readings row by row, `classify_series` labels and scores back from the cloud.

Four models: fitted on valve1 0-3 and on 4-7, with labels and (on the first normal rows) without. Each file is judged
by the two that have not seen it, in one daemon at once. A row has no result while its device's ring is not full, at
the start and after a gap: such rows are judged both ways, left out and counted as normal.
"""

import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import quality_series as skab
from benchmarks.quality_rig import Event, Events, Feed, Findings, Plan, say, toml
from gatewayd.config.schema import Models as ModelsConfig
from gatewayd.models.store import ModelStore
from gatewayd_handlers.classify_series import DEFAULT_GAP_SAMPLES

KINDS = {"labeled": True, "normal": False}  # of models: with labels, or on rows taken to be normal
MAX_DIFFERENCE = 1e-3  # between a score out of the daemon and one of the handler called directly: batches differ

Score = tuple[float, bool]

_ROUTE = """
[routes.{route}]
topics = ["skab/{side}/+"]
handler = "classify_series"
sinks = ["cloud"]
include_input = true
payload = {{ format = "json", time = "datetime" }}
[routes.{route}.options]
model = {model}
device = "device"
"""


def prepare(data: Path, models: Path) -> Plan:
    """Fit the models into `models` and lay out the routes and feeds."""
    routes, expected, feeds = "", {}, []
    judged: dict[str, tuple[str, dict[str, list[skab.Row]]]] = {}  # by route: model, rows by file
    for side, (known, unknown) in enumerate(skab.split(data)):
        rows = {path.name: skab.read(path) for path in unknown}
        feeds += [Feed(f"skab/{side}/{file}", _messages(file, some)) for file, some in rows.items()]
        for kind, has_labels in KINDS.items():
            say(f"series: fitting a {kind} model on {', '.join(path.name for path in known)}")
            name = f"skab-{kind}-{side}"
            skab.fit(known, models, name=name, labels=has_labels)
            route = f"{kind}_{side}"
            routes += _ROUTE.format(route=route, side=side, model=toml(name))
            expected[route] = sum(map(len, rows.values()))
            judged[route] = (name, rows)
    return Plan(routes, [feeds], expected, lambda events: judge(events, judged, models))


def _messages(file: str, rows: Sequence[skab.Row]) -> list[dict[str, Any]]:
    return [
        {"device": file, "row": number, "datetime": datetime.fromtimestamp(time, UTC).isoformat(), **fields}
        for number, (time, fields, _) in enumerate(rows)
    ]


def judge(events: Events, judged: Mapping[str, tuple[str, Mapping[str, Sequence[skab.Row]]]], models: Path) -> Findings:
    """A line for each file and kind of model, and their means."""
    lines: list[dict[str, Any]] = []
    problems: list[str] = []
    store = ModelStore(models, ModelsConfig())
    for route, (model, rows) in judged.items():
        window, max_gap_s = ring_of(models / model)
        for file, some in rows.items():
            scores = scores_of(events[route], file, len(some))
            problems += wrong_rows(f"{route}, {file}", scores, ready([row[0] for row in some], window, max_gap_s))
            difference = _difference(scores, skab.scores_of(model, store, some))
            if difference > MAX_DIFFERENCE:
                problems.append(f"{route}, {file}: scores differ by {difference:.4f} from the handler called directly")
            lines.append({"fitted": route.split("_")[0], **both_ways(file, scores, [row[2] for row in some])})
    return Findings({"files": lines, "means": means(lines)}, problems)


def ring_of(bundle: Path) -> tuple[int, float]:
    """Rows in a window, and the gap after which a ring begins anew, as the bundle and the handler's default say."""
    expects = tomllib.loads((bundle / "model.toml").read_text())["input"]
    return int(expects["window"]), DEFAULT_GAP_SAMPLES * float(expects["interval_s"]) or float("inf")


def scores_of(events: Sequence[Event], file: str, n_rows: int) -> list[Score | None]:
    """By row: the score of "anomaly" and whether that was the label; None without a result."""
    scores: list[Score | None] = [None] * n_rows
    for event in events:
        data = event["data"]
        if data["input"]["device"] == file:
            scores[data["input"]["row"]] = (data["scores"]["anomaly"], data["label"] == "anomaly")
    return scores


def ready(times: Sequence[float], window: int, max_gap_s: float) -> list[bool]:
    """Whether a row must have a result: `window` rows up to it, none after a gap."""
    full, count, before = [], 0, None
    for time in times:
        is_gap = before is not None and abs(time - before) > max_gap_s
        count, before = 1 if is_gap else count + 1, time
        full.append(count >= window)
    return full


def wrong_rows(where: str, scores: Sequence[Score | None], expected: Sequence[bool]) -> list[str]:
    """A problem when rows lack a result, or have one too many."""
    wrong = [row for row, (score, due) in enumerate(zip(scores, expected, strict=True)) if (score is not None) != due]
    return [f"{where}: {len(wrong)} rows with a result too few or too many, the first is {wrong[0]}"] if wrong else []


def both_ways(file: str, scores: Sequence[Score | None], truth: Sequence[bool]) -> dict[str, Any]:
    """Figures of a file: rows without a result left out, and counted as normal (score 0)."""
    filled = [score or (0.0, False) for score in scores]
    (left_out,) = skab.judge({file: scores}, {file: truth})
    (as_normal,) = skab.judge({file: filled}, {file: truth})
    unknown = [real for score, real in zip(scores, truth, strict=True) if score is None]
    return {
        "file": file,
        "rows": len(truth),
        "no_result": len(unknown),
        "no_result_anomalies": sum(unknown),
        "left_out": _figures(left_out),
        "as_normal": _figures(as_normal),
    }


def _figures(line: Mapping[str, Any]) -> dict[str, float]:
    return {name: line[name] for name in ("auc", "f1", "always_f1", "false_alarms")}


def means(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """By kind of model and way of judging: the mean over the files of each figure."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for kind in dict.fromkeys(line["fitted"] for line in lines):
        of_kind = [line for line in lines if line["fitted"] == kind]
        found[kind] = {
            way: {name: round(sum(line[way][name] for line in of_kind) / len(of_kind), 4) for name in of_kind[0][way]}
            for way in ("left_out", "as_normal")
        }
    return found


def _difference(these: Sequence[Score | None], those: Sequence[Score | None]) -> float:
    pairs = zip(these, those, strict=True)
    return max((abs(one[0] - other[0]) for one, other in pairs if one and other), default=0.0)
