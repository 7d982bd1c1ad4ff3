"""Who may run next: requests for the slots of a language model, by priority, then deadline, then arrival. Pure.

Invariants: a slot is never free while a request waits; what waits is bounded by count and by bytes of prompts, and
beyond that the lowest priority goes first; of two requests the one with the lower priority gives way, and one that gave
way `max_preemptions` times runs to its end, so that a nightly report is delayed and never starved.

The order and the bounds are those of Triton's queues (priority, time-out, size), the preemption vLLM's
(`--scheduling-policy priority`): the lowest priority, then the latest arrival, gives way and starts over.
Time comes in as an argument (monotonic seconds).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False, kw_only=True)
class Ticket:
    """One request for a slot. `arrival` ascends with time and is kept when the request gives way."""

    priority: int  # 0 to 9, 9 first
    deadline_s: float  # monotonic
    arrival: int
    size_bytes: int  # of its prompt
    n_preempted: int = 0
    is_leaving: bool = False  # it has been told to give way, and still has its slot
    refused: str = ""  # why it gets no slot: "queue_full", "queue_bytes", "deadline"

    @property
    def order(self) -> tuple[int, float, int]:
        """The smallest is next."""
        return -self.priority, self.deadline_s, self.arrival


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotLimits:
    """How many run, how much may wait, and how often one may have to give way."""

    n_slots: int
    max_waiting: int
    max_waiting_bytes: int
    max_preemptions: int


@dataclass(slots=True)
class SlotQueue:
    """What runs and what waits. A ticket that was entered is in one of the two until it leaves or is refused."""

    limits: SlotLimits
    waiting: list[Ticket] = field(default_factory=list)
    running: list[Ticket] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)  # "preempted", and "refused_<reason>"

    @property
    def waiting_bytes(self) -> int:
        """Of the prompts that wait."""
        return sum(ticket.size_bytes for ticket in self.waiting)

    def waiting_by_priority(self) -> Mapping[int, int]:
        """How many wait, for each priority that has any."""
        return Counter(ticket.priority for ticket in self.waiting)

    def enter(self, ticket: Ticket) -> None:
        """`ticket` waits, and takes a slot where one is free. Who has no room then is refused: maybe itself."""
        self.waiting.append(ticket)
        self._fill()
        self._shed()

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
        self.counts["preempted"] += 1
        self.waiting.append(ticket)
        self._fill()

    def expire(self, now_s: float) -> None:
        """Those whose deadline passed while they waited are refused."""
        for ticket in [ticket for ticket in self.waiting if ticket.deadline_s <= now_s]:
            self._refuse(ticket, "deadline")

    def next_victim(self) -> Ticket | None:
        """Who has to give way now: marked, and not named again. None when nobody has to.

        One for each waiting request that is above it, the lowest priority first, of equals the latest arrival: it has
        the least to lose.
        """
        n_leaving = sum(ticket.is_leaving for ticket in self.running)
        claims = sorted(self.waiting, key=_order)[n_leaving:]
        yielding = [
            ticket
            for ticket in self.running
            if not ticket.is_leaving and ticket.n_preempted < self.limits.max_preemptions
        ]
        if not claims or not yielding:
            return None
        victim = min(yielding, key=lambda ticket: (ticket.priority, -ticket.arrival))
        if victim.priority >= claims[0].priority:
            return None
        victim.is_leaving = True
        return victim

    def _fill(self) -> None:
        while self.waiting and len(self.running) < self.limits.n_slots:
            first = min(self.waiting, key=_order)
            self.waiting.remove(first)
            self.running.append(first)

    def _shed(self) -> None:
        while reason := self._excess():
            self._refuse(max(self.waiting, key=_order), reason)

    def _excess(self) -> str:
        """Which bound is exceeded; "" when none is."""
        if len(self.waiting) > self.limits.max_waiting:
            return "queue_full"
        return "queue_bytes" if self.waiting_bytes > self.limits.max_waiting_bytes else ""

    def _refuse(self, ticket: Ticket, reason: str) -> None:
        self.waiting.remove(ticket)
        ticket.refused = reason
        self.counts[f"refused_{reason}"] += 1


def _order(ticket: Ticket) -> tuple[int, float, int]:
    return ticket.order
