"""How well the grounding check of summaries tells what a window says from what was invented.

    python -m benchmarks.grounding [--data DIR] [--out benchmarks/results]

Windows of BGL_2k.log (fifty lines each), OpenSSH_2k.log and Linux_2k.log (hours) of DIR (or $GATEWAYD_DATA). The check
was mended by what the first two showed; Linux was looked at afterwards. Sentences that are true
of a window by construction are made of its facts and its texts; then one thing in each is replaced by something that
the window does not contain: a device (of another window, or with another digit), a count, an address or number out of a
text, a time of day. Recall: of the replaced, how many were marked. Precision: of all that was marked, in true and in
replaced sentences, how much was replaced. A count of something else in the window is no invention: it has a row of its
own, to show what the check does not find, and counts in neither. No model is run.
"""

import argparse
import json
import os
import random
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.quality_text import hourly_windows
from gatewayd_handlers.extractive import clock, pattern, summarize
from gatewayd_handlers.summarize_text import DEVICE_NAMES
from gatewayd_handlers.summary_facts import Facts, mine
from gatewayd_handlers.summary_grounding import Grounds

MISBOUND = "count of something else"  # in the window, so it is no invention: what the check does not find
_WORDS = {2: "twice", 3: "three times", 4: "four times", 5: "five times", 6: "six times"}
_DEVICE = re.compile(DEVICE_NAMES)
_NUMBER = re.compile(r"(?<![\w.:-])(?:\d{1,3}(?:\.\d{1,3}){3}|\d{2,})(?![\w.:-])")
_LINES = 50  # of a window of BGL


@dataclass(frozen=True)
class Told:
    """A window: its texts, and what is known of it."""

    texts: Sequence[str]
    facts: Facts


@dataclass(frozen=True)
class Claim:
    """A sentence, with the place in it that can be replaced."""

    kind: str
    before: str
    said: str
    after: str

    def sentence(self, said: str | None = None) -> str:
        return f"{self.before}{self.said if said is None else said}{self.after}"


def windows(data: Path) -> dict[str, list[Told]]:
    """By recording."""
    folder = next(folder for folder in (data, data / "text") if (folder / "BGL_2k.log").exists())
    hours = {name: _hours(folder / f"{name}_2k.log") for name in ("OpenSSH", "Linux")}
    rows = [line.split(" ", 5) for line in (folder / "BGL_2k.log").read_text().splitlines()]
    lines = [(float(row[1]), f"{row[3]} {row[5]}") for row in rows]
    chunks = [lines[at : at + _LINES] for at in range(0, len(lines), _LINES)]
    return {"BGL": [_told(each, each[0][0], each[-1][0]) for each in chunks], **hours}


def _hours(path: Path) -> list[Told]:
    return [
        _told([(message.time, str(message.value)) for message in batch.messages], batch.window.start, batch.window.end)
        for batch in hourly_windows(path)
        if batch.window is not None
    ]


def _told(lines: Sequence[tuple[float, str]], start: float, end: float) -> Told:
    devices = [name for _, text in lines for name in sorted(set(_DEVICE.findall(text)))]
    return Told([text for _, text in lines], mine(lines, start, end, devices))


def claims(told: Told) -> Iterator[Claim]:
    """Sentences that are true of the window."""
    facts = told.facts
    for statement in facts.statements[:6]:
        said = pattern(statement, 80)
        if statement.n > 1:
            yield Claim("count", f"{said} was seen ", str(statement.n), " times.")
            other = next((each.n for each in reversed(facts.statements) if each.n not in (1, statement.n)), 0)
            if other:
                yield Claim(MISBOUND, f"{said} was seen ", str(statement.n), " times.")
        if statement.n in _WORDS:
            yield Claim("count in words", "It happened ", _WORDS[statement.n], f": {said}.")
        if statement.n == 1 and (found := _NUMBER.search(said)):
            yield Claim("number", said[: found.start()], found.group(), f"{said[found.end() :]} was reported once.")
        yield Claim("time", "It was last seen at ", clock(statement.last), ".")
        yield Claim("time", "It began at ", clock(statement.first)[:5], ".")
    for device in facts.devices[:4]:
        n = sum(device in _DEVICE.findall(text) for text in told.texts)
        yield Claim("device", "", device, f" reported {n} messages." if n > 1 else " reported once.")
    yield Claim("count", "There were ", str(facts.n_texts), " messages in all.")
    whole = summarize(facts)
    yield Claim("quotation", whole.headline, "", f". {whole.what_happened}")


def replacement(claim: Claim, told: Told, others: Sequence[str], draw: random.Random) -> str | None:
    """Something of that kind that the window does not contain; None where there is none."""
    contained = "\n".join(told.texts)
    candidates: list[str] = []
    if claim.kind == "device":
        candidates = [*draw.sample(others, min(5, len(others))), *(_other_digit(claim.said, draw) for _ in range(5))]
    elif claim.kind == "count":
        candidates = [str(max(2, int(claim.said) + draw.choice((-7, -3, 2, 5, 11, 40)))) for _ in range(8)]
        candidates = [each for each in candidates if int(each) not in counted(told.facts)]
    elif claim.kind == MISBOUND:
        return next(str(each.n) for each in reversed(told.facts.statements) if str(each.n) not in ("1", claim.said))
    elif claim.kind == "count in words":
        candidates = [words for n, words in _WORDS.items() if n not in counted(told.facts)]
        contained = ""
    elif claim.kind == "number":
        candidates = [_other_digit(claim.said, draw) for _ in range(8)]
    elif claim.kind == "time":
        moments = [told.facts.end + step * 617.0 for step in range(200)]
        candidates = [clock(each)[: len(claim.said)] for each in moments if not _anything_at(each, told.facts)][:5]
    draw.shuffle(candidates)
    return next((each for each in candidates if not _stands(each, contained)), None)


