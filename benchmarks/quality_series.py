"""How good `classify_series` is on recordings it has not seen: fit on some files, judge on the others.

    python -m benchmarks.quality_series --data FOLDER

FOLDER holds SKAB's `skab_valve1_0.csv` to `_7.csv` (label `anomaly`; `changepoint` is never read). The judged rows go
through the handler, message by message, as on a gateway. A row before a window is full has no score and is left out of
both sides; `always_f1` is what saying "anomaly" always would get. `benchmarks/quality.py` sends the same rows through
the daemon and calls `judge` with what came back.
"""

import argparse
import csv
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from gatewayd.api import Batch, Message, Models, Result
from gatewayd.config.schema import Models as ModelsConfig
from gatewayd.models.fit_head import best_threshold, f1_score
from gatewayd.models.fit_series import FitReport, fit_series
from gatewayd.models.store import ModelStore
from gatewayd_handlers.classify_series import ClassifySeries

NORMAL_ROWS = 400  # of each file, all before the first fault: what the detector without labels learns from
# Without labels somebody must say what belongs to the machine: the temperatures follow the room, and the accelerometers
# were mounted anew. Which ones was decided with these recordings in view, so the figures are an upper end.
PROCESS = ("Current", "Pressure", "Voltage", "Volume Flow RateRMS")
NOT_FIELDS = ("datetime", "anomaly", "changepoint")

Row = tuple[float, dict[str, float], bool]  # time, fields, is an anomaly
Scores = Mapping[str, Sequence[tuple[float, bool] | None]]  # by file, a row each: (score of "anomaly", said so)


def split(data: Path) -> list[tuple[list[Path], list[Path]]]:
    """[(files to fit on, files to judge)], both ways round."""
    files = [data / f"skab_valve1_{number}.csv" for number in range(8)]
    return [(files[:4], files[4:]), (files[4:], files[:4])]


def fit(files: Sequence[Path], out: Path, *, name: str, labels: bool = True, **options: Any) -> FitReport:
    """Fit a bundle `out/name`, with the labels, or on the first NORMAL_ROWS rows of each file without them."""
    if labels:
        return fit_series(files, out, name=name, label_column="anomaly", ignore=("changepoint",), **options)
    with tempfile.TemporaryDirectory() as folder:
        cut = [_head(path, Path(folder) / path.name) for path in files]
        return fit_series(cut, out, name=name, fields=PROCESS, false_alarm_rate=0.05, **options)


def read(path: Path) -> list[Row]:
    """The rows of a file, as messages and truth."""
    with path.open(newline="") as file:
        return [
            (
                datetime.fromisoformat(row["datetime"]).replace(tzinfo=UTC).timestamp(),
                {name: float(cell) for name, cell in row.items() if name not in NOT_FIELDS},
                float(row["anomaly"]) == 1.0,
            )
            for row in csv.DictReader(file, delimiter=";")
        ]


def judge(per_file_scores: Scores, per_file_truth: Mapping[str, Sequence[bool]]) -> list[dict[str, Any]]:
    """ROC-AUC and F1 a file, beside F1 of "always" and the best F1 any threshold could have had on that file."""
    return [_judge_file(file, scores, per_file_truth[file]) for file, scores in per_file_scores.items()]


def _judge_file(file: str, scores: Sequence[tuple[float, bool] | None], truth: Sequence[bool]) -> dict[str, Any]:
    from sklearn.metrics import roc_auc_score

    pairs = [(*score, real) for score, real in zip(scores, truth, strict=True) if score is not None]
    values, said, real = (np.array(column) for column in zip(*pairs, strict=True))
    return {
        "file": file,
        "judged": len(pairs),
        "auc": round(float(roc_auc_score(real, values)), 4),
        "f1": round(f1_score(real, said), 4),
        "always_f1": round(f1_score(real, np.ones(len(real), bool)), 4),
        "best_f1": round(f1_score(real, values >= best_threshold(values, real)), 4),
        "false_alarms": round(float(said[~real].mean()), 4),
    }


def scores_of(model: str, models: Models, rows: Sequence[Row], *, batch: int = 64) -> list[tuple[float, bool] | None]:
    """What the handler says of each row; None while its window is not full."""
    handler = ClassifySeries(msgspec.convert({"model": model}, ClassifySeries.Config))  # type: ignore[arg-type]
    handler.start(models)
    found: dict[str, tuple[float, bool]] = {}
    for messages in _batches(rows, batch):
        for answer in handler.handle(Batch(route="quality", messages=messages, now=messages[-1].time)):
            assert isinstance(answer, Result)
            assert answer.message is not None
            said = answer.data["label"] == "anomaly"
            found[answer.message.key] = (answer.data["scores"]["anomaly"], said)
    handler.stop()
    return [found.get(str(index)) for index in range(len(rows))]


def _batches(rows: Sequence[Row], size: int) -> Iterator[list[Message]]:
    messages = [Message(topic="skab", value=row[1], time=row[0], key=str(index)) for index, row in enumerate(rows)]
    for start in range(0, len(messages), size):
        yield messages[start : start + size]


def _head(source: Path, target: Path) -> Path:
    lines = source.read_text().splitlines(keepends=True)[: NORMAL_ROWS + 1]
    target.write_text("".join(lines))
    return target


def series_quality(data: Path, work: Path, **options: Any) -> list[dict[str, Any]]:
    """Fit and judge, with labels and without; one line a file."""
    lines: list[dict[str, Any]] = []
    for labels in (True, False):
        for number, (known, unknown) in enumerate(split(data)):
            name = f"skab-{'labeled' if labels else 'normal'}-{number}"
            report = fit(known, work, name=name, labels=labels, **options)
            rows = {path.name: read(path) for path in unknown}
            store = ModelStore(work, ModelsConfig())
            scores = {file: scores_of(name, store, some) for file, some in rows.items()}
            truth = {file: [row[2] for row in some] for file, some in rows.items()}
            about = {"fitted": report.kind, "fields": list(report.fields), "recipe": report.recipe}
            lines += [about | line for line in judge(scores, truth)]
    return lines


def main() -> None:
    """Print the lines as JSON, and the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    with tempfile.TemporaryDirectory() as work:
        lines = series_quality(parser.parse_args().data, Path(work))
    for line in lines:
        print(json.dumps(line))
    for kind in dict.fromkeys(line["fitted"] for line in lines):
        of_kind = [line for line in lines if line["fitted"] == kind]
        means = {key: round(float(np.mean([line[key] for line in of_kind])), 4) for key in ("auc", "f1", "always_f1")}
        print(json.dumps({"fitted": kind, "mean": means}))


if __name__ == "__main__":
    main()
