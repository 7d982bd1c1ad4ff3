"""Waiting for a slot of a language model: the rules of `slots`, for threads.

Invariant: whoever asks gets a slot, or is refused by its deadline at the latest, and is told why; who has a slot gives
it back, whatever ends the call. No lock is held while another thread is told to give way.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import structlog

from gatewayd.errors import TransientError
from gatewayd.runtimes.slots import SlotLimits, SlotQueue, Ticket

log = structlog.get_logger(__name__)

_PROBLEMS = {
    "deadline": "no slot was free within its time-out",
    "queue_full": "more wait for a slot than models.llm_max_waiting allows, and this one comes last",
    "queue_bytes": "prompts that wait for a slot exceed models.llm_max_waiting_bytes, and this one comes last",
}


class Scheduler:
    """The slots of one model. Every method may be called from any thread."""

    def __init__(self, name: str, limits: SlotLimits, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._queue = SlotQueue(limits)
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._ends: dict[Ticket, Callable[[], None]] = {}
        self._waited_s = 0.0  # of all requests together, also of those refused in the end

    @contextmanager
    def slot(self, ticket: Ticket, end: Callable[[], None]) -> Iterator[None]:
        """Inside, `ticket` has a slot. `end` is called, from another thread, when it has to give way: then call
        `give_way` as soon as the work has ended, and start over.

        Raises TransientError when it is refused.
        """
        with self._changed:
            self._ends[ticket] = end
            self._queue.enter(ticket)
        try:
            self._wait(ticket)
            yield
        finally:
            with self._changed:
                self._queue.leave(ticket)
                del self._ends[ticket]
            self._tell()

    def give_way(self, ticket: Ticket) -> None:
        """Hand the slot to who is better, and return when there is one again. Raises TransientError when refused."""
        with self._changed:
            self._queue.give_way(ticket)
        log.info("a completion gave way to a more important one", model=self._name, times=ticket.n_preempted)
        self._wait(ticket)

    def stats(self) -> Mapping[str, float]:
        """`waiting`, `waiting_bytes` and `running` now; `waited_s`, `preempted`, `refused_deadline`,
        `refused_queue_full` and `refused_queue_bytes` so far."""
        with self._changed:
            queue = self._queue
            return {
                **{f"refused_{reason}": float(queue.counts[f"refused_{reason}"]) for reason in _PROBLEMS},
                "preempted": float(queue.counts["preempted"]),
                "waiting": float(len(queue.waiting)),
                "waiting_bytes": float(queue.waiting_bytes),
                "running": float(len(queue.running)),
                "waited_s": self._waited_s,
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
            self._waited_s += self._monotonic() - began_s
        if ticket.refused:
            log.warning("a completion was refused", model=self._name, reason=ticket.refused, priority=ticket.priority)
            raise TransientError(f'model "{self._name}": {_PROBLEMS[ticket.refused]}')

    def _tell(self) -> None:
        """After each change: wake who waits, and tell those who have to give way."""
        with self._changed:
            self._changed.notify_all()
            ends = []
            while (victim := self._queue.next_victim()) is not None:
                ends.append(self._ends[victim])
        for end in ends:
            end()
