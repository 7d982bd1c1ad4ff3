"""A language model in a supervised worker process, as a session any thread may call.

Invariant: a call always ends, by its answer, by its time-out or by the worker's death. What is sent to the worker runs
at once: so a call that waits for a slot is late, and one that was sent and is late is hung.
"""

import itertools
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog

from gatewayd.api import Completion, LabelScores
from gatewayd.config import schema
from gatewayd.errors import GatewaydError, ModelError, TransientError
from gatewayd.models.bundle import Bundle
from gatewayd.runtimes.options import TextOptions
from gatewayd.runtimes.process import WorkerProcess
from gatewayd.runtimes.protocol import (
    Call,
    Cancel,
    Cancelled,
    Complete,
    Completed,
    Count,
    Keep,
    Kept,
    Load,
    Number,
    Ping,
    Place,
    Reply,
    Score,
    Scored,
    Slotted,
    Stats,
)
from gatewayd.runtimes.scheduler import Scheduler
from gatewayd.runtimes.slots import SlotLimits, Ticket
from gatewayd.runtimes.supervisor import Supervisor

log = structlog.get_logger(__name__)

_SMALL_CALL_S = 30.0  # counting tokens, asking for figures
_PRIORITY = 4  # of who says nothing, as of a route


class WorkerTextSession:
    """Implements api.TextSession. One worker process for all who call; the engine serves several calls at once.

    `on_event` is told "worker_started", "worker_crashed" and "worker_timed_out", from any thread; `on_completion` how
    long each completion took, in seconds, waiting for a slot included.
    """

    scheduled = frozenset({"complete", "label_scores"})  # the methods that wait for a slot, and so take a `priority`
    context_tokens: int
    on_completion: Callable[[float], None]

    def __init__(
        self,
        name: str,
        load: Callable[[], Load],
        config: schema.Models,
        on_event: Callable[[str], None] = lambda _event: None,
        draw: Callable[[], float] = random.random,
        scheduler: Scheduler | None = None,
        n_threads: int = 1,
    ) -> None:
        """Starts the worker. `load` verifies the files and says what to load, before every start. `scheduler` is that
        of the box, where there are other models; `n_threads` is what this one computes with.

        Raises ModelError when the model does not load within `worker_start_s`.
        """
        self._name = name
        self._config = config
        self.on_completion = lambda _seconds: None
        self._ids = itertools.count(1)
        self._supervisor = Supervisor(name, load, config, on_event, draw)
        self.context_tokens = self._supervisor.context_tokens
        limits = SlotLimits(
            n_slots=self._supervisor.parallel,
            n_threads=n_threads,
            max_waiting=config.llm_max_waiting,
            max_waiting_bytes=config.llm_max_waiting_bytes,
            max_preemptions=config.llm_max_preemptions,
        )
        self._scheduler = scheduler or Scheduler(n_threads)
        self._key = self._scheduler.add(name, limits)

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
        priority: int = _PRIORITY,
    ) -> Completion:
        """Write on from `prompt`; `timeout_s` counts from now, waiting for a free slot or a new worker included.
        `priority` (0 to 9, 9 first) is that of the route: gatewayd.models.view passes it.

        Raises RejectedError when the prompt, schema or grammar can never work, WorkerCrashed when the worker died or
        hung, TransientError on a time-out, or when too many wait for a slot.
        """
        started_s = time.monotonic()
        deadline_s = started_s + timeout_s
        request = Complete(
            id=0,
            prompt=prompt,
            max_tokens=max_tokens,
            json_schema=None if json_schema is None else dict(json_schema),
            grammar=grammar,
            stop=list(stop),
            temperature=temperature,
            seed=seed,
            deadline_s=deadline_s,
        )
        reply = self._scheduled(request, len(prompt.encode()), priority)
        if not isinstance(reply, Completed):
            raise TransientError(f'model "{self._name}": the worker answered {type(reply).__name__} to a completion')
        self._supervisor.count(
            calls=1, tokens_in=reply.tokens_in, tokens_out=reply.tokens_out, tokens_cached=reply.tokens_cached
        )
        self.on_completion(time.monotonic() - started_s)
        return Completion(
            text=reply.text,
            tokens_in=reply.tokens_in,
            tokens_out=reply.tokens_out,
            tokens_cached=reply.tokens_cached,
            finish=reply.finish,
        )

    def label_scores(
        self, prompt: str, labels: Sequence[str], *, timeout_s: float = 120.0, priority: int = _PRIORITY
    ) -> LabelScores:
        """See api.TextSession; time-out, priority and errors as of `complete`."""
        started_s = time.monotonic()
        request = Score(id=0, prompt=prompt, labels=list(labels), deadline_s=started_s + timeout_s)
        reply = self._scheduled(request, len(prompt.encode()), priority)
        if not isinstance(reply, Scored):
            raise TransientError(f'model "{self._name}": the worker answered {type(reply).__name__} to labels')
        self._supervisor.count(calls=1, tokens_in=reply.tokens_in, tokens_cached=reply.tokens_cached)
        self.on_completion(time.monotonic() - started_s)
        scores = dict(zip(labels, reply.probabilities, strict=True))
        return LabelScores(scores=scores, tokens_in=reply.tokens_in, tokens_cached=reply.tokens_cached)

    def keep_prefix(self, text: str) -> None:
        """See api.TextSession: computed now, and by every worker that is started, before it takes calls."""
        if not self._supervisor.remember(text):
            return
        deadline_s = time.monotonic() + self._config.worker_start_s
        try:
            reply = self._scheduled(Keep(id=0, text=text, deadline_s=deadline_s), len(text.encode()), _PRIORITY)
        except GatewaydError as exc:
            log.warning("a static prompt is not kept computed", model=self._name, cause=str(exc))
            return
        if isinstance(reply, Kept):
            self._supervisor.count(prefixes_restored=reply.is_restored, prefixes_computed=not reply.is_restored)
            log.info("a static prompt is kept computed", model=self._name, restored=reply.is_restored)

    def count_tokens(self, text: str) -> int:
        """How many tokens `text` takes as a prompt. Raises WorkerCrashed or TransientError."""
        return self._number(lambda call_id: Count(id=call_id, text=text))

    def ping(self) -> None:
        """Return when the worker answers. Raises WorkerCrashed or TransientError."""
        self._number(lambda call_id: Ping(id=call_id))

    @property
    def pid(self) -> int | None:
        """The worker's process id; None while there is none."""
        return self._supervisor.pid

    def stats(self) -> Mapping[str, float]:
        """`starts`, `crashes`, `timeouts`, `calls`, `failures`, `tokens_in`, `tokens_out`, `tokens_cached`,
        `prefixes_restored` and `prefixes_computed` (static prompts) so far,
        `load_s` and `resident_bytes` of the worker that lives, and those of Scheduler.stats. Never starts one."""
        return {**self._supervisor.stats(), **self._scheduler.stats(self._key)}

    def resident_bytes(self) -> int:
        """Resident memory as the worker itself sees it: a round trip, so also a proof of life."""
        return self._number(lambda call_id: Stats(id=call_id))

    def close(self) -> None:
        """End the worker. Calls under way end with WorkerCrashed, later ones too."""
        self._supervisor.close()
        self._scheduler.remove(self._key)

    def _number(self, make: Callable[[int], Call]) -> int:
        deadline_s = time.monotonic() + _SMALL_CALL_S
        reply = self._supervisor.call(make(next(self._ids)), deadline_s)
        if not isinstance(reply, Number):
            raise TransientError(f'model "{self._name}": the worker answered {type(reply).__name__} to a question')
        return reply.value

    def _scheduled(self, request: Slotted, size_bytes: int, priority: int) -> Reply:
        """The worker's reply, once there is a slot; asked again after it had to give way."""
        deadline_s = request.deadline_s
        ticket = Ticket(
            priority=priority,
            deadline_s=deadline_s,
            arrival=time.monotonic_ns(),
            size_bytes=size_bytes,
            model=self._key,
        )
        sent: list[tuple[WorkerProcess, int]] = []

        def end() -> None:  # from another thread, when somebody better waits
            for worker, call_id in sent[-1:]:
                worker.tell(Cancel(id=call_id))

        def on_sent(worker: WorkerProcess) -> None:
            sent.append((worker, numbered.id))
            if ticket.is_leaving:  # asked before there was anything to end
                end()

        with self._scheduler.slot(ticket, end):
            while True:
                numbered = msgspec.structs.replace(request, id=next(self._ids))
                reply = self._supervisor.call(numbered, deadline_s, on_sent)
                if not isinstance(reply, Cancelled):
                    return reply
                self._scheduler.give_way(ticket)


