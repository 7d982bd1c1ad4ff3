"""A language model in a supervised worker process, as a session any thread may call.

Invariant: a call always ends, by its answer, by its time-out or by the worker's death, and nothing the worker does ends
the daemon. A worker that died is started again by the next call, after a pause that grows with each death in a row.
"""

import itertools
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from gatewayd.api import Completion
from gatewayd.config import schema
from gatewayd.errors import ModelError, RejectedError, TransientError, WorkerCrashed
from gatewayd.models.bundle import Bundle
from gatewayd.retry import Backoff
from gatewayd.runtimes.options import TextOptions
from gatewayd.runtimes.process import WorkerProcess
from gatewayd.runtimes.protocol import Call, Complete, Completed, Count, Load, Number, Ping, Refused, Reply, Stats

log = structlog.get_logger(__name__)

_FIRST_PAUSE_S = 1.0
_STABLE_S = 60.0  # a worker that lived this long was well: the next death counts as the first
_SMALL_CALL_S = 30.0  # counting tokens, asking for figures


class WorkerTextSession:
    """Implements api.TextSession. One worker process for all who call; the engine serves several calls at once.

    `on_event` is told "worker_started", "worker_crashed" and "worker_timed_out", from any thread; `on_completion` how
    long each completion took, in seconds, waiting for a slot included.
    """

    context_tokens: int
    on_completion: Callable[[float], None]

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
        self.on_completion = lambda _seconds: None
        self._config = config
        self._on_event = on_event
        self._draw = draw
        self._backoff = Backoff(_FIRST_PAUSE_S, config.worker_restart_max_s, _STABLE_S)
        self._not_before_s = 0.0
        self._ids = itertools.count(1)
        self._counts: Counter[str] = Counter()
        self._starting = threading.Lock()  # held while the worker is started: others wait for the same one
        self._counting = threading.Lock()
        self._closing = threading.Event()
        self._launching: WorkerProcess | None = None
        self._worker: WorkerProcess | None = None
        self._worker = self._start(load())
        self.context_tokens = self._worker.context_tokens
        # What is sent runs at once: so a call that waits for a slot is late, and one that was sent and is late is hung.
        self._slots = threading.BoundedSemaphore(self._worker.parallel)

    def complete(
        self,
        prompt: str,
        *,
        max_tokens: int,
        json_schema: Mapping[str, Any] | None = None,
        grammar: str | None = None,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seed: int = 0,
        timeout_s: float = 120.0,
    ) -> Completion:
        """Write on from `prompt`; `timeout_s` counts from now, waiting for a free slot or a new worker included.

        Raises RejectedError when the prompt, schema or grammar can never work, WorkerCrashed when the worker died or
        hung, TransientError on a time-out.
        """
        started_s = time.monotonic()
        deadline_s = started_s + timeout_s
        request = Complete(
            id=next(self._ids),
            prompt=prompt,
            max_tokens=max_tokens,
            json_schema=None if json_schema is None else dict(json_schema),
            grammar=grammar,
            stop=list(stop),
            temperature=temperature,
            seed=seed,
            deadline_s=deadline_s,
        )
        if not self._slots.acquire(timeout=max(0.0, timeout_s)):
            self._count(busy=1)
            raise TransientError(f'model "{self._name}": no slot was free within the time-out of {timeout_s:g} s')
        try:
            reply = self._call(self._alive(deadline_s), request, deadline_s)
        finally:
            self._slots.release()
        if not isinstance(reply, Completed):
            raise TransientError(f'model "{self._name}": the worker answered {type(reply).__name__} to a completion')
        self._count(calls=1, tokens_in=reply.tokens_in, tokens_out=reply.tokens_out, tokens_cached=reply.tokens_cached)
        self.on_completion(time.monotonic() - started_s)
        return Completion(
            text=reply.text,
            tokens_in=reply.tokens_in,
            tokens_out=reply.tokens_out,
            tokens_cached=reply.tokens_cached,
            finish=reply.finish,
        )

    def count_tokens(self, text: str) -> int:
        """How many tokens `text` takes as a prompt. Raises WorkerCrashed or TransientError."""
        return self._number(lambda call_id: Count(id=call_id, text=text))

    def ping(self) -> None:
        """Return when the worker answers. Raises WorkerCrashed or TransientError."""
        self._number(lambda call_id: Ping(id=call_id))

    @property
    def pid(self) -> int | None:
        """The worker's process id; None while there is none."""
        worker = self._worker
        return worker.pid if worker is not None and worker.is_alive else None

    def stats(self) -> Mapping[str, float]:
        """`starts`, `crashes`, `timeouts`, `busy` (no slot in time), `calls`, `failures`, `tokens_in`, `tokens_out`,
        `tokens_cached` so far, and `load_s` and `resident_bytes` of the worker that lives. Never starts one."""
        with self._counting:
            stats = {key: float(value) for key, value in self._counts.items()}
        worker = self._worker
        if worker is not None and worker.is_alive:
            stats["load_s"] = worker.load_s
            stats["resident_bytes"] = float(worker.resident_bytes())
        return stats

    def resident_bytes(self) -> int:
        """Resident memory as the worker itself sees it: a round trip, so also a proof of life."""
        return self._number(lambda call_id: Stats(id=call_id))

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

    def _number(self, make: Callable[[int], Call]) -> int:
        deadline_s = time.monotonic() + _SMALL_CALL_S
        reply = self._call(self._alive(deadline_s), make(next(self._ids)), deadline_s)
        if not isinstance(reply, Number):
            raise TransientError(f'model "{self._name}": the worker answered {type(reply).__name__} to a question')
        return reply.value

    def _call(self, worker: WorkerProcess, request: Call, deadline_s: float) -> Reply:
        """One round trip. The worker ends a late call itself; one that does not is hung, and is killed."""
        wait_s = max(0.0, deadline_s - time.monotonic()) + self._config.worker_grace_s
        try:
            reply = worker.call(request, wait_s)
        except TimeoutError:
            self._count(timeouts=1)
            self._on_event("worker_timed_out")
            log.warning("worker hangs and is killed", model=self._name, pid=worker.pid, waited_s=round(wait_s, 1))
            worker.kill()
            raise WorkerCrashed(f'model "{self._name}": the worker hung for {wait_s:.1f} s and was killed') from None
        if not isinstance(reply, Refused):
            return reply
        self._count(failures=1)
        if reply.reason:
            raise RejectedError(f'model "{self._name}": {reply.problem}', reason=reply.reason)
        raise TransientError(f'model "{self._name}": {reply.problem}')

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
        worker = WorkerProcess(self._name, load, on_end=self._crashed)
        self._launching = worker
        try:
            worker.start(self._config.worker_start_s)
        finally:
            self._launching = None
        self._count(starts=1)
        self._backoff.connected(time.monotonic())
        self._on_event("worker_started")
        log.info("worker started", model=self._name, pid=worker.pid, load_s=round(worker.load_s, 2))
        return worker

    def _crashed(self, problem: str | None) -> None:
        """A worker that had been ready ended (`problem` says how), or one did not get ready (None)."""
        if self._closing.is_set():
            return
        now_s = time.monotonic()
        self._backoff.lost(now_s)
        delay_s = self._backoff.next_delay_s(self._draw())
        self._not_before_s = now_s + delay_s
        self._count(crashes=1)
        self._on_event("worker_crashed")
        log.warning("worker crashed", model=self._name, cause=problem or "did not start", pause_s=round(delay_s, 2))

    def _count(self, **counts: int) -> None:
        with self._counting:
            self._counts.update(counts)


def load(
    bundle: Bundle,
    verify: Callable[[], Mapping[str, Path]],
    config: schema.Models,
    on_event: Callable[[str, str], None],
) -> WorkerTextSession:
    """Start a worker with the bundle's model. Raises ModelError when it does not load."""
    manifest = bundle.manifest
    options = bundle.options
    if not isinstance(options, TextOptions):
        raise ModelError(f'model "{manifest.name}" is not a language model')
    n_threads = options.threads or config.llm_threads or max(1, len(os.sched_getaffinity(0)) - 1)

    def what() -> Load:
        return Load(
            runtime=manifest.runtime,
            model_path=str(verify()["model"]),
            options=options,
            threads=n_threads,
            max_memory_bytes=config.worker_memory_bytes,
            scratch_dir="",
        )

    return WorkerTextSession(manifest.name, what, config, lambda event: on_event(manifest.name, event))
