"""What is older than its route's `ttl_s` leaves the spool, counted as expired; and the upkeep of the age clock.

Invariants: a row expires by its age on the age clock (see `ages`), which needs no wall clock: so a clock that jumps
makes nothing expire, and one that was never set keeps nothing from expiring. A row that is being sent now is left until
that is over. Rows and counters change in one transaction, a bounded number of rows at a time.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import apsw

from gatewayd.spool.ages import Ages
from gatewayd.spool.in_flight import InFlight, Span
from gatewayd.spool.ledger import Ledger
from gatewayd.spool.migrations import route_range
from gatewayd.spool.policy import RoutePolicy
from gatewayd.spool.positions import Positions
from gatewayd.spool.sql import number

REASON = "ttl"
MAX_ROWS = 4096  # of one route and table in one transaction: some milliseconds

_LAST = {
    table: f"SELECT max(id) FROM (SELECT id FROM {table} WHERE id > ? AND id <= ? ORDER BY id LIMIT ?)"  # noqa: S608
    for table in ("results", "journal")
}
_DELETE = {table: f"DELETE FROM {table} WHERE id > ? AND id <= ?" for table in _LAST}  # noqa: S608


class Timed(Protocol):
    """The parts of the store that these chores need."""

    connection: apsw.Connection
    ages: Ages
    ledger: Ledger
    positions: Positions
    leased: InFlight
    emit: Callable[[str, Mapping[str, object]], None]

    @property
    def seq(self) -> int: ...

    def skip_seq(self) -> None: ...


class Timekeeping:
    """A chore: marks and clock segments for rows after which no others have come, and the age saved now and then."""

    def __init__(self, store: Timed) -> None:
        self._store = store

    def is_due(self, now_s: float) -> bool:  # noqa: ARG002 - the age clock says it
        """See chores.Chore."""
        ages = self._store.ages
        return ages.wants_number(self._store.seq) or ages.wants_saving()

    def run(self) -> None:
        """See chores.Chore. What is written is written by `Ages.flush`."""
        if self._store.ages.wants_number(self._store.seq):
            self._store.skip_seq()
        self._store.ages.save()


class Expiry:
    """A chore: rows older than their route's TTL go."""

    def __init__(self, store: Timed, policies: Mapping[str, RoutePolicy]) -> None:
        self._store = store
        self._ttls_s = {route: policy.ttl_s for route, policy in policies.items() if policy.ttl_s is not None}
        self._done: dict[str, int] = {}  # route -> sequence number up to which nothing was left

    def is_due(self, now_s: float) -> bool:  # noqa: ARG002 - the age clock says it
        """See chores.Chore."""
        return any(self._upto(route) > self._done.get(route, 0) for route in self._ttls_s)

    def run(self) -> None:
        """See chores.Chore. What is left over is due at the next look."""
        for route in self._ttls_s:
            upto = self._upto(route)
            if upto > self._done.get(route, 0) and not self._expire(route, upto):
                self._done[route] = upto  # seen, and nothing changed: true whatever becomes of the transaction

    def _upto(self, route: str) -> int:
        ages = self._store.ages
        return ages.upto(ages.now_s() - self._ttls_s[route])

    def _expire(self, route: str, upto_seq: int) -> bool:
        """Whether there was something to do, or there will be when what is in flight has come to its end."""
        route_id = self._store.positions.route_ids.get(route)
        if route_id is None:
            return False
        base = route_range(route_id)[0]
        upto = base | upto_seq
        spans = [span for span in self._store.leased.spans(route) if span[0] <= upto]
        left = MAX_ROWS
        for first, last in _around(spans, base, upto):
            left -= self._expire_results(route, first, last, left)
        return self._expire_journal(route, base, upto) or left < MAX_ROWS or bool(spans)

    def _expire_results(self, route: str, first: int, last: int, limit: int) -> int:
        last = number(self._store.connection, _LAST["results"], (first, last, limit)) if limit else 0
        if not last:
            return 0
        for sink in self._store.positions.sinks(route):
            n_lost = self._store.positions.pending(route, sink, after=first, upto=last)
            if n_lost:
                self._store.ledger.result(route, sink, "expired", n_lost, REASON)
                self._report(route, sink, n_lost)
        return self._delete("results", first, last)

    def _expire_journal(self, route: str, first: int, last: int) -> bool:
        last = number(self._store.connection, _LAST["journal"], (first, last, MAX_ROWS))
        if not last:
            return False
        n_lost = self._delete("journal", first, last)
        self._store.ledger.message(route, "expired", n_lost, REASON)
        self._report(route, "", n_lost)
        return True

    def _delete(self, table: str, first: int, last: int) -> int:
        self._store.connection.execute(_DELETE[table], (first, last))
        return self._store.connection.changes()

    def _report(self, route: str, sink: str, n: int) -> None:
        self._store.emit("expired", {"route": route, "sink": sink, "reason": REASON, "n": n})


def _around(spans: list[Span], base: int, upto: int) -> list[Span]:
    """The ranges (first, last] within (base, upto] that no span touches; spans are sorted and may overlap."""
    free = []
    begin = base
    for first, last in spans:
        if first - 1 > begin:
            free.append((begin, first - 1))
        begin = max(begin, last)
    if upto > begin:
        free.append((begin, upto))
    return free
