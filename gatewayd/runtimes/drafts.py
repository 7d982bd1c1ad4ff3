"""Speculative decoding: drafts are used only where they were measured to be faster with this model on this box.

A draft is a guess at the next tokens, from what the prompt says elsewhere ("ngram") or by a smaller model ("model");
the model checks all of them in one go and keeps those it would have written itself (Leviathan et al., "Fast Inference
from Transformers via Speculative Decoding", ICML 2023). Wrong guesses cost time, so the same summary is written with
and without, once for each model, library and box, and the choice is remembered.
Invariant: what crashed while it was tried, or took longer than it may, is never tried again; a try is a process of its
own, so it takes neither the worker along nor its memory.
"""

import contextlib
import ctypes
import hashlib
import os
import platform
import resource
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

Drafts = Literal["none", "ngram", "model"]

PROMPT = """A log, and a report of what happened and names only what the log names.

Log:
- 118x compressor temperature 71 C, ok
- 2x compressor restarted by watchdog
- 9x compressor pressure sensor failed: no signal
Report: {"headline": "Compressor pressure sensor failed: no signal", "what_happened": "The compressor pressure sensor \
failed: no signal, 9 times. The compressor restarted by watchdog, 2 times."}

Log:
- 14x pump-3 bearing temperature above limit
- 2x pump-3 motor stopped by protection relay
- 1x valve-12 closed by interlock after pump-3 motor stopped
- 3x operator panel acknowledged alarm on pump-3
Report:"""
N_TOKENS = 64
N_RUNS = 2  # the faster one counts: what disturbs makes slower
_LEAST_GAIN = 1.1  # below, the difference is that of two runs of the same
_MAX_REMEMBERED = 64
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Tried(msgspec.Struct, kw_only=True):
    """What is remembered of one model, library and box."""

    kind: Drafts = "none"
    trying: str = ""  # not empty after the worker ended while it tried this
    given_up: list[str] = []  # kinds that crashed, failed, or took too long
    seconds: dict[str, float] = {}  # of the measured ones, for a completion

    @property
    def gain(self) -> float:
        """How many times as fast as without the best drafts are; 0 when that was not measured."""
        drafted_s = [seconds for kind, seconds in self.seconds.items() if kind != "none"]
        return self.seconds["none"] / min(drafted_s) if drafted_s and "none" in self.seconds else 0.0


class Memory:
    """A file with the choices for the models of this box; the oldest ones are forgotten."""

    def __init__(self, path: Path, identity: str) -> None:
        self._path = path
        self._key = hashlib.blake2b(f"{identity}\0{_box()}".encode(), digest_size=16).hexdigest()

    def get(self) -> Tried | None:
        """What is known; None when nothing is, or the file is damaged."""
        return self._all().get(self._key)

    def put(self, tried: Tried) -> None:
        """Remember it; what cannot be written is measured again the next time."""
        known = self._all()
        known.pop(self._key, None)
        known[self._key] = tried
        kept = dict(list(known.items())[-_MAX_REMEMBERED:])
        part = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            part.write_bytes(msgspec.json.encode(kept))
            part.replace(self._path)

    def _all(self) -> dict[str, Tried]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, Tried])
        except (OSError, msgspec.DecodeError):
            return {}


def choose(
    candidates: Sequence[Drafts], memory: Memory, measure: Callable[[Drafts, float], float | None], max_s: float
) -> Tried:
    """The choice among "none" and the candidates: remembered, or measured now within `max_s`.

    `measure(kind, limit_s)` loads the model so, writes the summary, and tells the seconds that took; None when it
    failed or the limit passed.
    """
    tried = memory.get() or Tried()
    if tried.trying:  # the worker ended in the middle of it
        tried.given_up.append(tried.trying)
        tried.trying = ""
    end_s = time.monotonic() + max_s
    for kind in ("none", *candidates):
        if kind in tried.seconds or kind in tried.given_up:
            continue
        tried.trying = kind
        memory.put(tried)
        took_s = measure(kind, end_s - time.monotonic())
        tried.trying = ""
        if took_s is not None:
            tried.seconds[kind] = took_s
        else:  # without drafts: the model is too slow to be measured at all
            tried.given_up += ["none", *candidates] if kind == "none" else [kind]
    tried.kind = _fastest(tried.seconds)
    memory.put(tried)
    return tried


def in_child(work: Callable[[], float], limit_s: float) -> float | None:
    """What `work` returns, called in a process of its own; None when that fails, dies, or takes longer."""
    if limit_s <= 0:
        return None
    parent = os.getpid()
    reading, writing = os.pipe()
    child = os.fork()  # there is one thread yet, and no library that would mind
    if child == 0:
        try:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == parent:
                os.write(writing, repr(work()).encode())
        finally:
            os._exit(0)  # whatever it was: no number was written, and that says it
    os.close(writing)
    try:
        ready, _, _ = select.select([reading], [], [], limit_s)
        told = os.read(reading, 64).decode() if ready else ""
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return float(told) if told else None


def processor_s() -> float:
    """Processor time of this process so far: what else runs on the box at the moment does not change it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _fastest(seconds: Mapping[str, float]) -> Drafts:
    best: Drafts = "none"
    for kind in ("ngram", "model"):
        if kind in seconds and seconds[kind] * (_LEAST_GAIN if best == "none" else 1.0) < seconds.get(best, 0.0):
            best = "ngram" if kind == "ngram" else "model"
    return best


def _box() -> str:
    """What speed depends on beside the model: the processor and how many cores we may use."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model", "CPU part"))]
    return f"{platform.machine()} {sorted(set(names))} {len(os.sched_getaffinity(0))}"
