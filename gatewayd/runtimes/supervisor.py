"""Keeps one worker process alive for all who call it: starts it, starts it again, ends it, counts.

Invariant: a call always ends, by its answer, by its time-out or by the worker's death, and nothing the worker does ends
the daemon. A worker that died is started again by the next call, after a pause that grows with each death in a row.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

import msgspec
import structlog

from gatewayd.config import schema
from gatewayd.errors import ModelError, RejectedError, TransientError, WorkerCrashed
from gatewayd.retry import Backoff
from gatewayd.runtimes.process import WorkerProcess
from gatewayd.runtimes.protocol import Call, Load, Refused, Reply

log = structlog.get_logger(__name__)

_FIRST_PAUSE_S = 1.0
_STABLE_S = 60.0  # a worker that lived this long was well: the next death counts as the first


class Supervisor:
    """One worker process at a time. Every method may be called from any thread.

    `on_event` is told "worker_started", "worker_crashed" and "worker_timed_out".
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], Load],
        config: schema.Models,
        on_event: Callable[[str], None] = lambda _event: None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Starts the worker. `load` verifies the files and says what to load, before every start.

        Raises ModelError when the model does not load within `worker_start_s`.
        """
        self._name = name
        self._load = load
        self._config = config
        self._on_event = on_event
        self._draw = draw
        self._backoff = Backoff(_FIRST_PAUSE_S, config.worker_restart_max_s, _STABLE_S)
        self._not_before_s = 0.0
        self._counts: Counter[str] = Counter()
        self._prefixes: tuple[str, ...] = ()
        self._starting = threading.Lock()  # held while the worker is started: others wait for the same one
        self._counting = threading.Lock()
        self._closing = threading.Event()
        self._launching: WorkerProcess | None = None
        self._worker: WorkerProcess | None = None
        self._worker = self._start(load())
        self.context_tokens = self._worker.context_tokens
        self.parallel = self._worker.parallel

    @property
    def pid(self) -> int | None:
        """The worker's process id; None while there is none."""
        worker = self._worker
        return worker.pid if worker is not None and worker.is_alive else None

    def stats(self) -> Mapping[str, float]:
        """What was counted, and `load_s` and `resident_bytes` of the worker that lives. Never starts one."""
        with self._counting:
            stats = {key: float(value) for key, value in self._counts.items()}
        worker = self._worker
        if worker is not None and worker.is_alive:
            stats["load_s"] = worker.load_s
            stats["resident_bytes"] = float(worker.resident_bytes())
        return stats

    def remember(self, prefix: str) -> bool:
        """Have every worker that is started compute this static prompt first; False when that is known. Beyond
        `llm_max_prefixes` the one remembered for the longest is forgotten."""
        with self._counting:
            if prefix in self._prefixes:
                return False
            self._prefixes = (*self._prefixes, prefix)[-self._config.llm_max_prefixes :]
            return True

    def count(self, **counts: int) -> None:
        """Add to the figures of `stats`."""
        with self._counting:
            self._counts.update(counts)

    def call(
        self, request: Call, deadline_s: float, on_sent: Callable[[WorkerProcess], None] = lambda _worker: None
    ) -> Reply:
        """One round trip, with a worker started for it where there is none; `on_sent` is called when the worker has it.

        Raises RejectedError, TransientError as the worker says, WorkerCrashed when it died or hung. It ends a late
        call itself; one that does not is hung, and is killed.
        """
        worker = self._alive(deadline_s)
        wait_s = max(0.0, deadline_s - time.monotonic()) + self._config.worker_grace_s
        try:
            reply = worker.call(request, wait_s, on_sent)
        except TimeoutError:
            self.count(timeouts=1)
            self._on_event("worker_timed_out")
            log.warning("worker hangs and is killed", model=self._name, pid=worker.pid, waited_s=round(wait_s, 1))
            worker.kill()
            raise WorkerCrashed(f'model "{self._name}": the worker hung for {wait_s:.1f} s and was killed') from None
        if not isinstance(reply, Refused):
            return reply
        self.count(failures=1)
        if reply.reason:
            raise RejectedError(f'model "{self._name}": {reply.problem}', reason=reply.reason)
        raise TransientError(f'model "{self._name}": {reply.problem}')

    def close(self) -> None:
        """End the worker. Calls under way end with WorkerCrashed, later ones too."""
        self._closing.set()
        launching = self._launching
        if launching is not None:
            launching.kill()
        with self._starting:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.stop()

    def _alive(self, deadline_s: float) -> WorkerProcess:
        """The worker, started again if it died. Raises TransientError when the pause lasts beyond the deadline."""
        worker = self._worker
        if worker is not None and worker.is_alive:
            return worker
        if not self._starting.acquire(timeout=max(0.0, deadline_s - time.monotonic())):
            raise TransientError(f'model "{self._name}": its worker is being started')
        try:
            if self._worker is None or not self._worker.is_alive:
                self._worker = self._restart(deadline_s)
            return self._worker
        finally:
            self._starting.release()

    def _restart(self, deadline_s: float) -> WorkerProcess:
        self._pause(deadline_s)
        load = self._load()  # a file that is no longer the manifest's is a ModelError, and no crash
        try:
            return self._start(load)
        except ModelError as exc:
            # The files were verified and have loaded before: what is wrong now may pass (memory, most likely).
            self._crashed(None)
            raise WorkerCrashed(str(exc)) from exc

    def _pause(self, deadline_s: float) -> None:
        now_s = time.monotonic()
        pause_s = self._not_before_s - now_s
        if now_s + pause_s > deadline_s:
            raise TransientError(f'model "{self._name}": its worker crashed, next start in {pause_s:.0f} s')
        if self._closing.wait(max(0.0, pause_s)):
            raise WorkerCrashed(f'model "{self._name}" is closed')

    def _start(self, load: Load) -> WorkerProcess:
        load = msgspec.structs.replace(load, prefixes=list(self._prefixes))
        worker = WorkerProcess(self._name, load, on_end=self._crashed)
        self._launching = worker
        try:
            worker.start(self._config.worker_start_s)
        finally:
            self._launching = None
        self._check_again(worker)
        self.count(starts=1)
        if worker.ready is not None:
            self.count(
                prefixes_restored=worker.ready.prefixes_restored, prefixes_computed=worker.ready.prefixes_computed
            )
        self._backoff.connected(time.monotonic())
        self._on_event("worker_started")
        log.info("worker started", model=self._name, pid=worker.pid, load_s=round(worker.load_s, 2))
        if worker.ready is not None and worker.ready.draft_gain:
            gain = round(worker.ready.draft_gain, 2)
            log.info("drafts were measured", model=self._name, chosen=worker.ready.drafts, best_gain=gain)
        return worker

    def _check_again(self, worker: WorkerProcess) -> None:
        """The files may have been exchanged after they were verified and before the worker opened them: then what it
        has is not what was verified. Costs nothing where they are the same."""
        try:
            self._load()
        except ModelError:
            worker.kill()
            raise

    def _crashed(self, problem: str | None) -> None:
        """A worker that had been ready ended (`problem` says how), or one did not get ready (None)."""
        if self._closing.is_set():
            return
        now_s = time.monotonic()
        self._backoff.lost(now_s)
        delay_s = self._backoff.next_delay_s(self._draw())
        self._not_before_s = now_s + delay_s
        self.count(crashes=1)
        self._on_event("worker_crashed")
        log.warning("worker crashed", model=self._name, cause=problem or "did not start", pause_s=round(delay_s, 2))
