"""Lessons on disk: `<state>/lessons/<route>/lessons-<n>.ndjson`, a lesson a line, the oldest file given up first.

Invariant: a route's lessons never take more than `max_lessons_bytes` (and one line). What a crash left of a line is cut
off before the next is written. They hold payloads: nobody but the daemon's user may read them, and they stay here.
"""

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from gatewayd.cascade.verdict import Verdict

FOLDER = "lessons"
_NAME = re.compile(r"lessons-(\d{8,})\.ndjson")
_SEGMENTS = 8  # a route's lessons are given up an eighth at a time


class Lesson(msgspec.Struct, frozen=True, kw_only=True):
    """What a better tier answered to a message, or (a rehearsal) what the student was sure of itself."""

    key: str
    topic: str
    time: float  # of the message, seconds since the epoch
    value: Any  # the decoded payload, or what the student's handler gave as evidence
    student: Verdict  # of the first tier
    label: str  # of the tier that was taken
    tier: str
    confidence: float
    model: str = ""
    is_evidence: bool = False  # `value` is evidence

    @property
    def is_rehearsal(self) -> bool:
        """Kept so that the next student does not forget what this one knows."""
        return self.tier == self.student.tier


class Shelf(msgspec.Struct, frozen=True, kw_only=True):
    """What there is of a route."""

    route: str
    n_taught: int
    n_rehearsals: int
    n_damaged: int
    n_bytes: int
    labels: dict[str, int]
    first: float  # time of the oldest message, seconds since the epoch; 0: none
    last: float


_decoder = msgspec.json.Decoder(Lesson)


def segments(folder: Path) -> list[Path]:
    """The files of one route, the oldest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(found, key=_number)


def read_lessons(folder: Path) -> Iterator[Lesson | None]:
    """A route's lessons, the oldest first; None for a line that cannot be read."""
    for path in segments(folder):
        with path.open("rb") as file:
            for line in file:
                try:
                    yield _decoder.decode(line)
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    yield None


def look(root: Path) -> list[Shelf]:
    """What there is of each route, by name. `root` is `<state>/lessons`."""
    if not root.is_dir():
        return []
    return [_look_at(folder) for folder in sorted(root.iterdir()) if segments(folder)]


def purge(root: Path, routes: Sequence[str]) -> int:
    """Remove what there is of these routes; how many bytes that was."""
    n_bytes = 0
    for route in routes:
        n_bytes += sum(path.stat().st_size for path in segments(root / route))
        shutil.rmtree(root / route, ignore_errors=True)
    return n_bytes


class Segments:
    """The end of one route's lessons. Blocks; used by one thread."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._fd: int | None = None
        self._size = 0
        self._path = folder

    def append(self, lines: bytes) -> int:
        """Write whole lines; how many lessons were given up for them. Raises OSError, and has written none then."""
        try:
            if self._fd is None or not self._path.exists():  # purged beside us
                self._open()
            if self._size and self._size + len(lines) > max(1, self._max_bytes // _SEGMENTS):
                self.sync()
                self._begin(_number(self._path) + 1)
            self._write(lines)
        except OSError:
            self.close()
            raise
        return self._give_up()

    def sync(self) -> None:
        """Return when the disk has what was appended. Raises OSError."""
        if self._fd is not None:
            os.fsync(self._fd)

    def close(self) -> None:
        """Let go of the file."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None

    def _open(self) -> None:
        found = segments(self._folder)
        self._begin(_number(found[-1]) if found else 1)
        assert self._fd is not None
        end = self._path.read_bytes().rfind(b"\n") + 1
        if end < self._size:
            os.ftruncate(self._fd, end)
            self._size = end

    def _begin(self, number: int) -> None:
        self.close()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = self._folder / f"lessons-{number:08d}.ndjson"
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._fd).st_size

    def _write(self, lines: bytes) -> None:
        assert self._fd is not None
        rest = memoryview(lines)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            with suppress(OSError):  # if that fails too, the next opening cuts the torn line off
                os.ftruncate(self._fd, self._size)
            raise
        self._size += len(lines)

    def _give_up(self) -> int:
        """The oldest files, until all fit; how many lessons were in them."""
        found = segments(self._folder)
        sizes = {path: path.stat().st_size for path in found}
        n_lessons = 0
        while len(found) > 1 and sum(sizes[path] for path in found) > self._max_bytes:
            oldest = found.pop(0)
            n_lessons += oldest.read_bytes().count(b"\n")
            oldest.unlink()
        return n_lessons


def _look_at(folder: Path) -> Shelf:
    labels: Counter[str] = Counter()
    n_rehearsals = n_damaged = 0
    times: list[float] = []
    for lesson in read_lessons(folder):
        if lesson is None:
            n_damaged += 1
            continue
        times = [min([lesson.time, *times]), max([lesson.time, *times])]
        n_rehearsals += lesson.is_rehearsal
        if not lesson.is_rehearsal:
            labels[lesson.label] += 1
    return Shelf(
        route=folder.name,
        n_taught=labels.total(),
        n_rehearsals=n_rehearsals,
        n_damaged=n_damaged,
        n_bytes=sum(path.stat().st_size for path in segments(folder)),
        labels=dict(labels.most_common()),
        first=times[0] if times else 0.0,
        last=times[1] if times else 0.0,
    )


def _number(path: Path) -> int:
    found = _NAME.fullmatch(path.name)
    return int(found[1]) if found else 0
