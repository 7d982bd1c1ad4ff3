"""One life of a worker process: spawn, wait until it is ready, exchange frames, notice its end.

Invariant: whoever waits for an answer is told when there will be none. One thread owns the process from spawn to end,
because the kernel's parent-death signal follows the *thread* that spawned (prctl(2)), and a handler's thread may end.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import IO

import msgspec
import structlog

from gatewayd.errors import ModelError, WorkerCrashed
from gatewayd.runtimes.protocol import Call, Cancel, Link, Load, Ready, Reply

log = structlog.get_logger(__name__)

_STOP_S = 3.0  # to end by itself when the daemon hangs up
_TAIL_LINES = 12  # of stderr, for the error that tells why it died …
_TAIL_S = 5.0  # … and only what it wrote in its last seconds
_MAX_LINE_CHARS = 400
_MAX_LOGGED_LINES_PER_S = 10


class WorkerProcess:
    """One worker process. `call` and `kill` may be called from any thread, `start` once."""

    def __init__(self, name: str, load: Load, on_end: Callable[[str], None]) -> None:
        """`on_end(problem)` is called once, from the owner's thread, when a worker that was ready has ended."""
        self.context_tokens = 0
        self.parallel = 1
        self.load_s = 0.0
        self.ready: Ready | None = None  # what it said when it was
        self._name = name
        self._load = load
        self._on_end = on_end
        self._ready: Future[None] = Future()
        self._waiting: dict[int, Future[Reply]] = {}
        self._state = threading.Lock()  # guards _waiting and _problem
        self._problem = ""  # not empty: it has ended, and this is how
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Link | None = None
        self._tail: deque[tuple[float, str]] = deque(maxlen=_TAIL_LINES)
        self._owner = threading.Thread(target=self._own, name=f"worker[{name}]", daemon=True)

    @property
    def pid(self) -> int:
        return 0 if self._process is None else self._process.pid

    @property
    def is_alive(self) -> bool:
        with self._state:
            return not self._problem

    def start(self, timeout_s: float) -> None:
        """Return when the model is loaded. Raises ModelError with the end of the worker's stderr when it is not."""
        begun_s = time.monotonic()
        self._owner.start()
        try:
            self._ready.result(timeout_s)
        except TimeoutError:
            self.kill()
            raise ModelError(
                f'model "{self._name}": not loaded within {timeout_s:g} s; raise models.worker_start_s'
            ) from None
        self.load_s = time.monotonic() - begun_s

    def call(
        self, request: Call, timeout_s: float, on_sent: Callable[["WorkerProcess"], None] = lambda _self: None
    ) -> Reply:
        """Send and wait. Raises WorkerCrashed when the worker ends, TimeoutError when it does not answer."""
        answer: Future[Reply] = Future()
        with self._state:
            if self._problem:
                raise WorkerCrashed(self._problem)
            self._waiting[request.id] = answer
        try:
            self._send(request)
            on_sent(self)
            return answer.result(timeout_s)
        finally:
            with self._state:
                self._waiting.pop(request.id, None)

    def tell(self, frame: Cancel) -> None:
        """Send what is not answered."""
        self._send(frame)

    def _send(self, frame: Call | Cancel) -> None:
        if self._link is not None:  # it is ready, so there is one
            with contextlib.suppress(OSError):  # the owner's thread notices the end, and tells who waits
                self._link.send(frame)

    def resident_bytes(self) -> int:
        """Resident memory, as proc(5) has it; 0 when the process is gone."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (OSError, IndexError, ValueError):
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    def kill(self) -> None:
        """End it at once; returns when all who waited for it know."""
        if self._process is not None:
            self._process.kill()
        self._owner.join(_STOP_S)

    def stop(self) -> None:
        """Hang up, and kill it when that does not end it soon."""
        if self._link is not None:
            self._link.close()
        self._owner.join(_STOP_S)
        if self._owner.is_alive():
            self.kill()

    def _own(self) -> None:
        scratch_dir = tempfile.mkdtemp(prefix="gatewayd-worker-")
        try:
            process, link = self._spawn()
            with process:
                chatter = threading.Thread(target=self._listen, args=[process.stderr], daemon=True)
                chatter.start()
                self._converse(link, scratch_dir)
                self._reap(process)
                chatter.join(_STOP_S)
            self._end(f'model "{self._name}": its worker {_how(process.returncode)}{self._last_words()}')
        except OSError as exc:
            self._end(f'model "{self._name}": its worker cannot be started: {exc}')
        finally:
            shutil.rmtree(scratch_dir, ignore_errors=True)

    def _spawn(self) -> tuple[subprocess.Popen[bytes], Link]:
        ours, theirs = socket.socketpair()
        with theirs:
            # -P: the current folder is no place to import from. A session of its own: Ctrl-C is for the daemon.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "gatewayd.runtimes.worker_main", str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._link = Link(ours, Reply)
        return self._process, self._link

    def _converse(self, link: Link, scratch_dir: str) -> None:
        """Until the worker ends or talks nonsense."""
        try:
            link.send(msgspec.structs.replace(self._load, scratch_dir=scratch_dir))
            while (reply := link.receive()) is not None:
                if isinstance(reply, Ready):
                    self.context_tokens, self.parallel = reply.context_tokens, reply.parallel
                    self.ready = reply
                    self._ready.set_result(None)
                    continue
                with self._state:
                    answer = self._waiting.pop(reply.id, None)
                if answer is not None:  # None: whoever asked has stopped waiting
                    answer.set_result(reply)
        except OSError:
            return  # it was dead before it read the first frame
        except msgspec.DecodeError as exc:
            self._tail.append((time.monotonic(), f"it sent what is no frame: {exc}"))

    def _reap(self, process: subprocess.Popen[bytes]) -> None:
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()

    def _end(self, problem: str) -> None:
        if self._ready.done():
            self._on_end(problem)  # first, so that nobody starts the next one before the pause is known
        with self._state:
            self._problem = problem
            waiting = list(self._waiting.values())
            self._waiting.clear()
        if self._link is not None:
            self._link.close()
        if not self._ready.done():
            self._ready.set_exception(ModelError(problem))
        for answer in waiting:
            answer.set_exception(WorkerCrashed(problem))

    def _last_words(self) -> str:
        since_s = time.monotonic() - _TAIL_S
        lines = [line for written_s, line in self._tail if line and written_s >= since_s]
        return ": " + " | ".join(lines) if lines else ""

    def _listen(self, stderr: IO[bytes]) -> None:
        """The worker's stderr: kept for its obituary, logged at debug and at a limited rate."""
        second, logged, left_out = 0, 0, 0
        while line := stderr.readline(_MAX_LINE_CHARS):
            text = line.decode(errors="replace").strip()
            self._tail.append((time.monotonic(), text))
            now = int(time.monotonic())
            if now != second:
                if left_out:
                    log.debug("worker wrote more than is logged", model=self._name, lines=left_out)
                second, logged, left_out = now, 0, 0
            if logged < _MAX_LOGGED_LINES_PER_S:
                logged += 1
                log.debug("worker says", model=self._name, line=text)
            else:
                left_out += 1


def _how(returncode: int) -> str:
    if returncode >= 0:
        return f"ended with status {returncode}"
    try:
        return f"was ended by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was ended by signal {-returncode}"