def counted(facts: Facts) -> set[int]:
    """All that was counted in the window: such a number is true of something in it."""
    by_severity: dict[str, int] = {}
    for each in facts.statements:
        by_severity[each.severity] = by_severity.get(each.severity, 0) + each.n
    found = {facts.n_texts, len(facts.statements), len(facts.devices), *facts.device_counts, *by_severity.values()}
    return found | {each.n for each in facts.statements}


def _anything_at(moment: float, facts: Facts) -> bool:
    minute = int(moment // 60) % 1440
    bounds = {int(facts.start // 60) % 1440, int(facts.end // 60) % 1440}
    return minute in facts.minutes or minute in bounds


def _stands(name: str, text: str) -> bool:
    """Whether it stands there as a word of its own."""
    return bool(name) and re.search(rf"(?<![^\W_]){re.escape(name)}(?![^\W_])", text) is not None


def _other_digit(name: str, draw: random.Random) -> str:
    places = [place for place, letter in enumerate(name) if letter.isdigit()]
    place = draw.choice(places)
    digit = draw.choice([each for each in "123456789" if each != name[place]])
    return f"{name[:place]}{digit}{name[place + 1 :]}"


def judge(found: Sequence[Told]) -> dict[str, Any]:
    """Counts by kind: true sentences and marks in them, replaced ones and those marked where they were replaced."""
    draw = random.Random(0)
    every = sorted({device for told in found for device in told.facts.devices})
    kinds: dict[str, dict[str, int]] = {}
    examples: dict[str, list[str]] = {"missed": [], "wrongly marked": []}
    for told in found:
        grounds = Grounds(told.texts, told.facts, ())
        others = [device for device in every if device not in told.facts.devices]
        for claim in claims(told):
            line = kinds.setdefault(claim.kind, dict.fromkeys(("true", "false_marks", "replaced", "marked"), 0))
            line["true"] += 1
            wrong = grounds.unsupported(claim.sentence())
            line["false_marks"] += len(wrong)
            examples["wrongly marked"] += [f"{span.text} | {claim.sentence()}" for span in wrong]
            new = replacement(claim, told, others, draw)
            if new is None:
                continue
            line["replaced"] += 1
            spans = grounds.unsupported(claim.sentence(new))
            start, end = len(claim.before), len(claim.before) + len(new)
            hits = [span for span in spans if span.start < end and span.end > start]
            line["marked"] += bool(hits)
            line["false_marks"] += len(spans) - len(hits)
            if not hits:
                examples["missed"].append(f"{new} | {claim.sentence(new)}")
    return {
        "kinds": kinds,
        **totals(kinds),
        "examples": {name: some[:: max(1, len(some) // 8)] for name, some in examples.items()},
    }


def totals(kinds: dict[str, dict[str, int]]) -> dict[str, float]:
    """Precision and recall over all kinds."""
    marked, false_marks, replaced = (
        sum(line[name] for kind, line in kinds.items() if kind != MISBOUND)
        for name in ("marked", "false_marks", "replaced")
    )
    return {"precision": marked / max(1, marked + false_marks), "recall": marked / max(1, replaced)}


def table(results: dict[str, dict[str, Any]]) -> str:
    """As Markdown."""
    lines = [
        "| recording | what | true sentences | marks in them and beside | replaced | of them marked |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for name, result in results.items():
        for kind, line in result["kinds"].items():
            share = f"{line['marked']} ({line['marked'] / line['replaced']:.0%})" if line["replaced"] else ""
            lines.append(
                f"| {name} | {kind} | {line['true']} | {line['false_marks']} | {line['replaced'] or ''} | {share} |"
            )
        lines.append(f"| **{name}** | precision {result['precision']:.3f}, recall {result['recall']:.3f} | | | | |")
    return "\n".join(lines)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("GATEWAYD_DATA"), help="folder of the recordings")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--examples", action="store_true", help="print sentences that were judged wrongly")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("give --data DIR or set GATEWAYD_DATA: the folder of the recordings")
    results = {name: judge(found) for name, found in windows(Path(arguments.data)).items()}
    print(table(results))
    for name, result in results.items():
        examples = result.pop("examples")
        if arguments.examples:
            print(name, json.dumps(examples, indent=1, ensure_ascii=False))
    arguments.out.mkdir(parents=True, exist_ok=True)
    written = {"what": "grounding", "date": datetime.now(UTC).strftime("%Y-%m-%d"), "recordings": results}
    (arguments.out / "grounding.json").write_text(json.dumps(written, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
