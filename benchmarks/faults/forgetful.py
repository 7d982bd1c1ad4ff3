"""Case 3 with whole processes: at each kill the disk forgets what was not synced, as it does when the power fails.

A small library below the process (LD_PRELOAD, see alternatives/forget.c) records what SQLite writes and syncs; after a
`kill -9` the files become one of the images that a power cut at that moment may leave (see tests.sim.vfs), and the next
life begins with them. So gatewayd and the alternatives meet the same cuts on the same bench. Broker and device keep
their power: what they were told is what is owed.
"""

import os
import random
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.faults import compared, kills
from benchmarks.faults.bench import Part, Run, say
from tests.sim.oracle import Line, judge
from tests.sim.rig import Subject, bench
from tests.sim.vfs import Op, Platter

TEST = "3 power cuts of the whole process"
_HEAD = struct.Struct("<cHqI")
_KINDS = {b"o": "open", b"w": "write", b"t": "truncate", b"s": "sync", b"d": "delete"}
_SIMULATED = "kill -9, and SQLite's unsynced writes dropped, reordered or torn"
_SIMULATED_BRIDGE = "kill -9; mosquitto.db as it was last saved and renamed"


def parts(run: Run) -> list[Part]:
    """Ours; with a compiler alone."""
    if _compiler() is None:
        say(f"{TEST}: left out, there is no C compiler")
        return []
    n_cuts = run.size(20, 1000)
    return [Part(TEST, "gatewayd, direct", partial(_cut_ours, seed=run.seed, n_cuts=n_cuts), seconds=n_cuts)]


def compared_parts(run: Run) -> list[Part]:
    """The same for the alternatives, as often."""
    n_cuts = run.size(20, 1000)
    made = []
    for name in compared.installed():
        if name in compared.BRIDGES:
            play = partial(_cut_bridge, seed=run.seed, name=name, n_cuts=n_cuts)
        elif _compiler() is None:
            continue
        else:
            play = partial(_cut_script, seed=run.seed, name=name, n_cuts=n_cuts)
        made.append(Part(TEST, name, play, seconds=n_cuts, is_compared=True))
    return made


class Forgetful:
    """A subject whose SQLite files are, after each kill, what a power cut would have left of them."""

    def __init__(self, inner: Subject, seed: int) -> None:
        self._inner = inner
        self._draw = random.Random(seed)
        self.folder = inner.folder
        self._log = self.folder / "forget.bin"
        self._library = self.folder / "forget.so"
        self.n_forgotten = 0  # cuts that took something back
        _compile(self._library)
        self._before: dict[str, bytes] = {}

    @property
    def process(self) -> "subprocess.Popen[bytes] | None":
        """The process."""
        return self._inner.process

    def start(self, *, ready: bool = True) -> None:
        """Another life, on record, and always waited for: a cut in a start that has opened nothing shows nothing."""
        self._log.unlink(missing_ok=True)
        self._before = {str(path): path.read_bytes() for path in self._files()}
        with _environment(LD_PRELOAD=str(self._library), FORGET_FOLDER=str(self.folder), FORGET_LOG=str(self._log)):
            self._inner.start(ready=True)

    def kill(self) -> None:
        """The power fails."""
        self._inner.kill()
        platter = Platter()
        for name, content in self._before.items():
            platter.put(name, content)
        for op in _read(self._log):
            platter.apply(op)
        image = platter.image(self._draw)
        now = {str(path): path.read_bytes() for path in self._files()}
        self.n_forgotten += now != image
        for name in now.keys() - image.keys():
            Path(name).unlink()
        for name, content in image.items():
            Path(name).write_bytes(content)
        for path in self.folder.rglob("*.db-shm"):
            path.unlink()

    def stop(self) -> int:
        """A clean stop."""
        return self._inner.stop()

    def end(self) -> None:
        """It is gone after this."""
        self._inner.end()

    def _files(self) -> list[Path]:
        found = [self.folder.rglob(pattern) for pattern in ("*.db", "*.db-wal", "*.db-journal")]
        return [path for paths in found for path in paths]


def _read(log: Path) -> Iterator[Op]:
    """The record, but for an entry that was being written."""
    data = log.read_bytes() if log.exists() else b""
    at = 0
    while at + _HEAD.size <= len(data):
        kind, n_name, place, n_data = _HEAD.unpack_from(data, at)
        begin = at + _HEAD.size
        at = begin + n_name + n_data
        if at > len(data):
            return
        name = data[begin : begin + n_name].decode()
        if kind == b"s" and Path(name).is_dir():
            yield Op("sync_folder")
        else:
            yield Op(_KINDS[kind], name, place, data[begin + n_name : at])  # type: ignore[arg-type]


def _cut_ours(folder: Path, seed: int, n_cuts: int) -> Line:
    line = Line(test=TEST, subject="gatewayd, direct", seed=seed)
    line.more["simulated"] = _SIMULATED
    with bench(folder, seed) as the:
        subject = Forgetful(the.gateway(mode="direct"), seed)
        kills.kill_at_random(the, subject, line, n_kills=n_cuts)  # type: ignore[arg-type]
        line.fresh_event_ok = the.is_fresh_through()
        the.close_books(line)
    line.more["cuts_that_took_something_back"] = subject.n_forgotten
    judge(line, min_acked=n_cuts * 50, min_faults=n_cuts)
    if subject.n_forgotten < n_cuts // 8:
        line.problems.append(f"vacuous: {subject.n_forgotten} of {n_cuts} cuts took something back")
    return line


def _cut_script(folder: Path, seed: int, name: str, n_cuts: int) -> Line:
    line = Line(test=TEST, subject=name, seed=seed, is_compared=True)
    line.more["simulated"] = _SIMULATED
    with compared.alternative(folder, seed, name) as (the, inner):
        subject = Forgetful(inner, seed)
        kills.kill_at_random(the, subject, line, n_kills=n_cuts)  # type: ignore[arg-type]
        line.more["cuts_that_took_something_back"] = subject.n_forgotten
        compared.close(the, line)
    return line


def _cut_bridge(folder: Path, seed: int, name: str, n_cuts: int) -> Line:
    line = Line(test=TEST, subject=name, seed=seed, is_compared=True)
    line.more["simulated"] = _SIMULATED_BRIDGE
    with compared.alternative(folder, seed, name) as (the, subject):
        kills.kill_at_random(the, subject, line, n_kills=n_cuts)
        compared.close(the, line)
    return line


def _compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc")


def _compile(library: Path) -> None:
    compiler = _compiler()
    assert compiler is not None
    source = Path(__file__).parent / "alternatives" / "forget.c"
    library.parent.mkdir(parents=True, exist_ok=True)
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl", "-lpthread"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


@contextmanager
def _environment(**names: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
