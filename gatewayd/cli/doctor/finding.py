"""One thing looked at, and what it came to."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor. A warning leaves the exit status at 0, a failure makes it 1."""

    what: str
    state: State
    words: str
    hint: str = ""  # what to do

    @property
    def ok(self) -> bool:
        """Whether nothing has failed."""
        return self.state != "failed"


def good(what: str, words: str, hint: str = "") -> Finding:
    """As it should be."""
    return Finding(what, "ok", words, hint)


def warning(what: str, words: str, hint: str) -> Finding:
    """It runs like this, and there is something to know or to mend."""
    return Finding(what, "warning", words, hint)


def failed(what: str, words: str, hint: str) -> Finding:
    """It does not run like this, or loses what it promised to keep."""
    return Finding(what, "failed", words, hint)
