"""Whose turn it is at a language model, and how far its worker steps back: a real worker with a real model."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gatewayd.config import schema
from gatewayd.errors import TransientError
from gatewayd.models.store import ModelStore
from gatewayd.runtimes.options import TextOptions
from gatewayd.runtimes.protocol import Load, Place
from gatewayd.runtimes.scheduler import Scheduler
from gatewayd.runtimes.worker import WorkerTextSession, cores
from tests.sim.models import demo_models

pytestmark = [pytest.mark.model, pytest.mark.timeout(180)]

pytest.importorskip("xllamacpp", reason="the runtime xllamacpp is not installed")

Start = Callable[..., WorkerTextSession]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a session with one slot; keyword arguments are those of schema.Models."""
    sessions: list[WorkerTextSession] = []

    def make(
        place: Place = Place(),  # noqa: B008 - it is frozen
        scheduler: Scheduler | None = None,
        **config: Any,
    ) -> WorkerTextSession:
        load = Load(
            runtime="xllamacpp",
            model_path=str(demo_models("gemma3-270m") / "gemma3-270m" / "model.gguf"),
            options=TextOptions(context_tokens=512, parallel=1),
            threads=1,
            max_memory_bytes=0,
            scratch_dir="",
            place=place,
        )
        sessions.append(WorkerTextSession("llm", lambda: load, schema.Models(**config), scheduler=scheduler))
        return sessions[-1]

    yield make
    for session in sessions:
        session.close()


class Call:
    """A completion in a thread of its own, of exactly so many tokens."""

    def __init__(self, session: WorkerTextSession, n_tokens: int, priority: int) -> None:
        self.n_tokens_out: int | None = None
        self.failure: TransientError | None = None
        self._arguments = (session, n_tokens, priority)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        session, n_tokens, priority = self._arguments
        try:
            grammar = 'root ::= "a"+'
            completion = session.complete("One, two,", max_tokens=n_tokens, grammar=grammar, priority=priority)
            self.n_tokens_out = completion.tokens_out
        except TransientError as error:
            self.failure = error


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s, "did not come about within 60 s"
        time.sleep(0.005)


def is_writing(session: WorkerTextSession) -> Callable[[], bool]:
    """Whether its one slot is taken and its worker has computed since this was called."""
    stat = Path(f"/proc/{session.pid}/stat")

    def ticks() -> int:
        return int(stat.read_text().rpartition(")")[2].split()[11])

    before = ticks()
    return lambda: session.stats()["running"] == 1 and ticks() > before + 5


def test_a_more_important_call_ends_the_running_one_which_is_written_whole_afterwards(start: Start) -> None:
    session = start()
    pid = session.pid
    writing = is_writing(session)
    nightly = Call(session, 400, priority=1)
    wait_until(writing)

    alarm = session.complete("One, two,", max_tokens=3, priority=9)

    is_nightly_done = nightly.n_tokens_out is not None
    nightly.thread.join(120)
    assert (alarm.tokens_out, is_nightly_done, nightly.n_tokens_out) == (3, False, 400)
    assert session.stats()["preempted"] == 1
    assert session.pid == pid


def test_of_equal_calls_none_is_ended(start: Start) -> None:
    session = start()
    writing = is_writing(session)
    first = Call(session, 60, priority=4)
    wait_until(writing)

    second = session.complete("One, two,", max_tokens=3, priority=4)

    first.thread.join(120)
    assert (first.n_tokens_out, second.tokens_out) == (60, 3)
    assert session.stats()["preempted"] == 0


def test_a_call_that_gave_way_often_enough_runs_to_its_end(start: Start) -> None:
    session = start(llm_max_preemptions=1)
    writing = is_writing(session)
    nightly = Call(session, 300, priority=1)
    wait_until(writing)

    for _ in range(3):
        session.complete("One, two,", max_tokens=3, priority=9)

    nightly.thread.join(120)
    assert nightly.n_tokens_out == 300
    assert session.stats()["preempted"] == 1


