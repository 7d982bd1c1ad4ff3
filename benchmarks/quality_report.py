"""The figures of `benchmarks.quality` as Markdown tables."""

from collections.abc import Iterator, Mapping
from typing import Any


def markdown(results: Mapping[str, Any]) -> str:
    """The tables of all parts that were run. No text of a recording but the five headlines."""
    machine = results["machine"]
    lines = [
        "# Quality, through the whole gateway",
        "",
        f"`python -m benchmarks.quality`, {results['date']}, commit {results['commit']}.",
        f"{machine['cores']} cores ({machine['system']}), Python {machine['python']}; {results['seconds']} s in all.",
    ]
    for name, part in results["parts"].items():
        lines += ["", *_PARTS[name](part["figures"]), "", *_books(part)]
    lines += ["", *(f"- PROBLEM: {problem.splitlines()[0]}" for problem in results["problems"] or [])]
    return "\n".join(lines).rstrip() + "\n"


def _books(part: Mapping[str, Any]) -> Iterator[str]:
    messages, results = part["books"]["messages"], part["books"]["results"]
    balance = "balance" if part["books"]["balanced"] else "DO NOT BALANCE"
    yield f"{part['published']:,} messages published, {part['seconds']} s until all was in the cloud."
    yield f"The books {balance}:"
    yield (
        ", ".join(f"{n:,} {line}" for line, n in messages.items() if n) + " messages (one on two routes counts twice);"
    )
    yield ", ".join(f"{n:,} {line}" for line, n in results.items() if n) + " results;"
    yield f"{part['sent_twice']} sent twice."


def _series(figures: Mapping[str, Any]) -> Iterator[str]:
    yield "## Series: SKAB valve1, files the model has not seen"
    yield ""
    yield "Rows without a result (the ring is not full) are left out, or counted as normal with score 0."
    for kind, title in (("labeled", "Fitted with labels"), ("normal", "Fitted on normal rows alone")):
        yield ""
        yield f"**{title}**"
        yield ""
        yield "| file | rows | no result | AUC | F1 | F1 of always | AUC, all rows | F1 | F1 of always |"
        yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|"
        for line in figures["files"]:
            if line["fitted"] == kind:
                without = f"{line['no_result']} ({line['no_result_anomalies']} anomalies)"
                yield f"| {line['file']} | {line['rows']} | {without} | {_both_ways(line)} |"
        yield f"| **mean** | | | {_both_ways(figures['means'][kind])} |"


def _both_ways(line: Mapping[str, Any]) -> str:
    cells = [line[way][name] for way in ("left_out", "as_normal") for name in ("auc", "f1", "always_f1")]
    return " | ".join(f"{cell:.3f}" for cell in cells)


def _text(figures: Mapping[str, Any]) -> Iterator[str]:
    yield '## Text: BGL lines, "alert" against "normal"'
    yield ""
    yield "Lines of a template repeat; by template each counts once. Spread: standard deviation of F1 over the splits."
    yield "The zero-shot words were written by somebody who had read the log's templates: these lines are an upper end."
    yield "Few templates are alerts, so each weighs heavily."
    yield ""
    yield "| what | judged by | runs | n | base rate | precision | recall | F1 | spread | least F1 | F1 of always |"
    yield "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    for table in figures.values():
        for way in ("by_line", "by_template"):
            line = table[way]
            names = ("base_rate", "precision", "recall", "f1", "f1_spread", "f1_least", "always_f1")
            cells = " | ".join(f"{line[name]:.2f}" for name in names)
            yield f"| {table['name']} | {way[3:]} | {table['runs']} | {line['n']:.0f} | {cells} |"


def _summaries(figures: Mapping[str, Any]) -> Iterator[str]:
    yield "## Summaries: hours of Linux and OpenSSH logs, gemma3-270m (Q4_K_M)"
    yield ""
    yield "| hours | lines | summaries | in form | by the model | quoting | s each (median, most) | tokens cached |"
    yield "|--:|--:|--:|--:|--:|--:|--:|--:|"
    methods, cached = figures["by_method"], figures["tokens_cached"] / max(figures["tokens_in"], 1)
    yield (
        f"| {figures['hours']} | {figures['lines']} | {figures['summaries']} | {figures['valid']} "
        f"| {methods.get('model', 0)} | {methods.get('extractive', 0)} "
        f"| {figures.get('seconds_median', 0):.1f}, {figures.get('seconds_most', 0):.1f} "
        f"| {figures['tokens_cached']:,} of {figures['tokens_in']:,} ({cached:.0%}) |"
    )
    yield ""
    yield "By reason: " + ", ".join(f"{n} {reason}" for reason, n in figures["by_reason"].items()) + "."
    yield f"In {figures['sentences_left_out']} of the model's a sentence was left out: the window does not support it."
    yield ""
    yield "Five headlines, evenly spread over those by the model, chosen by nobody:"
    yield ""
    yield from (f"- {headline}" for headline in figures["headlines"])


_PARTS = {"series": _series, "text": _text, "summaries": _summaries}
