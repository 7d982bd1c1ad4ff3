"""The ring: a route's results that are in memory alone, for as long as every sink confirms (`write = "when_offline"`).

Invariants: results leave at the front, once every sink of the route has them or when they are written to the file; each
sink has had a prefix of them. What a message adds to the books is added when the last of its results has left, so that
what a power cut takes is missing on both sides of the books. Not thread-safe: it lives on the event loop's thread.
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from gatewayd.ports import NewResult, StoredResult, Work

Reason = tuple[str, str]  # line of the book of messages, reason
MAX_SEEN_WRITTEN = 4096  # identities written with a spill: what a broker may deliver again is what was on its way


@dataclass(slots=True)
class Tally:
    """What is counted and not yet in the books on disk. Balances at every moment."""

    messages: Counter[Reason] = field(default_factory=Counter)
    delivered: Counter[str] = field(default_factory=Counter)  # by sink; as many were produced
    seen: deque[bytes] = field(default_factory=lambda: deque(maxlen=MAX_SEEN_WRITTEN))

    @classmethod
    def of(cls, work: Work) -> "Tally":
        """What a work adds to the book of messages."""
        lines = {("received", ""): work.received, ("handled", ""): work.handled}
        lines.update({("dropped", reason): n for reason, n in work.dropped.items()})
        counts = Counter({line: n for line, n in lines.items() if n})
        return cls(messages=counts, seen=deque(work.seen, maxlen=MAX_SEEN_WRITTEN))

    def add(self, other: "Tally") -> None:
        """Both as one."""
        self.messages.update(other.messages)
        self.delivered.update(other.delivered)
        self.seen.extend(other.seen)

    @property
    def has_counts(self) -> bool:
        """Whether the books would change."""
        return bool(self.messages or self.delivered)


@dataclass(slots=True)
class Entry:
    """One result in the ring."""

    result: NewResult
    since_s: float  # monotonic
    tally: Tally | None  # with the last result of a work: what becomes countable when it leaves


@dataclass(slots=True)
class Spill:
    """A ring's content on its way to the file, in order."""

    route: str
    results: Sequence[NewResult]
    resolved: Mapping[str, int]  # sink -> how many of `results` it has
    tally: Tally


class Ring:
    """One route's results in memory, numbered in order of arrival, from 1 on."""

    def __init__(self, route: str, sinks: Sequence[str]) -> None:
        self.route = route
        self.sinks = tuple(sinks)
        self.tally = Tally()  # of what has left
        self.n_bytes = 0
        self._entries: deque[Entry] = deque()
        self._first = 1  # number of the first entry
        self._next = dict.fromkeys(self.sinks, 1)  # sink -> number of the first entry it has not had

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def oldest_s(self) -> float:
        """When the oldest result came in (monotonic); infinite when there is none."""
        return self._entries[0].since_s if self._entries else float("inf")

    def pending(self, sink: str) -> int:
        """Results the sink has not had."""
        return self._first + len(self._entries) - self._next[sink]

    def has(self, number: int) -> bool:
        """Whether the result with this number is here; a row's id, which is far larger, never is."""
        return self._first <= number < self._first + len(self._entries)

    def add(self, work: Work, now_s: float) -> None:
        """Take in a work that has no journal entries and no dead letters."""
        tally = Tally.of(work)
        if not work.results:
            self.tally.add(tally)
            return
        for result in work.results:
            self._entries.append(Entry(result, now_s, None))
            self.n_bytes += len(result.data)
        self._entries[-1].tally = tally

    def take(self, sink: str, limit: int, max_bytes: int, *, clock: str = "") -> tuple[StoredResult, ...]:
        """The oldest results the sink has not had: at least one, if there is one, whatever its size.

        `clock` is what `StoredResult.clock` is now.
        """
        first = self._next[sink]
        taken: list[StoredResult] = []
        n_bytes = 0
        at = first - self._first
        for number, entry in enumerate(islice(self._entries, at, at + limit), first):
            n_bytes += len(entry.result.data)
            if taken and n_bytes > max_bytes:
                break
            taken.append(_stored(number, self.route, entry.result, clock))
        return tuple(taken)

    def settle(self, sink: str, last: int) -> None:
        """The sink has everything up to the number `last`."""
        n_new = last + 1 - self._next[sink]
        if n_new <= 0:
            return
        self._next[sink] = last + 1
        self.tally.delivered[sink] += n_new
        for _ in range(min(self._next.values()) - self._first):
            self._leave()

    def span(self, first: int, last: int) -> tuple[int, int]:
        """Where the results with these numbers are in a `spill`, as indices. They must be there."""
        return first - self._first, last - self._first

    def spill(self) -> Spill:
        """What the file has to take over. Until `spilled` the ring stays as it is, and nothing may be added."""
        tally = Tally()
        tally.add(self.tally)
        for entry in self._entries:
            if entry.tally is not None:
                tally.add(entry.tally)
        resolved = {sink: number - self._first for sink, number in self._next.items()}
        return Spill(self.route, [entry.result for entry in self._entries], resolved, tally)

    def spilled(self) -> None:
        """All of it is in the file now: forget it."""
        self._first += len(self._entries)
        self._entries.clear()
        self._next = dict.fromkeys(self.sinks, self._first)
        self.tally = Tally()
        self.n_bytes = 0

    def _leave(self) -> None:
        entry = self._entries.popleft()
        self._first += 1
        self.n_bytes -= len(entry.result.data)
        if entry.tally is not None:
            self.tally.add(entry.tally)


def _stored(number: int, route: str, result: NewResult, clock: str) -> StoredResult:
    return StoredResult(
        row=number,
        route=route,
        key=result.key,
        kind=result.kind,
        subject=result.subject,
        time=result.time,
        data=result.data,
        traceparent=result.traceparent,
        clock=clock,
    )
