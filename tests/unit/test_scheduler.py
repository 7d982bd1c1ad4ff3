"""Waiting for a slot of a language model: threads that wait by the rules of test_slots."""

import itertools
import threading
import time
from collections.abc import Callable

import pytest

from gatewayd.errors import TransientError, WorkerCrashed
from gatewayd.runtimes.scheduler import Scheduler
from gatewayd.runtimes.slots import SlotLimits, Ticket

_arrivals = itertools.count()


def limits(**fields: int) -> SlotLimits:
    return SlotLimits(**{"n_slots": 1, "max_waiting": 100, "max_waiting_bytes": 10_000, "max_preemptions": 2, **fields})


def ticket(priority: int = 4, timeout_s: float = 60.0) -> Ticket:
    return Ticket(
        priority=priority,
        deadline_s=time.monotonic() + timeout_s,
        arrival=next(_arrivals),
        size_bytes=10,
        model=1,
    )


def scheduler_of(limits: SlotLimits) -> Scheduler:
    """A box with one model, whose key is 1."""
    scheduler = Scheduler(max_threads=2)
    assert scheduler.add("llm", limits) == 1
    return scheduler


class Work:
    """A request in a thread of its own, which holds its slot until it is told to go on, and starts over when asked."""

    def __init__(self, scheduler: Scheduler, priority: int, timeout_s: float = 60.0) -> None:
        self.ticket = ticket(priority, timeout_s)
        self.n_begun = 0
        self.failure: TransientError | None = None
        self.is_done = threading.Event()
        self._go_on = threading.Event()
        self._end = threading.Event()
        self._scheduler = scheduler
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._scheduler.slot(self.ticket, self._go_on.set):
                self._work()
        except TransientError as error:
            self.failure = error
        self.is_done.set()

    def _work(self) -> None:
        while True:
            self.n_begun += 1
            self._go_on.wait()
            self._go_on.clear()
            if self._end.is_set():
                return
            self._scheduler.give_way(self.ticket)

    def finish(self) -> None:
        self._end.set()
        self._go_on.set()
        assert self.is_done.wait(30)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline_s, "did not come about within 30 s"
        time.sleep(0.001)


def test_a_better_request_ends_the_lower_one_which_starts_over_afterwards() -> None:
    scheduler = scheduler_of(limits())
    nightly = Work(scheduler, 1)
    wait_until(lambda: nightly.n_begun == 1)

    alarm = Work(scheduler, 9)
    wait_until(lambda: alarm.n_begun == 1)
    n_begun_meanwhile = nightly.n_begun
    alarm.finish()
    wait_until(lambda: nightly.n_begun == 2)
    nightly.finish()

    assert n_begun_meanwhile == 1
    stats = scheduler.stats(1)
    assert (stats["preempted"], stats["waiting"], stats["running"]) == (1, 0, 0)
    assert stats["waited_s"] > 0


def test_a_request_that_waits_too_long_is_told_why() -> None:
    scheduler = scheduler_of(limits())
    holder = Work(scheduler, 4)
    wait_until(lambda: holder.n_begun == 1)

    late = Work(scheduler, 4, timeout_s=0.05)
    assert late.is_done.wait(30)
    holder.finish()

    assert "no slot was free" in str(late.failure)
    assert scheduler.stats(1)["refused_deadline"] == 1


def test_a_request_that_waits_is_refused_as_soon_as_a_better_one_needs_its_place() -> None:
    scheduler = scheduler_of(limits(max_waiting=1))
    holder = Work(scheduler, 9)
    wait_until(lambda: holder.n_begun == 1)
    low = Work(scheduler, 1)
    wait_until(lambda: scheduler.stats(1)["waiting"] == 1)

    high = Work(scheduler, 5)
    assert low.is_done.wait(30)
    holder.finish()
    wait_until(lambda: high.n_begun == 1)
    high.finish()

    assert "llm_max_waiting" in str(low.failure)
    assert (high.failure, scheduler.stats(1)["refused_queue_full"]) == (None, 1)


def test_a_call_that_raises_gives_its_slot_back() -> None:
    scheduler = scheduler_of(limits())

    with pytest.raises(RuntimeError), scheduler.slot(ticket(), lambda: None):
        raise RuntimeError

    with scheduler.slot(ticket(), lambda: None):
        assert scheduler.stats(1)["running"] == 1


def test_a_model_that_was_closed_is_forgotten_with_the_last_of_its_calls() -> None:
    scheduler = scheduler_of(limits())
    under_way = Work(scheduler, 4)
    wait_until(lambda: under_way.n_begun == 1)

    scheduler.remove(1)
    running_meanwhile = scheduler.stats(1)["running"]
    under_way.finish()
    scheduler.remove(1)

    assert running_meanwhile == 1
    assert scheduler.stats(1)["running"] == 0
    with pytest.raises(WorkerCrashed, match="closed"), scheduler.slot(ticket(), lambda: None):
        pass
