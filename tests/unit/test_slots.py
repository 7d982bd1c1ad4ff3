"""The order of requests for the language models of a box: pure rules."""

import itertools

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gatewayd.runtimes.slots import SlotLimits, SlotQueue, Ticket

_arrivals = itertools.count()


def limits(n_slots: int = 1, **fields: int) -> SlotLimits:
    return SlotLimits(
        **{"n_slots": n_slots, "max_waiting": 100, "max_waiting_bytes": 10_000, "max_preemptions": 2, **fields}
    )


def ticket(priority: int = 4, deadline_s: float = 100.0, size_bytes: int = 10, model: int = 0) -> Ticket:
    return Ticket(priority=priority, deadline_s=deadline_s, arrival=next(_arrivals), size_bytes=size_bytes, model=model)


def queue_of(limits: SlotLimits, **others: SlotLimits) -> SlotQueue:
    """A box with one model (0), or with more (1, 2 …) and two threads for all of them."""
    queue = SlotQueue(max_threads=2)
    queue.models.update(enumerate([limits, *others.values()]))
    return queue


def entered(queue: SlotQueue, *tickets: Ticket) -> None:
    for each in tickets:
        queue.enter(each)


def test_whoever_comes_runs_while_a_slot_is_free() -> None:
    queue = queue_of(limits(n_slots=2))
    first, second, third = ticket(0), ticket(0), ticket(9)

    entered(queue, first, second, third)

    assert (queue.running, queue.waiting) == ([first, second], [third])


def test_the_higher_priority_is_next_whatever_the_arrival() -> None:
    queue = queue_of(limits())
    running, low, high = ticket(), ticket(1), ticket(8)
    entered(queue, running, low, high)

    queue.leave(running)

    assert queue.running == [high]


def test_of_one_priority_the_earlier_deadline_is_next_and_then_the_earlier_arrival() -> None:
    queue = queue_of(limits())
    running, patient, pressed, late_comer = (
        ticket(),
        ticket(deadline_s=50),
        ticket(deadline_s=20),
        ticket(deadline_s=20),
    )
    entered(queue, running, patient, pressed, late_comer)

    order = []
    for _ in range(3):
        queue.leave(queue.running[0])
        order += queue.running

    assert order == [pressed, late_comer, patient]


def test_beyond_the_count_the_lowest_priority_is_refused_and_not_who_came_last() -> None:
    queue = queue_of(limits(max_waiting=2))
    running, low, middle, high = ticket(9), ticket(1), ticket(5), ticket(8)

    entered(queue, running, low, middle, high)

    assert low.refused == "queue_full"
    assert queue.waiting == [middle, high]
    assert queue.counts[0, "refused_queue_full"] == 1


def test_who_comes_last_is_refused_when_it_is_the_lowest() -> None:
    queue = queue_of(limits(max_waiting=1))
    running, high, low = ticket(9), ticket(8), ticket(1)

    entered(queue, running, high, low)

    assert (low.refused, high.refused) == ("queue_full", "")


def test_beyond_the_bytes_as_many_are_refused_as_it_takes() -> None:
    queue = queue_of(limits(max_waiting_bytes=100))
    running, small, smaller, large = (
        ticket(9),
        ticket(1, size_bytes=40),
        ticket(2, size_bytes=40),
        ticket(5, size_bytes=90),
    )

    entered(queue, running, small, smaller, large)

    assert (small.refused, smaller.refused, large.refused) == ("queue_bytes", "queue_bytes", "")
    assert queue.waiting == [large]


def test_a_request_that_runs_at_once_is_never_refused_for_its_size() -> None:
    queue = queue_of(limits(max_waiting=0, max_waiting_bytes=0))
    only = ticket(size_bytes=10**9)

    queue.enter(only)

    assert (queue.running, only.refused) == ([only], "")


