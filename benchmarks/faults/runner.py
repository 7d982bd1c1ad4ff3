"""Plays the parts, some at a time, each in a process group of its own that is gone afterwards whatever happened."""

import logging
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import structlog

from benchmarks.faults import bench
from benchmarks.faults.bench import Part, say
from tests.sim.oracle import Line

_LOOK_S = 1.0


@dataclass(frozen=True)
class _Playing:
    part: Part
    number: int
    process: ForkServerProcess
    answer: Connection
    began_s: float


def play_all(parts: Sequence[tuple[int, Part]], folder: Path, n_at_once: int) -> Iterator[tuple[int, Line]]:
    """Each part's case and line, as they end. Parts that want to be alone come last, one after the other."""
    beside = sorted((entry for entry in parts if not entry[1].is_alone), key=lambda entry: -entry[1].seconds)
    yield from _play(beside, folder / "beside", n_at_once)
    yield from _play([entry for entry in parts if entry[1].is_alone], folder / "alone", 1)


def _play(parts: Sequence[tuple[int, Part]], folder: Path, n_at_once: int) -> Iterator[tuple[int, Line]]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.faults.__main__"])
    waiting = list(parts)
    playing: list[_Playing] = []
    n_started = 0
    try:
        while waiting or playing:
            while waiting and len(playing) < n_at_once:
                n_started += 1
                playing.append(_begin(context, *waiting.pop(0), folder / str(n_started)))
            wait([one.answer for one in playing], timeout=_LOOK_S)
            for one in [one for one in playing if one.answer.poll() or _is_over(one)]:
                playing.remove(one)
                yield one.number, _end(one)
    finally:
        for one in playing:
            _clear(one)


def _begin(context: multiprocessing.context.ForkServerContext, number: int, part: Part, folder: Path) -> _Playing:
    say(f"case {number}: {part.test}, {part.subject}")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(part, folder, bench.began(), theirs))
    process.start()
    theirs.close()
    return _Playing(part, number, process, ours, time.monotonic())


def _is_over(one: _Playing) -> bool:
    return time.monotonic() - one.began_s > one.part.limit_s


def _end(one: _Playing) -> Line:
    try:
        line: Line = one.answer.recv() if one.answer.poll() else _no_line(one.part, "took far too long")
    except EOFError:
        line = _no_line(one.part, "its process ended without a line")
    _clear(one)
    line.is_compared = one.part.is_compared
    line.more["seconds"] = round(time.monotonic() - one.began_s, 1)
    return line


def _clear(one: _Playing) -> None:
    """Nothing of it is left: broker, gateway and cloud are in its group."""
    assert one.process.pid is not None
    one.process.kill()
    with suppress(ProcessLookupError):
        os.killpg(one.process.pid, signal.SIGKILL)
    one.process.join()
    one.answer.close()


def _work(part: Part, folder: Path, began_s: float, answer: Connection) -> None:
    os.setsid()
    bench.began(began_s)
    folder.parent.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(filename=f"{folder}.log", level=logging.WARNING)
    structlog.configure(logger_factory=structlog.stdlib.LoggerFactory())
    try:
        line = part.play(folder)
    except Exception as error:  # whatever it is, it is this line's, and the others are played
        traceback.print_exc()
        line = _no_line(part, repr(error)[:2000])
    answer.send(line)


def _no_line(part: Part, problem: str) -> Line:
    return Line(test=part.test, subject=part.subject, seed=0, problems=[problem])
