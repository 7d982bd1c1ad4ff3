"""Who may run next: requests for the language models of a box, by priority, then deadline, then arrival. Pure.

A model has slots (what its engine decodes at once) and threads; the box has threads for all models that run together.
Invariants: nothing runs beyond either; whoever waits for threads is overtaken by nobody behind it, so that a model that
is always busy keeps no other from its turn; what waits is bounded by count and by bytes of prompts, and beyond that the
lowest priority goes first; of two requests the one with the lower priority gives way, and one that gave way
`max_preemptions` times runs to its end, so that a nightly report is delayed and never starved.

The order and the bounds are those of Triton's queues (priority, time-out, size), the preemption vLLM's
(`--scheduling-policy priority`): the lowest priority, then the latest arrival, gives way and starts over.
Time comes in as an argument (monotonic seconds).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

REASONS = ("deadline", "queue_full", "queue_bytes")  # why a request gets no slot


@dataclass(slots=True, eq=False, kw_only=True)
class Ticket:
    """One request for a slot. `arrival` ascends with time and is kept when the request gives way."""

    priority: int  # 0 to 9, 9 first
    deadline_s: float  # monotonic
    arrival: int
    size_bytes: int  # of its prompt
    model: int = 0  # the key under which its model was added
    n_preempted: int = 0
    is_leaving: bool = False  # it has been told to give way, and still has its slot
    refused: str = ""  # one of REASONS

    @property
    def order(self) -> tuple[int, float, int]:
        """The smallest is next."""
        return -self.priority, self.deadline_s, self.arrival


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotLimits:
    """Of one model: how many run, on how many threads, how much may wait, how often one may have to give way."""

    n_slots: int
    n_threads: int = 1
    max_waiting: int
    max_waiting_bytes: int
    max_preemptions: int


@dataclass(slots=True)
class SlotQueue:
    """What runs and what waits. A ticket that was entered is in one of the two until it leaves or is refused."""

    max_threads: int  # of all models that run at once; one that has more runs alone
    models: dict[int, SlotLimits] = field(default_factory=dict)
    waiting: list[Ticket] = field(default_factory=list)
    running: list[Ticket] = field(default_factory=list)
    counts: Counter[tuple[int, str]] = field(default_factory=Counter)  # (model, "preempted" or "refused_<reason>")

    def waiting_of(self, model: int) -> list[Ticket]:
        """Those that wait for this model."""
        return [ticket for ticket in self.waiting if ticket.model == model]

    def running_of(self, model: int) -> list[Ticket]:
        """Those that have a slot of this model."""
        return [ticket for ticket in self.running if ticket.model == model]

    def enter(self, ticket: Ticket) -> None:
        """`ticket` waits, and takes a slot where one is free. Who has no room then is refused: maybe itself."""
        self.waiting.append(ticket)
        self._fill()
        self._shed(ticket.model)

    def leave(self, ticket: Ticket) -> None:
        """It is done, or no longer wants a slot."""
        if ticket in self.running:
            self.running.remove(ticket)
        elif ticket in self.waiting:
            self.waiting.remove(ticket)
        self._fill()

    def give_way(self, ticket: Ticket) -> None:
        """A running one was ended for a better one: it waits again, in the place of its arrival, whatever waits."""
        self.running.remove(ticket)
        ticket.is_leaving = False
        ticket.n_preempted += 1
        self.counts[ticket.model, "preempted"] += 1
        self.waiting.append(ticket)
        self._fill()

    def expire(self, now_s: float) -> None:
        """Those whose deadline passed while they waited are refused."""
        for ticket in [ticket for ticket in self.waiting if ticket.deadline_s <= now_s]:
            self._refuse(ticket, "deadline")
        self._fill()  # one that waited for threads held up those behind it

    def next_victim(self) -> Ticket | None:
        """Who has to give way now: marked, and not named again. None when nobody has to.

        As many as those that wait above them need, the lowest priority first, of equals the latest arrival: it has the
        least to lose. For threads a model is freed as a whole, or not at all.
        """
        staying = [ticket for ticket in self.running if not ticket.is_leaving]
        for ticket in sorted(self.waiting, key=_order):
            if self._has_slot(ticket, staying) and self._has_threads(ticket, staying):
                staying.append(ticket)  # it gets the place of one that leaves
                continue
            victims = self._in_its_way(ticket, staying)
            if victims:
                victim = min(victims, key=lambda other: (other.priority, -other.arrival))
                victim.is_leaving = True
                return victim
            if self._has_slot(ticket, staying):
                return None  # it waits for threads: nobody behind it gets any
        return None

    def _in_its_way(self, ticket: Ticket, staying: Sequence[Ticket]) -> list[Ticket]:
        """Those that have to end so that `ticket` can run; none when one of them does not have to."""
        if not self._has_slot(ticket, staying):
            own = [other for other in staying if other.model == ticket.model]
            return [other for other in own if self._yields(other, ticket)]
        groups: dict[int, list[Ticket]] = {}
        for other in staying:
            groups.setdefault(other.model, []).append(other)
        yielding = [group for group in groups.values() if all(self._yields(other, ticket) for other in group)]
        return min(yielding, key=lambda group: max(other.priority for other in group), default=[])

    def _yields(self, ticket: Ticket, better: Ticket) -> bool:
        is_lower = ticket in self.running and ticket.priority < better.priority
        return is_lower and ticket.n_preempted < self.models[ticket.model].max_preemptions

    def _fill(self) -> None:
        for ticket in sorted(self.waiting, key=_order):
            if not self._has_slot(ticket, self.running):
                continue
            if not self._has_threads(ticket, self.running):
                return
            self.waiting.remove(ticket)
            self.running.append(ticket)

    def _has_slot(self, ticket: Ticket, beside: Sequence[Ticket]) -> bool:
        return sum(other.model == ticket.model for other in beside) < self.models[ticket.model].n_slots

    def _has_threads(self, ticket: Ticket, beside: Sequence[Ticket]) -> bool:
        models = {other.model for other in beside}
        if not models or ticket.model in models:
            return True
        n_used = sum(self.models[model].n_threads for model in models)
        return n_used + self.models[ticket.model].n_threads <= self.max_threads

    def _shed(self, model: int) -> None:
        while reason := self._excess(model):
            self._refuse(max(self.waiting_of(model), key=_order), reason)

    def _excess(self, model: int) -> str:
        """Which bound of the model is exceeded; "" when none is."""
        limits, waiting = self.models[model], self.waiting_of(model)
        if len(waiting) > limits.max_waiting:
            return "queue_full"
        return "queue_bytes" if sum(ticket.size_bytes for ticket in waiting) > limits.max_waiting_bytes else ""

    def _refuse(self, ticket: Ticket, reason: str) -> None:
        self.waiting.remove(ticket)
        ticket.refused = reason
        self.counts[ticket.model, f"refused_{reason}"] += 1


def _order(ticket: Ticket) -> tuple[int, float, int]:
    return ticket.order
