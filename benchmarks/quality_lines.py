"""BGL through the gateway: log lines one by one, `classify_text` says "alert" or "normal", back from the cloud.

Two zero-shot routes read every line. For each seed two heads (with and without the words of the zero-shot one among
the texts fitted on) read the lines of the statements they were not fitted on. All routes run in one daemon at once.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import quality_text as texts
from benchmarks.quality_rig import Event, Events, Feed, Findings, Plan, say, toml
from gatewayd.config.schema import Models as ModelsConfig
from gatewayd.models.store import ModelStore

ZERO_SHOT = {"zero_shot_generic": texts.GENERIC, "zero_shot_in_format": texts.IN_FORMAT}
HEADS = {"head": False, "head_hints": True}
NAMES = {
    "zero_shot_generic": "zero-shot, generic words",
    "zero_shot_in_format": "zero-shot, words in the log's form",
    "head": "fitted head, unseen statements",
    "head_hints": "fitted head with those words, unseen statements",
}
FIGURES = ("precision", "recall", "f1", "base_rate")

_ROUTE = """
[routes.{route}]
topics = [{topic}]
handler = "classify_text"
sinks = ["cloud"]
include_input = true
payload = {{ format = "json" }}
[routes.{route}.options]
model = "{encoder}"
field = "text"
{how}
"""


def prepare(data: Path, models: Path, n_seeds: int) -> Plan:
    """Fit the heads into `models`, which has the encoder, and lay out the routes and feeds."""
    corpus = texts.bgl(data)
    everything = range(len(corpus.lines))
    judged: dict[str, Sequence[int]] = {}
    feeds, routes = [_feed("bgl/all", corpus, everything)], ""
    for route, labels in ZERO_SHOT.items():
        routes += _route(route, "bgl/all", f"labels = {toml(labels)}")
        judged[route] = everything
    encode = texts.encoder(ModelStore(models, ModelsConfig()))
    for seed in range(n_seeds):
        fit_on, held_out = texts.split_by_template(corpus, seed)
        feeds.append(_feed(f"bgl/{seed}", corpus, held_out))
        say(f"text: fitting heads, split {seed + 1} of {n_seeds}, on {len(fit_on)} lines")
        for kind, hints in HEADS.items():
            route = f"{kind}_{seed}"
            texts.fit_head(corpus, fit_on, models, name=route, encode=encode, seed=seed, hints=hints)
            routes += _route(route, f"bgl/{seed}", f'head = "{route}"')
            judged[route] = held_out
    expected = {route: len(indices) for route, indices in judged.items()}
    return Plan(routes, [feeds], expected, lambda events: judge(events, corpus, judged))


def _feed(topic: str, corpus: texts.Bgl, indices: Sequence[int]) -> Feed:
    return Feed(topic, [{"n": index, "text": corpus.lines[index]} for index in indices])


def _route(route: str, topic: str, how: str) -> str:
    return _ROUTE.format(route=route, topic=toml(topic), encoder=texts.ENCODER, how=how)


def judge(events: Events, corpus: texts.Bgl, judged: Mapping[str, Sequence[int]]) -> Findings:
    """Precision, recall and F1 by line and by template, each over the runs of a kind."""
    problems: list[str] = []
    runs: dict[str, list[tuple[texts.Figures, texts.Figures]]] = {}
    for route, indices in judged.items():
        said = answers(events[route])
        if sorted(said) != sorted(indices):
            problems.append(f"{route}: {len(said)} lines answered of {len(indices)}")
            continue
        kind = route if route in ZERO_SHOT else route.rsplit("_", 1)[0]
        once = texts.by_template(corpus, indices)
        by_line, by_template = (
            texts.judge([corpus.labels[i] for i in some], [said[i] for i in some]) for some in (indices, once)
        )
        runs.setdefault(kind, []).append((by_line, by_template))
    tables = {kind: _table(NAMES[kind], figures) for kind, figures in runs.items()}
    return Findings(tables, problems)


def answers(events: Sequence[Event]) -> dict[int, str]:
    """The label of each line, by its number."""
    return {event["data"]["input"]["n"]: event["data"]["label"] for event in events}


def _table(name: str, runs: Sequence[tuple[texts.Figures, texts.Figures]]) -> dict[str, Any]:
    return {
        "name": name,
        "runs": len(runs),
        "by_line": _summary([lines for lines, _ in runs]),
        "by_template": _summary([templates for _, templates in runs]),
        "each": [{"by_line": asdict(lines), "by_template": asdict(templates)} for lines, templates in runs],
    }


def _summary(figures: Sequence[texts.Figures]) -> dict[str, float]:
    found = {name: round(statistics.mean(getattr(one, name) for one in figures), 4) for name in FIGURES}
    # What answering "alert" always would get: precision is the base rate, recall 1.
    always = [2 * one.base_rate / (1 + one.base_rate) for one in figures]
    return {
        **found,
        "f1_spread": round(statistics.pstdev(one.f1 for one in figures), 4),
        "f1_least": round(min(one.f1 for one in figures), 4),
        "always_f1": round(statistics.mean(always), 4),
        "n": round(statistics.mean(one.n for one in figures), 1),
    }
