"""The worker: a process of its own that holds one language model and answers the daemon's calls.

Invariant: it never outlives the daemon and never takes it along. A GGUF that aborts the process, a prompt that exhausts
the memory, a bug in native code end this process alone.
Started as `python -m gatewayd.runtimes.worker_main <descriptor> <pid of the daemon>`; its paths were verified.
"""

import ctypes
import importlib
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Protocol

from gatewayd.errors import GatewaydError, RejectedError
from gatewayd.runtimes.protocol import (
    CallEndedError,
    Cancel,
    Cancelled,
    Complete,
    Completed,
    Count,
    IsCancelled,
    Keep,
    Kept,
    Link,
    Load,
    Number,
    Ping,
    Place,
    Ready,
    Refused,
    Reply,
    Request,
    Score,
    Scored,
    Slotted,
)
from gatewayd.runtimes.protocol import Stats as StatsRequest

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_OOM_SCORE = "800"  # proc(5): of 1000; the kernel takes the worker before the daemon
_GROUP_ATTEMPTS = 20
_GROUP_PAUSE_S = 0.12
_POLICIES = {"other": os.SCHED_OTHER, "batch": os.SCHED_BATCH, "idle": os.SCHED_IDLE}

_BACKENDS: Mapping[str, str] = {
    "xllamacpp": "gatewayd.runtimes.xllamacpp_runtime",
    "llama_cpp": "gatewayd.runtimes.llama_cpp_runtime",
}


_EXTRAS: Mapping[str, str] = {"xllamacpp": "llm", "llama_cpp": "llm-compile"}


class Backend(Protocol):
    """A language model in this process. `open_backend(Load) -> Backend` of each module in _BACKENDS makes one."""

    context_tokens: int
    parallel: int  # how many completions may run at once
    prefixes_restored: int  # of Load.prefixes
    prefixes_computed: int
    drafts: str
    draft_gain: float

    def complete(self, call: Complete, is_cancelled: IsCancelled) -> Completed: ...

    def score(self, call: Score, is_cancelled: IsCancelled) -> Scored: ...

    def keep(self, call: Keep, is_cancelled: IsCancelled) -> Kept: ...

    def count_tokens(self, text: str) -> int: ...


def main(descriptor: int, daemon_pid: int) -> int:
    _die_with(daemon_pid)
    _step_back()
    link = Link(socket.socket(fileno=descriptor), Request)
    load = link.receive()
    if not isinstance(load, Load):
        return 0
    _take(load.place)
    if load.max_memory_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (load.max_memory_bytes, load.max_memory_bytes))
    try:
        backend: Backend = importlib.import_module(_BACKENDS[load.runtime]).open_backend(load)
    except ImportError as exc:
        return _give_up(f'{exc}: pip install "gatewayd[{_EXTRAS[load.runtime]}]"')
    except Exception as exc:  # the adapter's boundary: a traceback would hide what the library wrote before
        return _give_up(f"{type(exc).__name__}: {exc}")
    link.send(
        Ready(
            context_tokens=backend.context_tokens,
            parallel=backend.parallel,
            prefixes_restored=backend.prefixes_restored,
            prefixes_computed=backend.prefixes_computed,
            drafts=backend.drafts,
            draft_gain=backend.draft_gain,
        )
    )
    _serve(link, backend)
    return 0


def _give_up(problem: str) -> int:
    print(problem, file=sys.stderr)
    return 1


def _serve(link: Link, backend: Backend) -> None:
    """Until the daemon hangs up. Completions run side by side; counting never waits for them."""
    completions = ThreadPoolExecutor(backend.parallel, "complete")
    counts = ThreadPoolExecutor(1, "count")
    ends: dict[int, threading.Event] = {}  # by id of each completion that waits or runs: set, it shall end
    while (request := link.receive()) is not None:
        match request:
            case Complete() | Score() | Keep():
                ends[request.id] = threading.Event()
                completions.submit(_in_slot, link, backend, request, ends)
            case Cancel():
                if (end := ends.get(request.id)) is not None:
                    end.set()
            case Count():
                counts.submit(_answer, link, request.id, partial(_count, backend, request))
            case Ping():
                link.send(Number(id=request.id, value=0))
            case StatsRequest():
                link.send(Number(id=request.id, value=_resident_bytes()))


