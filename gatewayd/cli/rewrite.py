"""`gatewayd replay --update`: new expectations in a samples file, everything else in it as it was, comments too.

Only samples whose answers differ are touched. The new text is read back before the file is replaced, so an update
either gives a file whose samples hold, or leaves the old one.
"""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli

from gatewayd.errors import GatewaydError
from gatewayd.testing import Samples, differences, load_samples

_SAMPLE = re.compile(r"^\[\[\s*sample\s*\]\]", re.MULTILINE)
_EXPECT_TABLE = re.compile(r"^\[\[?\s*sample\.expect\b", re.MULTILINE)
_EXPECT_KEY = re.compile(r"^\s*expect\s*=", re.MULTILINE)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")
_VOLATILE = {"latency_ms"}  # differs from run to run: never worth an expectation


def rewrite(path: Path, samples: Samples, answers: Sequence[Sequence[Mapping[str, Any]]], changed: set[int]) -> None:
    """Write the answers of the `changed` samples as their expectations. Raises GatewaydError, the file as it was."""
    if not changed:
        return
    text = path.read_text(encoding="utf-8")
    starts = [match.start() for match in _SAMPLE.finditer(text)]
    blocks = [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=False)]
    if len(blocks) != len(samples.samples):
        raise GatewaydError(f"{path}: write each sample under a line [[sample]], so that it can be updated")
    for index in changed:
        sample = samples.samples[index]
        blocks[index] = _with_expectations(blocks[index], _expectations(sample.expect, answers[index]))
    _replace(path, text[: starts[0]] + "".join(blocks), answers)


def _replace(path: Path, text: str, answers: Sequence[Sequence[Mapping[str, Any]]]) -> None:
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text, encoding="utf-8")
    try:
        wrong = differences(load_samples(beside), answers)
    except ValueError as error:
        wrong = [str(error)]
    if wrong:
        beside.unlink()
        raise GatewaydError(f"{path}: could not be updated, change it by hand: {wrong[0]}")
    os.replace(beside, path)  # noqa: PTH105  atomic, and pathlib's `replace` is the same call


def _expectations(old: Sequence[Mapping[str, Any]], given: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What to expect from now on: of the fields the old expectation named, where there was one for each answer."""
    if len(old) == len(given):
        pairs = zip(old, given, strict=True)
        return [_named(want, have) if "rejected" not in (*want, *have) else dict(have) for want, have in pairs]
    return [{key: value for key, value in have.items() if key not in _VOLATILE} for have in given]


def _named(want: Mapping[str, Any], have: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _named(want[key], value) if isinstance(want[key], Mapping) and isinstance(value, Mapping) else value
        for key, value in have.items()
        if key in want
    }


def _with_expectations(block: str, expect: Sequence[Mapping[str, Any]]) -> str:
    """The block of one sample with these expectations instead of its own."""
    new = "".join(f"\n[[sample.expect]]\n{_lines(one)}" for one in expect) if _is_long(expect) else _inline(expect)
    table, key = _EXPECT_TABLE.search(block), _EXPECT_KEY.search(block)
    body_end = len(block) - len(_tail(block))
    if table is not None:
        head = block[: table.start()].rstrip("\n") + "\n"
        return head + new + block[body_end:]
    if key is not None:
        end = _end_of_value(block, key.start())
        # Tables must come after the sample's own keys, wherever `expect` stood among them.
        rest = block[end:body_end]
        return block[: key.start()] + rest + new + block[body_end:]
    return block[:body_end] + new + block[body_end:]


def _is_long(expect: Sequence[Mapping[str, Any]]) -> bool:
    return len(_inline(expect)) > 100


def _inline(expect: Sequence[Mapping[str, Any]]) -> str:
    return f"expect = {_value(list(expect))}\n"


def _tail(block: str) -> str:
    """The blank lines and comments at the end of a block: they belong to what follows."""
    lines = block.splitlines(keepends=True)
    n = len(lines)
    while n and (not lines[n - 1].strip() or lines[n - 1].lstrip().startswith("#")):
        n -= 1
    return "".join(lines[n:])


def _end_of_value(block: str, start: int) -> int:
    """Where the value that begins at `start` ends: after the first line with which it is whole."""
    end = start
    while end < len(block):
        newline = block.find("\n", end)
        end = len(block) if newline < 0 else newline + 1
        try:
            tomli.loads(block[start:end])
        except tomli.TOMLDecodeError:
            continue
        return end
    return end


def _lines(table: Mapping[str, Any]) -> str:
    return "".join(f"{_key(key)} = {_value(value)}\n" for key, value in table.items() if value is not None)


def _key(key: str) -> str:
    return key if _BARE_KEY.match(key) else _value(key)


def _value(value: Any) -> str:
    """A value as TOML 1.0. JSON's strings are TOML's, but for DEL, which TOML wants escaped."""
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_key(key)} = {_value(one)}" for key, one in value.items() if one is not None)
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(one) for one in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(round(value, 6)) if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return str(value)
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