def test_a_model_of_the_box_waits_until_another_has_left_it_the_threads(start: Start) -> None:
    box = Scheduler(max_threads=1)
    first, second = start(scheduler=box), start(scheduler=box)
    writing = is_writing(first)
    long = Call(first, 400, priority=4)
    wait_until(writing)

    short = Call(second, 3, priority=4)
    wait_until(lambda: second.stats()["waiting"] == 1)
    is_overtaken = short.n_tokens_out is not None
    long.thread.join(120)
    short.thread.join(120)

    assert (is_overtaken, long.n_tokens_out, short.n_tokens_out) == (False, 400, 3)


def test_an_alarm_at_one_model_ends_the_nightly_report_at_another(start: Start) -> None:
    box = Scheduler(max_threads=1)
    first, second = start(scheduler=box), start(scheduler=box)
    writing = is_writing(first)
    nightly = Call(first, 400, priority=1)
    wait_until(writing)

    alarm = second.complete("One, two,", max_tokens=3, priority=9)

    is_nightly_done = nightly.n_tokens_out is not None
    nightly.thread.join(120)
    assert (alarm.tokens_out, is_nightly_done, nightly.n_tokens_out) == (3, False, 400)
    assert (first.stats()["preempted"], second.stats()["preempted"]) == (1, 0)


def test_what_may_not_wait_is_refused_at_once_and_counted(start: Start) -> None:
    session = start(llm_max_waiting=0)
    writing = is_writing(session)
    first = Call(session, 200, priority=4)
    wait_until(writing)

    with pytest.raises(TransientError, match="llm_max_waiting"):
        session.complete("One, two,", max_tokens=3, priority=4)

    first.thread.join(120)
    assert first.n_tokens_out == 200
    assert session.stats()["refused_queue_full"] == 1


def test_every_thread_of_a_worker_steps_back_as_it_is_told(start: Start) -> None:
    core = min(os.sched_getaffinity(0))
    session = start(Place(nice=7, policy="idle", cpus=(core,)))
    session.complete("One, two,", max_tokens=3)

    threads = [int(entry.name) for entry in Path(f"/proc/{session.pid}/task").iterdir()]

    expected = min(19, os.getpriority(os.PRIO_PROCESS, 0) + 7)
    assert len(threads) > 1
    assert {os.sched_getscheduler(thread) for thread in threads} == {os.SCHED_IDLE}
    assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads} == {expected}
    assert {frozenset(os.sched_getaffinity(thread)) for thread in threads} == {frozenset({core})}


def test_a_bundle_s_worker_steps_back_as_the_config_says() -> None:
    config = schema.Models(worker_nice=3, worker_policy="batch")
    store = ModelStore(demo_models("gemma3-270m"), config)
    try:
        session = store.get("gemma3-270m").text()
        pid = session.pid  # type: ignore[attr-defined]
        policy, niceness = os.sched_getscheduler(pid), os.getpriority(os.PRIO_PROCESS, pid)
    finally:
        store.close()

    assert policy == os.SCHED_BATCH
    assert niceness == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 3)


def test_the_worker_s_group_steps_back_as_well_or_its_niceness_would_count_for_nothing(start: Start) -> None:
    own = Path("/proc/self/autogroup")
    session = start(Place(nice=7))
    of_worker = Path(f"/proc/{session.pid}/autogroup")
    if not own.exists() or not of_worker.read_text():
        pytest.skip("this kernel does not group by session")

    group, _, niceness = of_worker.read_text().partition(" nice ")

    own_group, _, own_niceness = own.read_text().partition(" nice ")  # in the root group, as in a container: nothing
    assert group != own_group
    assert int(niceness) == min(19, int(own_niceness or 0) + 7)


def test_a_core_that_is_not_there_is_no_reason_to_stay_away(start: Start) -> None:
    session = start(Place(cpus=(100_000,)))

    assert session.complete("One, two,", max_tokens=3).tokens_out == 3


def test_cores_are_written_as_numbers_and_ranges() -> None:
    assert [cores(text) for text in ("", "3", "0,2-3", "1-2,2-4")] == [(), (3,), (0, 2, 3), (1, 2, 3, 4)]
