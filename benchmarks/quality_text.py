"""How good classify_text and summarize_text are, on public recordings (loghub: BGL, OpenSSH, Linux).

    python -m benchmarks.quality_text --data DIR --models DIR

The handlers are called directly; `benchmarks/quality.py` judges the same lines as they come out of the daemon.
What is given to a model never holds the label: BGL's first column (`-` is normal, anything else the class of an alert)
is cut off, and so are time and place. Whoever wrote IN_FORMAT had read the log and chose between ways to compare by
these figures, so they are the upper end of what an operator gets; GENERIC is the lower. A fitted head is judged on
lines of statements (templates) it was not fitted on; templates are wider here than what the handler masks: paths too.
"""

import argparse
import json
import logging
import re
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import structlog

from gatewayd.api import Batch, Message, Models, Result, Window
from gatewayd.config.schema import Models as ModelsConfig
from gatewayd.models.fit_text import Encode, fit_text
from gatewayd.models.store import ModelStore
from gatewayd_handlers.classify_text import ClassifyText
from gatewayd_handlers.summarize_text import SummarizeText
from gatewayd_handlers.summary_form import check

ENCODER = "minilm-int8"
HELD_OUT = 0.3  # of the templates of each label

GENERIC: Mapping[str, Any] = {
    "alert": {
        "description": "a failure that needs an operator",
        "examples": [
            "FATAL kernel panic, system halted",
            "FATAL lost connection to controller: connection refused by peer",
            "ERROR filesystem could not be mounted: no such device",
            "FATAL unrecoverable memory fault interrupt, page translation failed",
            "ERROR network packet receive failed, bad checksum",
            "FATAL I/O error while writing to disk",
            "ERROR communication socket closed unexpectedly, broken pipe",
            "FATAL watchdog expired, firmware stopped",
        ],
    },
    "normal": {
        "description": "routine information, or an error that was corrected or is the user's own",
        "examples": [
            "INFO temperature statistics: 40 samples collected",
            "INFO single bit error corrected by ECC",
            "INFO service started",
            "ERROR cannot open program file: permission denied",
            "INFO register r3: 0x0",
            "INFO core dump written to core.12",
            "INFO new device discovered and added to inventory",
            "WARNING card is not fully functional",
        ],
    },
}

# The same in the form of the log: facility, component, severity, text. None of them is a line of the recording.
IN_FORMAT: Mapping[str, Any] = {
    "alert": {
        "description": "a failure that needs an operator",
        "examples": [
            "RAS KERNEL FATAL kernel panic, system halted",
            "RAS KERNEL FATAL lost connection to controller: connection refused by peer",
            "RAS KERNEL FATAL filesystem could not be mounted: no such device",
            "RAS KERNEL FATAL unrecoverable memory fault interrupt, page translation failed",
            "RAS KERNEL FATAL network packet receive failed, bad checksum",
            "RAS APP FATAL I/O error while writing to disk",
            "RAS APP FATAL communication socket closed unexpectedly, broken pipe",
            "RAS KERNEL FATAL watchdog expired, firmware stopped",
            "RAS KERNEL FATAL unhandled exception, node stopped",
        ],
    },
    "normal": {
        "description": "routine information, or an error that was corrected or is the user's own",
        "examples": [
            "RAS KERNEL INFO temperature statistics: 40 samples collected",
            "RAS KERNEL INFO single bit error corrected by ECC",
            "RAS KERNEL INFO service started",
            "RAS APP FATAL cannot open program file: permission denied",
            "RAS APP FATAL chdir to home directory failed: no such file or directory",
            "RAS KERNEL INFO register r3: 0x0",
            "RAS KERNEL FATAL program counter: 0x0",
            "RAS KERNEL FATAL stack pointer register: 0x0",
            "RAS KERNEL INFO core dump written to core.12",
            "NULL DISCOVERY INFO new device added to inventory",
            "NULL HARDWARE WARNING card is not fully functional",
            "NULL DISCOVERY ERROR device status: fan is slow",
            "RAS KERNEL FATAL status bits enabled......0",
            "RAS KERNEL FATAL exception flag.......0",
            "RAS KERNEL INFO unaligned access counted 12 times",
        ],
    },
}

_TEMPLATE = re.compile(r"/\S+|0x[0-9a-f]+|\b(?=[a-f]*\d)[0-9a-f]{6,}\b|\d+", re.IGNORECASE)


@dataclass(frozen=True)
class Bgl:
    """The recording, line by line."""

    lines: list[str]  # facility, component, severity and text: what a model is given
    labels: list[str]  # "alert" or "normal"
    templates: list[str]  # the line with paths and numbers masked


@dataclass(frozen=True)
class Figures:
    """How well "alert" was told apart. `base_rate` is the share of alerts; `n` how many lines were judged."""

    precision: float
    recall: float
    f1: float
    base_rate: float
    n: int