def load(
    bundle: Bundle,
    verify: Callable[[], Mapping[str, Path]],
    config: schema.Models,
    on_event: Callable[[str, str], None],
    cache_dir: Path | None = None,
    scheduler: Scheduler | None = None,
) -> WorkerTextSession:
    """Start a worker with the bundle's model; `cache_dir` is for what it computes once. Raises ModelError when it does
    not load."""
    manifest = bundle.manifest
    options = bundle.options
    if not isinstance(options, TextOptions):
        raise ModelError(f'model "{manifest.name}" is not a language model')
    place = Place(nice=config.worker_nice, policy=config.worker_policy, cpus=cores(config.worker_cpus))
    n_threads = options.threads or config.llm_threads or usual_threads(config)
    digests = " ".join(entry.sha256 for entry in manifest.files)
    identity = f"{manifest.runtime} {digests} {msgspec.json.encode(options).decode()}"

    def what() -> Load:
        files = verify()
        if options.draft_model and options.draft_model not in files:
            raise ModelError(
                f'model "{manifest.name}": session.draft_model: no file has the role "{options.draft_model}"'
            )
        return Load(
            runtime=manifest.runtime,
            model_path=str(files["model"]),
            options=options,
            threads=n_threads,
            max_memory_bytes=config.worker_memory_bytes,
            scratch_dir="",
            identity=identity,
            cache_dir=str(cache_dir) if cache_dir is not None and config.llm_prefix_cache_bytes else "",
            max_cache_bytes=config.llm_prefix_cache_bytes,
            max_prefixes=config.llm_max_prefixes,
            draft_path=str(files[options.draft_model]) if options.draft_model else "",
            draft_measure_s=config.llm_draft_measure_s,
            place=place,
        )

    return WorkerTextSession(
        manifest.name,
        what,
        config,
        lambda event: on_event(manifest.name, event),
        scheduler=scheduler,
        n_threads=n_threads,
    )


def box_scheduler(config: schema.Models) -> Scheduler:
    """The one that all language models of a box share."""
    return Scheduler(config.llm_max_threads or config.llm_threads or usual_threads(config))


def usual_threads(config: schema.Models) -> int:
    """As many as there are cores for workers; where nobody said which, one is left to everything else."""
    return len(cores(config.worker_cpus)) or max(1, len(os.sched_getaffinity(0)) - 1)


def cores(text: str) -> tuple[int, ...]:
    """The numbers in `models.worker_cpus`: "0,2-3" is 0, 2 and 3."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(found))
