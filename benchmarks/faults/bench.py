"""What every case is made of: parts, each of which plays in a folder of its own and ends in one line."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.sim.oracle import Line

_began_s = time.monotonic()


def say(text: str) -> None:
    """Progress, on stderr: the lines go to stdout."""
    print(f"[{time.monotonic() - _began_s:6.1f} s] {text}", file=sys.stderr, flush=True)


def began(began_s: float | None = None) -> float:
    """When the benchmark began, on the monotonic clock; set in a process that plays a part of it."""
    global _began_s  # noqa: PLW0603 - one clock for all that is said
    _began_s = began_s or _began_s
    return _began_s


@dataclass(frozen=True)
class Run:
    """One call of the benchmark."""

    seed: int
    is_long: bool = False

    def size(self, quick: int, long: int) -> int:
        """The quick form's figure or the long form's."""
        return long if self.is_long else quick


@dataclass(frozen=True)
class Part:
    """One line to be: `play` gets an empty folder to be made, in a process of its own.

    Args:
        test: the line's test, said also where the part does not get as far as a line.
        subject: gatewayd, or what is measured beside it.
        play: picklable, `play(folder)`.
        seconds: about how long it takes; the longest begin first, and ten times as long is too long.
        is_alone: its figures are rates and times: nothing runs beside it.
        is_compared: an alternative, whose losses fail nothing.
    """

    test: str
    subject: str
    play: Callable[[Path], Line]
    seconds: float = 5.0
    is_alone: bool = False
    is_compared: bool = False

    @property
    def limit_s(self) -> float:
        """When it is given up."""
        return 10 * self.seconds + 120


Case = Callable[[Run], list[Part]]