def bgl(data: Path) -> Bgl:
    """Read BGL_2k.log from the folder `data` or its sub-folder "text"."""
    found = next(path for path in (data / "BGL_2k.log", data / "text" / "BGL_2k.log") if path.exists())
    fields = [line.split(" ", 6) for line in found.read_text().splitlines()]
    lines = [row[6] for row in fields]
    labels = ["normal" if row[0] == "-" else "alert" for row in fields]
    return Bgl(lines, labels, [_TEMPLATE.sub("#", line) for line in lines])


def split_by_template(corpus: Bgl, seed: int, held_out: float = HELD_OUT) -> tuple[list[int], list[int]]:
    """Indices (to fit on, to judge): no template stands on both sides, each label's templates are split alike."""
    rng = np.random.default_rng(seed)
    judged: set[str] = set()
    alerts = {t for t, label in zip(corpus.templates, corpus.labels, strict=True) if label == "alert"}
    for group in (sorted(alerts), sorted(set(corpus.templates) - alerts)):
        judged |= {group[i] for i in rng.permutation(len(group))[: round(len(group) * held_out)]}
    indices = range(len(corpus.lines))
    return [i for i in indices if corpus.templates[i] not in judged], [
        i for i in indices if corpus.templates[i] in judged
    ]


def judge(truth: Sequence[str], said: Sequence[str], positive: str = "alert") -> Figures:
    """Precision, recall and F1 of `positive`."""
    pairs = list(zip(truth, said, strict=True))
    right = sum(t == s == positive for t, s in pairs)
    precision = right / max(sum(s == positive for s in said), 1)
    recall = right / max(sum(t == positive for t in truth), 1)
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return Figures(precision, recall, f1, sum(t == positive for t in truth) / max(len(pairs), 1), len(pairs))


def by_template(corpus: Bgl, indices: Sequence[int]) -> list[int]:
    """The first index of each template: judged so, a statement counts once however often it was logged."""
    return list({corpus.templates[i]: i for i in reversed(indices)}.values())


def hourly_windows(path: Path, year: int = 2005) -> Iterator[Batch]:
    """Windows of one hour out of a syslog file ("Jun 14 15:16:01 host text"); it names no year."""
    hours: dict[float, list[Message]] = {}
    for number, line in enumerate(path.read_text(errors="replace").splitlines()):
        try:
            moment = datetime.strptime(f"{year} {line[:15]}", "%Y %b %d %H:%M:%S").replace(tzinfo=UTC).timestamp()
        except ValueError:
            continue
        message = Message(topic=f"logs/{path.stem}", value=line, time=moment, key=str(number))
        hours.setdefault(moment // 3600 * 3600, []).append(message)
    for start, messages in sorted(hours.items()):
        window = Window(key="", start=start, end=start + 3600)
        yield Batch(route="hourly", messages=messages, now=start + 3600, window=window)


def classify(models: Models, options: Mapping[str, Any], lines: Sequence[str]) -> tuple[list[str], float, float]:
    """Labels of the lines, milliseconds a line, and the share of lines that cost no model run."""
    handler = ClassifyText(msgspec.convert(options, ClassifyText.Config))  # type: ignore[arg-type]
    handler.start(models)
    before = handler.encoder_misses
    messages = [Message(topic="bgl", value=line, time=0.0, key=str(i)) for i, line in enumerate(lines)]
    began = time.perf_counter()
    answers = handler.handle(Batch(route="quality", messages=messages, now=0.0))
    took_ms = (time.perf_counter() - began) * 1e3 / len(lines)
    labels = [answer.data["label"] if isinstance(answer, Result) else "rejected" for answer in answers]
    return labels, took_ms, 1 - (handler.encoder_misses - before) / len(lines)


def encoder(models: Models) -> Encode:
    """Texts to vectors, as the handler makes them."""
    return ClassifyText.encoder(models, ENCODER)


def fit_head(
    corpus: Bgl, fit_on: Sequence[int], models_dir: Path, *, name: str, encode: Encode, seed: int, hints: bool
) -> None:
    """Fit a head on these lines, into `models_dir`, which holds the encoder. `hints` adds IN_FORMAT to the fitting."""
    rows = [{"text": corpus.lines[i], "label": corpus.labels[i]} for i in fit_on]
    if hints:
        rows += [{"text": text, "label": label} for label, words in IN_FORMAT.items() for text in words["examples"]]
    with tempfile.TemporaryDirectory() as folder:
        texts = Path(folder) / "fit.ndjson"
        texts.write_text("\n".join(json.dumps(row) for row in rows))
        fit_text([texts], models_dir, name=name, encoder=models_dir / ENCODER, encode=encode, seed=seed)


def fit_and_judge(models_dir: Path, corpus: Bgl, seed: int, *, hints: bool) -> tuple[Figures, Figures]:
    """Fit on some templates and judge on the others: (by line, by template)."""
    fit_on, judged = split_by_template(corpus, seed)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / ENCODER).symlink_to((models_dir / ENCODER).resolve())
        encode = encoder(ModelStore(models_dir, ModelsConfig()))
        fit_head(corpus, fit_on, work, name="head", encode=encode, seed=seed, hints=hints)
        options = {"model": ENCODER, "head": "head"}
        said, _, _ = classify(ModelStore(work, ModelsConfig()), options, [corpus.lines[i] for i in judged])
    by_index = dict(zip(judged, said, strict=True))
    once = by_template(corpus, judged)
    return judge([corpus.labels[i] for i in judged], said), judge(
        [corpus.labels[i] for i in once], [by_index[i] for i in once]
    )