def test_who_waits_beyond_its_deadline_is_refused_and_who_runs_is_not() -> None:
    queue = queue_of(limits())
    running, late, in_time = ticket(deadline_s=5), ticket(deadline_s=5), ticket(deadline_s=6)
    entered(queue, running, late, in_time)

    queue.expire(5.0)

    assert (running.refused, late.refused, in_time.refused) == ("", "deadline", "")
    assert queue.counts[0, "refused_deadline"] == 1


def test_the_lowest_of_those_that_run_gives_way_of_equals_the_latest() -> None:
    queue = queue_of(limits(n_slots=3))
    middle, early, late = ticket(3), ticket(1), ticket(1)
    entered(queue, middle, early, late, ticket(7))

    assert queue.next_victim() is late


def test_nobody_gives_way_to_an_equal() -> None:
    queue = queue_of(limits())
    entered(queue, ticket(4), ticket(4))

    assert queue.next_victim() is None


def test_one_gives_way_for_each_that_waits_above_it_and_no_more() -> None:
    queue = queue_of(limits(n_slots=3))
    entered(queue, ticket(0), ticket(0), ticket(0), ticket(9), ticket(9))

    victims = [queue.next_victim(), queue.next_victim(), queue.next_victim()]

    assert [victim is not None for victim in victims] == [True, True, False]


def test_who_gave_way_waits_at_the_place_of_its_arrival() -> None:
    queue = queue_of(limits())
    nightly, other, alarm = ticket(2), ticket(2), ticket(9)
    entered(queue, nightly, other, alarm)
    victim = queue.next_victim()
    assert victim is nightly

    queue.give_way(victim)
    running = list(queue.running)
    queue.leave(alarm)

    assert running == [alarm]
    assert queue.running == [nightly]
    assert (nightly.n_preempted, nightly.is_leaving, queue.counts[0, "preempted"]) == (1, False, 1)


def test_after_so_many_times_a_request_runs_to_its_end() -> None:
    queue = queue_of(limits(max_preemptions=1))
    nightly = ticket(0)
    entered(queue, nightly, ticket(9))
    victim = queue.next_victim()
    assert victim is nightly
    queue.give_way(victim)
    queue.leave(queue.running[0])
    queue.enter(ticket(9))

    assert queue.running == [nightly]
    assert queue.next_victim() is None


def test_with_no_preemptions_nothing_that_runs_is_ended() -> None:
    queue = queue_of(limits(max_preemptions=0))
    entered(queue, ticket(0), ticket(9))

    assert queue.next_victim() is None


def test_models_run_together_as_long_as_the_box_has_threads_for_both() -> None:
    queue = queue_of(limits(n_slots=2, n_threads=1), other=limits(n_threads=1), third=limits(n_threads=1))
    first, second, third = ticket(model=0), ticket(model=1), ticket(model=2)

    entered(queue, first, second, third)

    assert (queue.running, queue.waiting) == ([first, second], [third])


def test_a_model_with_more_threads_than_the_box_allows_runs_alone() -> None:
    queue = queue_of(limits(), large=limits(n_threads=8))
    small, large = ticket(model=0), ticket(model=1)
    entered(queue, small, large)
    before = list(queue.running)

    queue.leave(small)

    assert (before, queue.running) == ([small], [large])


def test_who_waits_for_threads_is_overtaken_by_nobody_behind_it() -> None:
    queue = queue_of(limits(n_slots=4, n_threads=2), other=limits(n_threads=2))
    busy, other, more_of_the_busy = ticket(model=0), ticket(model=1), ticket(model=0)
    entered(queue, busy, other, more_of_the_busy)

    queue.leave(busy)

    assert (queue.running, queue.waiting) == ([other], [more_of_the_busy])


def test_who_waits_for_a_slot_of_its_own_model_holds_up_no_other_model() -> None:
    queue = queue_of(limits(n_slots=1, n_threads=1), other=limits(n_threads=1))
    running, waiting, other = ticket(model=0), ticket(model=0), ticket(model=1)

    entered(queue, running, waiting, other)

    assert (queue.running, queue.waiting) == ([running, other], [waiting])


