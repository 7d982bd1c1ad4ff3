"""Who has had what: the ids of routes, and for each sink of a route the position up to which its results are resolved.

A sink that is new to a route starts at the route's end. One that was taken off a route in the config gives up what it
had not had: evicted, reason `sink_removed`. A route that is gone from the config is delivered to the end, as long as
its sink is there.
"""

from collections.abc import Collection, Mapping, Sequence

import apsw

from gatewayd.spool.ledger import Ledger
from gatewayd.spool.migrations import route_range
from gatewayd.spool.sql import number
from gatewayd.spool.sums import check_fields, fields_sum


class Positions:
    """Routes and cursors, in memory as on disk."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self.route_ids: dict[str, int] = {}
        self._pos: dict[tuple[str, str], int] = {}  # (route, sink) -> position
        self._sinks: dict[str, tuple[str, ...]] = {}

    def load(self) -> None:
        """Forget what is in memory and read what is on disk."""
        self.route_ids = {}
        for row, name, checksum in self._connection.execute("SELECT id, name, sum FROM routes"):
            check_fields(checksum, row, name)
            self.route_ids[name] = row
        names = {row: name for name, row in self.route_ids.items()}
        self._pos = {}
        cursors = self._connection.execute("SELECT route_id, sink, pos, sum FROM cursors ORDER BY route_id, sink")
        for route_id, sink, pos, checksum in cursors:
            check_fields(checksum, sink, route_id, pos)
            self._pos[names[route_id], sink] = pos
        self._sinks = {}
        for route, sink in self._pos:
            self._sinks[route] = (*self._sinks.get(route, ()), sink)

    def reconcile(
        self, routes: Mapping[str, Sequence[str]], sinks: Collection[str], seq: int, ledger: Ledger
    ) -> list[tuple[str, str, int]]:
        """Make the cursors those of the config; (route, sink, results given up). Within a transaction."""
        given_up = []
        for route, sink in list(self._pos):
            n_pending = self.pending(route, sink)
            goes_on = sink in routes[route] if route in routes else sink in sinks and n_pending > 0
            if not goes_on:
                ledger.result(route, sink, "evicted", n_pending, "sink_removed")
                given_up += [(route, sink, n_pending)] * bool(n_pending)
                self._remove(route, sink)
        for route, wanted in routes.items():
            route_id = self.route_id(route)
            for sink in wanted:
                cursor = (sink, route_id, route_range(route_id)[0] | seq)
                self._connection.execute(
                    "INSERT OR IGNORE INTO cursors VALUES (?, ?, ?, ?)", (*cursor, fields_sum(*cursor))
                )
        self.load()
        for route in self.route_ids:
            self.trim(route)
        return given_up

    def route_id(self, route: str) -> int:
        """The route's number; a route that is new gets one."""
        known = self.route_ids.get(route)
        if known is None:
            known = number(self._connection, "SELECT ifnull(max(id), 0) + 1 FROM routes")
            self._connection.execute("INSERT INTO routes VALUES (?, ?, ?)", (known, route, fields_sum(known, route)))
            self.route_ids[route] = known
        return known

    def sinks(self, route: str) -> tuple[str, ...]:
        """Who wants the route's results."""
        return self._sinks.get(route, ())

    def routes(self, sink: str) -> list[str]:
        """Whose results the sink gets."""
        return [route for route, known in self._pos if known == sink]

    def get(self, route: str, sink: str) -> int | None:
        """The id up to which everything is resolved for `sink`; None when it has no part in the route."""
        return self._pos.get((route, sink))

    def pending(self, route: str, sink: str, *, after: int = 0, upto: int | None = None) -> int:
        """Count the rows the sink has not had, beyond the id `after`, up to and with the id `upto`."""
        first = max(after, self._pos[route, sink])
        last = route_range(self.route_ids[route])[1] - 1 if upto is None else upto
        return number(self._connection, "SELECT count(*) FROM results WHERE id > ? AND id <= ?", (first, last))

    def move(self, route: str, sink: str, pos: int) -> None:
        """Everything up to `pos` is resolved for `sink`; rows that nobody waits for any more are deleted."""
        self._pos[route, sink] = pos
        route_id = self.route_ids[route]
        self._connection.execute(
            "UPDATE cursors SET pos = ?, sum = ? WHERE sink = ? AND route_id = ?",
            (pos, fields_sum(sink, route_id, pos), sink, route_id),
        )
        self.trim(route)

    def trim(self, route: str) -> None:
        """Delete the rows that every sink of the route has passed."""
        first, last = route_range(self.route_ids[route])
        passed = min((self._pos[route, sink] for sink in self.sinks(route)), default=last)
        self._connection.execute("DELETE FROM results WHERE id > ? AND id <= ?", (first, passed))

    def _remove(self, route: str, sink: str) -> None:
        del self._pos[route, sink]
        self._connection.execute("DELETE FROM cursors WHERE sink = ? AND route_id = ?", (sink, self.route_ids[route]))