def _print_figures(name: str, figures: Sequence[Figures]) -> None:
    means = [statistics.mean(getattr(f, field) for f in figures) for field in ("precision", "recall", "f1")]
    spread = statistics.pstdev(f.f1 for f in figures)
    base = statistics.mean(f.base_rate for f in figures)
    shown = "  ".join(f"{value:.2f}" for value in means)
    print(f"{name:48} P R F1 = {shown}  (F1 spread {spread:.2f}, base rate {base:.2f}, runs {len(figures)})")


def report_classification(data: Path, models_dir: Path, seeds: int) -> None:
    """Print the figures of classify_text on BGL."""
    corpus = bgl(data)
    store = ModelStore(models_dir, ModelsConfig())
    once = by_template(corpus, range(len(corpus.lines)))
    for name, labels in (("zero-shot, generic words", GENERIC), ("zero-shot, in the log's form", IN_FORMAT)):
        said, took_ms, hits = classify(store, {"model": ENCODER, "labels": labels}, corpus.lines)
        _print_figures(f"{name}, lines", [judge(corpus.labels, said)])
        _print_figures(f"{name}, templates", [judge([corpus.labels[i] for i in once], [said[i] for i in once])])
        print(f"  {took_ms:.2f} ms a line, {hits:.0%} of the lines from memory")
    for hints in (False, True):
        runs = [fit_and_judge(models_dir, corpus, seed, hints=hints) for seed in range(seeds)]
        name = "head, unseen templates" + (", fitted with hints" if hints else "")
        _print_figures(f"{name}, lines", [lines for lines, _ in runs])
        _print_figures(f"{name}, templates", [templates for _, templates in runs])


def report_summaries(recording: Path, models_dir: Path, model: str, n_windows: int, n_shown: int) -> None:
    """Summarize hourly windows, evenly spread over the recording; every one must have the form of a summary."""
    store = ModelStore(models_dir, ModelsConfig())
    handler = SummarizeText(msgspec.convert({"model": model}, SummarizeText.Config))  # type: ignore[arg-type]
    handler.start(store)
    windows = list(hourly_windows(recording))
    chosen = [windows[i * len(windows) // n_windows] for i in range(min(n_windows, len(windows)))]
    took_s, cached, read = [], 0, 0
    for number, batch in enumerate(chosen):
        began = time.perf_counter()
        (result,) = handler.handle(batch)
        assert isinstance(result, Result)
        took_s.append(time.perf_counter() - began)
        check(result.data["summary"])
        cached, read = cached + result.data["tokens_cached"], read + result.data["tokens_in"]
        if number < n_shown:
            print(json.dumps(result.data, indent=1, ensure_ascii=False))
    store.close()
    print(f"{recording.name}: {len(chosen)} windows, all in form; by outcome {dict(handler.summaries)}")
    print(f"  {statistics.median(took_s):.1f} s a window (median), {max(took_s):.1f} s at most")
    print(f"  {cached} of {read} tokens of the prompts were cached")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the recordings")
    parser.add_argument("--models", type=Path, required=True, help="folder of bundles, with minilm-int8")
    parser.add_argument("--seeds", type=int, default=10, help="splits a head is judged on")
    parser.add_argument("--llm", default="gemma3-270m", help="bundle that summarizes")
    parser.add_argument("--windows", type=int, default=20, help="windows summarized of each recording")
    arguments = parser.parse_args()
    logging.getLogger().setLevel(logging.WARNING)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    report_classification(arguments.data, arguments.models, arguments.seeds)
    text = arguments.data / "text" if (arguments.data / "text").exists() else arguments.data
    for name, shown in (("OpenSSH_2k.log", 2), ("Linux_2k.log", 3)):
        report_summaries(text / name, arguments.models, arguments.llm, arguments.windows, shown)


if __name__ == "__main__":
    main()
