"""All routes that spare flash (`write = "when_offline"`), and the clock that holds their loss window.

Invariant: a result that no sink has confirmed is on its way to the file before its route's `write_max_s` is over. The
books on disk are brought up to date every minute, at every spill and at the end; what the running daemon answers
includes what is in memory.
"""

import asyncio
from typing import Any

from gatewayd.ports import Clock, Lease
from gatewayd.spool.books import Books
from gatewayd.spool.health import Health
from gatewayd.spool.recent import MAX_KEYS, Taken
from gatewayd.spool.ring import Ring
from gatewayd.spool.sparing import Disk, Sparing
from gatewayd.spool.store import Store

BOOKS_EVERY_S = 60.0  # a write of some pages a minute: what it costs does not show beside anything else
_LOOK_S = 0.05  # at least between two looks at the clock


class Rings:
    """The rings of a spool, by route. On the event loop's thread."""

    def __init__(self, store: Store, disk: Disk, clock: Clock, max_seen: int) -> None:
        self._clock = clock
        self._health = Health()
        self._taken = Taken(max_seen)
        self._alarm: asyncio.TimerHandle | None = None
        self._book_at_s = clock.monotonic() + BOOKS_EVERY_S
        names = [route for route in store.positions.route_ids if store.policy(route).write == "when_offline"]
        self._routes = {
            route: Sparing(
                Ring(route, sinks),
                store.policy(route),
                store,
                disk,
                now=clock.monotonic,
                health=self._health,
                taken=self._taken,
                n_keys=max(1, MAX_KEYS // 2 // len(names)),
            )
            for route in names
            if (sinks := store.positions.sinks(route))
        }

    def of(self, route: str) -> Sparing | None:
        """The route, if it spares flash."""
        sparing = self._routes.get(route)
        if sparing is not None and self._alarm is None:
            self._look()
        return sparing

    def keeps(self, route: str) -> bool:
        """Whether a work of this route does not have to wait for the disk."""
        sparing = self._routes.get(route)
        return sparing is not None and sparing.is_in_memory

    def was_seen(self, identity: bytes) -> bool:
        """Whether a message with this identity was taken in, and the file may not know it."""
        return identity in self._taken

    def grown(self, route: str) -> None:
        """There are new rows of the route in the file."""
        if (sparing := self._routes.get(route)) is not None:
            sparing.look_into_file()

    def lender(self, lease: Lease) -> Sparing | None:
        """Who lent it, if it is of a ring."""
        sparing = self._routes.get(lease.route)
        return sparing if sparing is not None and sparing.has_lent(lease) else None

    def confirmed(self, lease: Lease) -> None:
        """The sink has what it was lent, whether the route spares flash or not."""
        self._health.confirmed(lease.route, lease.sink)
        for sparing in self._routes.values():
            if lease.sink in sparing.ring.sinks:
                sparing.try_memory()

    def failed(self, lease: Lease) -> None:
        """The sink did not confirm what it was lent."""
        self._health.failed(lease.route, lease.sink)
        if (lender := self.lender(lease)) is not None:
            lender.give_back(lease)
        for sparing in self._routes.values():
            if lease.sink in sparing.ring.sinks:
                sparing.leave("sink")

    def sizes(self) -> dict[str, int]:
        """Results in memory alone, by route; for any thread."""
        return {route: len(sparing.ring) for route, sparing in self._routes.items()}

    def pending(self) -> dict[str, int]:
        """Results in memory that a sink waits for, by sink; for any thread."""
        pending: dict[str, int] = {}
        for sparing in self._routes.values():
            for sink in sparing.ring.sinks:
                pending[sink] = pending.get(sink, 0) + sparing.ring.pending(sink)
        return pending

    def add_to(self, books: Books) -> Books:
        """The books with what is in memory: as if it had been written now."""
        for route, sparing in self._routes.items():
            tally = sparing.unbooked()
            lines: Any = books.messages.setdefault(route, {})
            for (line, reason), n in tally.messages.items():
                lines[line] = lines.get(line, 0) + n
                if reason:
                    reasons = books.reasons.setdefault(f"messages/{route}/{line}", {})
                    reasons[reason] = reasons.get(reason, 0) + n
            for sink in sparing.ring.sinks:
                book = books.results[route][sink]
                n_delivered, n_pending = tally.delivered[sink], sparing.ring.pending(sink)
                book["produced"] += n_delivered + n_pending
                book["delivered"] += n_delivered
                book["pending"] += n_pending
        return books

    def close(self) -> None:
        """The process ends: write everything."""
        if self._alarm is not None:
            self._alarm.cancel()
        for sparing in self._routes.values():
            sparing.close()

    def look(self) -> None:
        """Write what is due now."""
        now_s = self._clock.monotonic()
        for route, sparing in self._routes.items():
            if sparing.due_s <= now_s:
                for sink in sparing.ring.sinks:
                    if sparing.ring.pending(sink):
                        self._health.failed(route, sink)  # in memory again when it has confirmed something
                sparing.leave("write_max_s")
        if self._book_at_s <= now_s:
            self._book_at_s = now_s + BOOKS_EVERY_S
            for sparing in self._routes.values():
                sparing.book()

    def _look(self) -> None:
        self.look()
        now_s = self._clock.monotonic()
        shortest_s = min(sparing.window_s for sparing in self._routes.values())
        due_s = min(self._book_at_s, now_s + shortest_s, *(sparing.due_s for sparing in self._routes.values()))
        loop = asyncio.get_running_loop()
        self._alarm = loop.call_later(max(_LOOK_S, due_s - now_s), self._look)
