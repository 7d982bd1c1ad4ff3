"""Waiting for a slot of a language model: the rules of `slots`, for threads.

Invariant: whoever asks gets a slot, or is refused by its deadline at the latest, and is told why; who has a slot gives
it back, whatever ends the call. No lock is held while another thread is told to give way.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import structlog

from gatewayd.errors import TransientError, WorkerCrashed
from gatewayd.runtimes.slots import REASONS, SlotLimits, SlotQueue, Ticket

log = structlog.get_logger(__name__)

_PROBLEMS = {
    "deadline": "no slot was free within its time-out",
    "queue_full": "more wait for a slot than models.llm_max_waiting allows, and this one comes last",
    "queue_bytes": "prompts that wait for a slot exceed models.llm_max_waiting_bytes, and this one comes last",
}


class Scheduler:
    """The language models of a box. Every method may be called from any thread."""

    def __init__(self, max_threads: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        """`max_threads`: of all models that generate at once; one that has more generates alone."""
        self._queue = SlotQueue(max_threads)
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._ends: dict[Ticket, Callable[[], None]] = {}
        self._names: dict[int, str] = {}
        self._keys = itertools.count(1)
        self._closed: set[int] = set()
        self._waited_s: dict[int, float] = {}  # of all requests together, also of those refused in the end

    def add(self, name: str, limits: SlotLimits) -> int:
        """A loaded model; its key, for tickets."""
        with self._changed:
            key = next(self._keys)
            self._names[key] = name
            self._waited_s[key] = 0.0
            self._queue.models[key] = limits
            return key

    def remove(self, key: int) -> None:
        """The model was closed, for the first time or again. Its calls end by themselves; with the last it is
        forgotten."""
        with self._changed:
            if key in self._names:
                self._closed.add(key)
                self._forget_if_unused(key)

    @contextmanager
    def slot(self, ticket: Ticket, end: Callable[[], None]) -> Iterator[None]:
        """Inside, `ticket` has a slot. `end` is called, from another thread, when it has to give way: then call
        `give_way` as soon as the work has ended, and start over.

        Raises TransientError when it is refused, WorkerCrashed when its model was closed.
        """
        with self._changed:
            if ticket.model not in self._names:
                raise WorkerCrashed("the model is closed")
            self._ends[ticket] = end
            self._queue.enter(ticket)
        try:
            self._wait(ticket)
            yield
        finally:
            with self._changed:
                self._queue.leave(ticket)
                del self._ends[ticket]
                self._forget_if_unused(ticket.model)
            self._tell()

    def give_way(self, ticket: Ticket) -> None:
        """Hand the slot to who is better, and return when there is one again. Raises TransientError when refused."""
        with self._changed:
            self._queue.give_way(ticket)
        log.info("a call gave way to a more important one", model=self._names[ticket.model], times=ticket.n_preempted)
        self._wait(ticket)

    def stats(self, key: int) -> Mapping[str, float]:
        """Of one model: `waiting`, `waiting_bytes` and `running` now; `waited_s`, `preempted`, `refused_deadline`,
        `refused_queue_full` and `refused_queue_bytes` so far."""
        with self._changed:
            waiting = self._queue.waiting_of(key)
            counted = ("preempted", *(f"refused_{reason}" for reason in REASONS))
            return {
                **{name: float(self._queue.counts[key, name]) for name in counted},
                "waiting": float(len(waiting)),
                "waiting_bytes": float(sum(ticket.size_bytes for ticket in waiting)),
                "running": float(len(self._queue.running_of(key))),
                "waited_s": self._waited_s.get(key, 0.0),
            }

    def _wait(self, ticket: Ticket) -> None:
        began_s = self._monotonic()
        self._tell()
        with self._changed:
            while ticket in self._queue.waiting:
                left_s = ticket.deadline_s - self._monotonic()
                if left_s > 0:
                    self._changed.wait(left_s)
                else:
                    self._queue.expire(self._monotonic())
            self._waited_s[ticket.model] += self._monotonic() - began_s
        if ticket.refused:
            name = self._names[ticket.model]
            log.warning("a call was refused", model=name, reason=ticket.refused, priority=ticket.priority)
            raise TransientError(f'model "{name}": {_PROBLEMS[ticket.refused]}')

    def _tell(self) -> None:
        """After each change: wake who waits, and tell those who have to give way."""
        with self._changed:
            self._changed.notify_all()
            ends = []
            while (victim := self._queue.next_victim()) is not None:
                ends.append(self._ends[victim])
        for end in ends:
            end()

    def _forget_if_unused(self, key: int) -> None:
        if key not in self._closed or self._queue.running_of(key) or self._queue.waiting_of(key):
            return
        self._closed.remove(key)
        del self._names[key], self._queue.models[key], self._waited_s[key]
        for counted in [counted for counted in self._queue.counts if counted[0] == key]:
            del self._queue.counts[counted]
