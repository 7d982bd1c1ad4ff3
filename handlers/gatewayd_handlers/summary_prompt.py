"""The prompt: what never changes stands first, so that a session reuses its state; the window stands last.

Written for models that are not tuned to instructions: two worked examples, then the same once more without its answer.
The window is given as a digest: a line a statement, the worst first, with how often it was said.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from gatewayd_handlers.extractive import pattern
from gatewayd_handlers.summary_facts import Facts
from gatewayd_handlers.summary_form import MAX_HEADLINE_CHARS, MAX_TEXT_CHARS, Written

_OVERLAP = 1  # lines that a part has in common with the one before
_LINE_CHARS = 140
_NOISE = re.compile(r"\[\*?\d*\](?=:)|(?<=\s)\w+=\**(?=\s|$)|[;:]?\s+\*(?:[ :*]|$)+$|\[preauth\]|\(\)")


class Example(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A worked example: how a digest is summarized."""

    digest: Annotated[list[str], Meta(min_length=1, max_length=50, description='Lines such as "3x pump started".')]
    headline: Annotated[str, Meta(min_length=1, max_length=MAX_HEADLINE_CHARS, description="The one-line summary.")]
    what_happened: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_CHARS, description="Two or three sentences.")]


EXAMPLES = (
    Example(
        digest=[
            "118x compressor temperature * C, ok",
            "2x compressor restarted by watchdog",
            "9x compressor pressure sensor failed: no signal",
        ],
        headline="Pressure sensor of the compressor failed 9 times",
        what_happened="The pressure sensor of the compressor failed 9 times with no signal. The compressor was "
        "restarted by the watchdog 2 times.",
    ),
    Example(
        digest=["3x conveyor: shift change, operator * logged in", "40x conveyor: parcel * scanned"],
        headline="Conveyor scanned 40 parcels",
        what_happened="The conveyor scanned a parcel 40 times. An operator logged in at a shift change 3 times.",
    ),
    Example(
        digest=["1x backup: started by timer", "6x backup: disk * nearly full, * percent used"],
        headline="Backup found a disk nearly full 6 times",
        what_happened="The backup found a disk nearly full 6 times. The backup was started by the timer once.",
    ),
)


def static_part(examples: Sequence[Example], language: str) -> str:
    """What is the same for every window: instruction and examples."""
    wanted = f"Write in {language}. " if language else ""
    head = (
        "Each log lists messages with how often each was seen, the most important last. The report says in plain words "
        f"what happened and names only what the log names. {wanted}\n"
    )
    return head + "".join(f"\nLog:\n{_lines(example.digest)}Report: {_answer(example)}\n" for example in examples)


def variable_part(lines: Sequence[str], before: str = "") -> str:
    """The window in these lines, the most important first, and the beginning of its report. `before` is what was
    reported of the window before it."""
    earlier = f"\nReport of the log before, for context only: {before}\n" if before else ""
    return f"{earlier}\nLog:\n{_lines(list(reversed(lines)))}Report: "


def digest(facts: Facts, n_lines: int) -> list[str]:
    """A line a statement, the most important first. In the prompt it stands last: what is nearest to the answer is
    heeded most by a small model."""
    return [f"{s.n}x {plain(pattern(s, _LINE_CHARS))}" for s in facts.statements[:n_lines]]


def plain(line: str) -> str:
    """A statement without what is noise to a reader: process numbers, and fields whose value is hidden or empty."""
    return " ".join(_NOISE.sub(" ", line).replace("*", "…").split())


def split(lines: Sequence[str], fits: Callable[[Sequence[str]], bool], max_parts: int) -> list[list[str]]:
    """The lines in order, in at most `max_parts` parts that fit, each as large as it can be. A part begins with the
    last line of the one before, so that what belongs together is told together once; a line too long for any is left
    out, and so are those beyond the last part."""
    parts: list[list[str]] = []
    at = 0
    while at < len(lines) and len(parts) < max_parts:
        n_lines = _fitting(lines[at:], fits)
        if n_lines == 0:
            at += 1
            continue
        parts.append(list(lines[at : at + n_lines]))
        if at + n_lines >= len(lines):
            break
        at += max(1, n_lines - _OVERLAP)
    return parts


def _fitting(lines: Sequence[str], fits: Callable[[Sequence[str]], bool]) -> int:
    """How many of the first lines fit: few questions, for each goes to the model's process."""
    n_lines = len(lines)
    while n_lines > 0 and not fits(lines[:n_lines]):
        n_lines = n_lines * 3 // 4
    return n_lines


def _answer(example: Example) -> str:
    written = Written(headline=example.headline, what_happened=example.what_happened)
    return json.dumps(msgspec.to_builtins(written), ensure_ascii=False)


def _lines(lines: Sequence[str]) -> str:
    return "".join(f"- {line}\n" for line in lines)
