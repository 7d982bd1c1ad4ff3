"""Paths into a decoded payload, e.g. `data.readings[0].v`, compiled once and followed for each message.

    path   = root | step *("." name | index)
    root   = "$value" | "$time" | "$topic" | "$topic[n]"      the whole value, the message's time, its topic, a level
    step   = name | index
    name   = anything without . [ ] " $ and blanks, or any text in double quotes (\\" and \\\\ inside)
    index  = "[" number "]"                                    negative counts from the end

Pure: no I/O, no clock.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from gatewayd.errors import RejectedError

Step = str | int

_ROOT = re.compile(r"\$(?:(value|time|topic)|topic\[(-?\d{1,9})\])\Z")
_STEP = re.compile(r'\[(-?\d{1,9})\]|(\.?)(?:([^.\[\]"$\s]+)|"((?:[^"\\]|\\["\\])+)")')


@dataclass(frozen=True, slots=True)
class Path:
    """A compiled path. `root` says where the steps start."""

    text: str
    root: Literal["value", "time", "topic"]
    steps: tuple[Step, ...]


@lru_cache(maxsize=1024)
def compile_path(text: str) -> Path:
    """Compile a path. Raises ValueError that says in words what is wrong with it."""
    if not text.strip():
        raise ValueError("a path must not be empty; the whole value is $value")
    if text.startswith("$"):
        return _compile_root(text)
    steps: list[Step] = []
    position = 0
    while position < len(text):
        step = _STEP.match(text, position)
        if step is None or (bool(step[2]) != bool(steps) and step[1] is None):
            raise ValueError(f"cannot be read from {text[position:]!r} on, at character {position + 1}: {_HELP}")
        if step[1] is not None:
            steps.append(int(step[1]))
        else:
            steps.append(step[3] if step[3] is not None else re.sub(r"\\(.)", r"\1", step[4]))
        position = step.end()
    return Path(text, "value", tuple(steps))


_HELP = 'write it like data.temp, readings[0].v or data."a.b"'


def _compile_root(text: str) -> Path:
    root = _ROOT.match(text)
    if root is None:
        raise ValueError(f"{text!r} is not known; after $ there is $value, $time, $topic or $topic[1]")
    if root[2] is not None:
        return Path(text, "topic", (int(root[2]),))
    return Path(text, root[1], ())  # type: ignore[arg-type]  # the pattern allows the three words alone


def follow(value: Any, path: Path, *, topic: str = "", time: float = 0.0) -> Any:
    """What `path` leads to. Raises RejectedError (`missing_field`) when there is nothing."""
    if path.root == "time":
        return time
    if path.root == "topic":
        if not path.steps:
            return topic
        value = topic.split("/") if topic else []
    for step in path.steps:
        if isinstance(step, str):
            if not isinstance(value, Mapping) or step not in value:
                raise RejectedError(f"there is no {path.text} in the message", reason="missing_field")
        elif not isinstance(value, list) or not -len(value) <= step < len(value):
            raise RejectedError(f"there is no {path.text} in the message", reason="missing_field")
        value = value[step]
    return value