def _in_slot(link: Link, backend: Backend, call: Slotted, ends: dict[int, threading.Event]) -> None:
    is_cancelled = ends[call.id].is_set
    try:
        match call:
            case Complete():
                _answer(link, call.id, partial(backend.complete, call, is_cancelled))
            case Score():
                _answer(link, call.id, partial(backend.score, call, is_cancelled))
            case Keep():
                _answer(link, call.id, partial(backend.keep, call, is_cancelled))
    finally:
        del ends[call.id]


def _count(backend: Backend, call: Count) -> Number:
    return Number(id=call.id, value=backend.count_tokens(call.text))


def _answer(link: Link, call_id: int, work: Callable[[], Reply]) -> None:
    try:
        reply = work()
    except CallEndedError:
        reply = Cancelled(id=call_id)
    except RejectedError as exc:
        reply = Refused(id=call_id, problem=str(exc), reason=exc.reason)
    except GatewaydError as exc:
        reply = Refused(id=call_id, problem=str(exc))
    except Exception as exc:  # the adapter's boundary: the native library may raise anything
        reply = Refused(id=call_id, problem=f"{type(exc).__name__}: {exc}")
    try:
        link.send(reply)
    except OSError:
        os._exit(0)  # the daemon is gone


def _die_with(daemon_pid: int) -> None:
    """The kernel ends us with the daemon, even while native code holds the interpreter: prctl(2)."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != daemon_pid:  # it died before we asked
        os._exit(0)


def _step_back() -> None:
    # A service manager or a terminal tells every process of the group to end; the daemon drains first, then hangs up.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    except OSError as exc:
        print(f"oom_score_adj cannot be set: {exc}", file=sys.stderr)  # a hardened container; no reason to stay away


def _take(place: Place) -> None:
    """Before any other thread is there: the kernel keeps all three for each thread, and new ones inherit them."""
    os.nice(place.nice)
    _lower_group(place.nice)
    try:
        if place.cpus:
            os.sched_setaffinity(0, place.cpus)
        os.sched_setscheduler(0, _POLICIES[place.policy], os.sched_param(0))
    except OSError as exc:  # a core that is not there, a container that forbids it: no reason to stay away
        print(f"models.worker_cpus or models.worker_policy cannot be followed: {exc}", file=sys.stderr)


def _lower_group(niceness: int) -> None:
    """Where the kernel groups tasks by session, niceness counts within a session alone, and this one is ours: the group
    itself must step back, or the worker weighs as much as all the rest of the daemon. Source: sched(7), "The autogroup
    feature"."""
    try:
        if not Path("/proc/self/autogroup").read_text():
            return  # the feature is switched off
        told = Path(f"/proc/{os.getppid()}/autogroup").read_text().split()  # "/autogroup-25 nice 0"
        daemons = int(told[-1]) if told else 0  # nothing: a daemon in the root group, as in some containers
    except (OSError, ValueError):
        return  # a kernel without the feature
    for _ in range(_GROUP_ATTEMPTS):
        try:
            Path("/proc/self/autogroup").write_text(str(max(-20, min(19, daemons + niceness))))
        except BlockingIOError:  # somebody else did so within the last tenth of a second: the kernel allows one
            time.sleep(_GROUP_PAUSE_S)
        except OSError as exc:
            print(f"models.worker_nice cannot be followed: {exc}", file=sys.stderr)
            return
        else:
            return


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])  # proc(5): size resident shared …
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    status = main(int(sys.argv[1]), int(sys.argv[2]))
    sys.stderr.flush()
    os._exit(status)  # native threads may be in the middle of a call that nobody waits for