def test_for_threads_a_model_gives_way_as_a_whole() -> None:
    queue = queue_of(limits(n_slots=2, n_threads=2), other=limits(n_threads=2))
    early, late, alarm = ticket(1, model=0), ticket(2, model=0), ticket(9, model=1)
    entered(queue, early, late, alarm)

    victims = [queue.next_victim(), queue.next_victim(), queue.next_victim()]
    for victim in victims[:2]:
        assert victim is not None
        queue.give_way(victim)

    assert victims == [early, late, None]
    assert queue.running == [alarm]


def test_a_model_that_does_something_as_important_gives_no_way_to_another() -> None:
    queue = queue_of(limits(n_slots=2, n_threads=2), other=limits(n_threads=2))
    entered(queue, ticket(1, model=0), ticket(9, model=0), ticket(9, model=1))

    assert queue.next_victim() is None


class Machine(RuleBasedStateMachine):
    """Any order of arrivals, ends, preemptions and time: the invariants of the module's docstring."""

    def __init__(self) -> None:
        super().__init__()
        bounds = {"max_waiting": 4, "max_waiting_bytes": 100}
        self.queue = queue_of(
            limits(n_slots=2, n_threads=1, **bounds),
            wide=limits(n_slots=1, n_threads=2, **bounds),
            small=limits(n_slots=1, n_threads=1, **bounds),
        )
        self.now_s = 0.0
        self.entered = 0
        self.left = 0

    @rule(
        priority=st.integers(0, 9),
        patience_s=st.integers(1, 20),
        size_bytes=st.integers(0, 60),
        model=st.integers(0, 2),
    )
    def arrive(self, priority: int, patience_s: int, size_bytes: int, model: int) -> None:
        self.queue.enter(ticket(priority, self.now_s + patience_s, size_bytes, model))
        self.entered += 1

    @rule(seconds=st.integers(1, 10))
    def pass_time(self, seconds: int) -> None:
        self.now_s += seconds
        self.queue.expire(self.now_s)

    @precondition(lambda self: self.queue.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.queue.leave(data.draw(st.sampled_from(self.queue.running)))
        self.left += 1

    @rule()
    def preempt(self) -> None:
        victim = self.queue.next_victim()
        if victim is not None:
            assert any(each.priority > victim.priority for each in self.queue.waiting)
            self.queue.give_way(victim)

    @invariant()
    def nothing_runs_beyond_slots_and_threads(self) -> None:
        models = {each.model for each in self.queue.running}
        assert all(len(self.queue.running_of(model)) <= self.queue.models[model].n_slots for model in models)
        assert len(models) <= 1 or sum(self.queue.models[model].n_threads for model in models) <= 2

    @invariant()
    def the_first_that_waits_could_not_run(self) -> None:
        if not self.queue.waiting:
            return
        first = min(self.queue.waiting, key=lambda each: each.order)
        n_own = len(self.queue.running_of(first.model))
        others = {each.model for each in self.queue.running} - {first.model}
        n_threads = sum(self.queue.models[model].n_threads for model in {*others, first.model})
        has_threads = n_own > 0 or not others or n_threads <= 2
        assert n_own == self.queue.models[first.model].n_slots or not has_threads

    @invariant()
    def what_waits_is_bounded(self) -> None:
        for model in range(3):
            waiting = self.queue.waiting_of(model)
            assert len(waiting) <= 4 + sum(each.n_preempted > 0 for each in waiting)
        assert all(each.n_preempted <= 2 for each in [*self.queue.waiting, *self.queue.running])

    @invariant()
    def nobody_is_lost(self) -> None:
        refused = sum(n for name, n in self.queue.counts.items() if name[1].startswith("refused"))
        assert self.entered == self.left + refused + len(self.queue.waiting) + len(self.queue.running)


TestMachine = Machine.TestCase
