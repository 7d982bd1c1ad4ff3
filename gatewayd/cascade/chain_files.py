"""The files of the audit trail, read: which there are, whether the chain over them holds, where it ends.

Besides `audit-<n>.ndjson` there is `head`: number and hash of the last line known to be on disk. Without it, lines
taken away at the end would not be missed. It is written after the fsync of its line, so it never promises too much.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from gatewayd.cascade.chain import GENESIS, Link, Walk

HEAD = "head"
MAX_LINE_BYTES = 1 << 20  # a line of ours is below a hundredth of it

_PAUSE_LINES = 256
_NAME = re.compile(r"audit-(\d{8,})\.ndjson")


class Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `head` holds."""

    seq: int
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """The first line that does not fit."""

    file: Path
    line: int  # from 1
    why: str
    after_seq: int  # number of the last line that fits; 0: none does


@dataclass(slots=True, kw_only=True)
class Finding:
    """What a look at the trail found."""

    files: list[Path] = field(default_factory=list)
    n_lines: int = 0
    first: Link | None = None
    last: Link | None = None  # the last line that fits
    end_bytes: int = 0  # where it ends in its file
    end_file: Path | None = None
    misfit: Misfit | None = None
    torn_bytes: int = 0  # after the last line end of the last file
    events: list[Link] = field(default_factory=list)
    head: Head | None = None

    @property
    def last_seq(self) -> int:
        """Number of the last line that fits; 0 when none does."""
        return self.last.seq if self.last is not None else 0

    @property
    def problem(self) -> str:
        """What is wrong, in a line; "" when the chain holds."""
        if self.misfit is not None:
            found = self.misfit
            return f"{found.file.name}, line {found.line}: {found.why}"
        if not self.files:
            return "" if self.head is None else f"the files are gone; line {self.head.seq} was the last"
        return self.begin_problem or self._end_problem()

    @property
    def is_short(self) -> bool:
        """Whether lines are missing that were on disk once."""
        return self.head is not None and self.last_seq < self.head.seq

    @property
    def begin_problem(self) -> str:
        """Why the first line cannot be the first; "" when it can."""
        if self.first is None or self.first.prev == GENESIS:
            return ""
        if any(event.event == "removed" and event.last_hash == self.first.prev for event in self.events):
            return ""
        return f"begins with line {self.first.seq}, and nothing in it says that the ones before were removed"

    def _end_problem(self) -> str:
        if self.head is None:
            return "there is no file `head`: whether lines are missing at the end cannot be said"
        return f"ends with line {self.last_seq}; there was a line {self.head.seq}" if self.is_short else ""


def trail_files(folder: Path) -> list[Path]:
    """The trail's files, oldest first; none when there is no folder."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=file_number)


def file_number(path: Path) -> int:
    """The `<n>` of `audit-<n>.ndjson`."""
    found = _NAME.fullmatch(path.name)
    return int(found[1]) if found else 0


def file_name(number: int) -> str:
    """Eight digits, so that a list by name is one by age."""
    return f"audit-{number:08d}.ndjson"


def read_head(folder: Path) -> Head | None:
    """The head; None when there is none, or none that can be read."""
    try:
        return msgspec.json.decode((folder / HEAD).read_bytes(), type=Head)
    except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def examine(folder: Path, *, only_last: bool = False, pause: Callable[[], None] = lambda: None) -> Finding:
    """Follow the chain through all files, or `only_last` through the last one. Raises OSError.

    `pause` is called every few hundred lines: a thread beside an event loop lets others have their turn there.
    """
    head = read_head(folder)  # before the lines: a daemon may be writing, and its head is never ahead of its lines
    files = trail_files(folder)
    finding = Finding(files=files, head=head)
    walk = Walk()
    for path in files[_last_with_lines(files) :] if only_last else files:
        _examine_file(path, walk, finding, pause, is_last=path == files[-1])
        if finding.misfit is not None:
            break
    return finding


def _last_with_lines(files: list[Path]) -> int:
    """Index of the last file that is not empty; 0 when all are."""
    return next((at for at in reversed(range(len(files))) if files[at].stat().st_size), 0)


def _examine_file(path: Path, walk: Walk, finding: Finding, pause: Callable[[], None], *, is_last: bool) -> None:
    finding.end_file, finding.end_bytes = path, 0
    for number, line in enumerate(lines(path), start=1):
        if is_last and not line.endswith(b"\n"):
            finding.torn_bytes = len(line)
            return
        link = walk.step(line)
        if isinstance(link, Link) and finding.head is not None and link.seq == finding.head.seq:
            link = link if link.hash == finding.head.hash else "it is not the line that `head` names"
        if isinstance(link, str):
            finding.misfit = Misfit(file=path, line=number, why=link, after_seq=finding.last_seq)
            return
        finding.n_lines += 1
        if finding.n_lines % _PAUSE_LINES == 0:
            pause()
        finding.first = finding.first or link
        finding.last = link
        finding.end_bytes += len(line)
        if link.event:
            finding.events.append(link)


def lines(path: Path) -> Iterator[bytes]:
    """The file's lines with their ends; one that is too long comes in parts (and does not fit then)."""
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE_BYTES):
            yield line


def write_head(fd: int, head: Head) -> None:
    """In place and in one sector, so that a crash leaves the old one or the new one. Not synced: older is allowed."""
    content = msgspec.json.encode(head) + b"\n"
    os.pwrite(fd, content.ljust(128), 0)
