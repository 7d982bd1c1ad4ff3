"""Who has had what: the ids of routes, and for each sink of a route the position up to which its results are resolved,
and the ranges beyond it that are.

A sink that is new to a route starts at the route's end. One that was taken off a route in the config gives up what it
had not had: evicted, reason `sink_removed`. A route that is gone from the config is delivered to the end, as long as
its sink is there.
"""

from collections.abc import Collection, Mapping, Sequence

import apsw

from gatewayd.spool.ledger import Ledger
from gatewayd.spool.migrations import route_range
from gatewayd.spool.ranges import MAX_RANGES, Range, common, count_pending, gaps, read_ranges, united
from gatewayd.spool.sql import number
from gatewayd.spool.sums import check_fields, fields_sum


class Positions:
    """Routes and cursors, in memory as on disk."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self.route_ids: dict[str, int] = {}
        self._pos: dict[tuple[str, str], int] = {}  # (route, sink) -> position
        self._ranges: dict[tuple[str, str], tuple[Range, ...]] = {}  # beyond it, see `ranges`
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
        found = read_ranges(self._connection).items()
        self._ranges = {(names[route_id], sink): tuple(ranges) for (sink, route_id), ranges in found}
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

    def own(self, route: str, ids: Sequence[int]) -> list[int]:
        """Those of the row ids that are the route's."""
        first, end = route_range(self.route_ids.get(route, 0))
        return [row for row in ids if first < row < end]

    def sinks(self, route: str) -> tuple[str, ...]:
        """Who wants the route's results."""
        return self._sinks.get(route, ())

    def routes(self, sink: str) -> list[str]:
        """Whose results the sink gets."""
        return [route for route, known in self._pos if known == sink]

    def get(self, route: str, sink: str) -> int | None:
        """The id up to which everything is resolved for `sink`; None when it has no part in the route."""
        return self._pos.get((route, sink))

    def has_room(self, route: str, sink: str) -> bool:
        """Whether something new may be begun that would resolve one more range apart. Cheap; for any thread."""
        return len(self._ranges.get((route, sink), ())) < MAX_RANGES

    def gaps(self, route: str, sink: str, *, after: int = 0, upto: int | None = None) -> list[Range]:
        """What the sink waits for, as ranges of ids (first, last] within (after, upto], oldest first."""
        last = route_range(self.route_ids[route])[1] - 1 if upto is None else upto
        pair = route, sink
        return list(gaps(self._pos[pair], self._ranges.get(pair, ()), after=after, upto=last))

    def pending(self, route: str, sink: str, *, after: int = 0, upto: int | None = None) -> int:
        """Count the rows the sink has not had, beyond the id `after`, up to and with the id `upto`."""
        return count_pending(self._connection, self.gaps(route, sink, after=after, upto=upto))

    def is_pending(self, route: str, sink: str, row: int) -> bool:
        """Whether the row is there and the sink has not had it."""
        return self.pending(route, sink, after=row - 1, upto=row) > 0

    def resolve(self, route: str, sink: str, first: int, last: int) -> None:
        """The sink has had what is in (first, last]; rows that nobody waits for any more are deleted.

        What has no pending row between it and the position, or a range, is joined with it: so every row up to `last`
        must be in the table, and none still be buffered by the store.
        """
        pair = route, sink
        pos = self._pos[pair]
        if last <= pos:
            return
        beyond: list[Range] = []
        for begin, end in united([*self._ranges.get(pair, ()), (max(first, pos), last)]):
            before = beyond[-1][1] if beyond else pos
            if begin > before and self._has_rows(before, begin):
                beyond.append((begin, end))
            elif beyond:
                beyond[-1] = (beyond[-1][0], end)
            else:
                pos = end
        self._move(pair, pos, tuple(beyond))
        self.trim(route, after=min(first, pos), upto=last)

    def trim(self, route: str, *, after: int | None = None, upto: int | None = None) -> None:
        """Delete the rows that every sink of the route has had, within (after, upto]."""
        begin, end = route_range(self.route_ids[route])
        done = [(begin if after is None else after, end - 1 if upto is None else upto)]
        for sink in self.sinks(route):
            pair = route, sink
            done = common(done, [(begin, self._pos[pair]), *self._ranges.get(pair, ())])
        self._connection.executemany("DELETE FROM results WHERE id > ? AND id <= ?", done)

    def _has_rows(self, first: int, last: int) -> bool:
        there = "SELECT EXISTS (SELECT 1 FROM results WHERE id > ? AND id <= ?)"
        return bool(number(self._connection, there, (first, last)))

    def _move(self, pair: tuple[str, str], pos: int, ranges: tuple[Range, ...]) -> None:
        route, sink = pair
        route_id = self.route_ids[route]
        if pos != self._pos[pair]:
            self._connection.execute(
                "UPDATE cursors SET pos = ?, sum = ? WHERE sink = ? AND route_id = ?",
                (pos, fields_sum(sink, route_id, pos), sink, route_id),
            )
            self._pos[pair] = pos
        known = self._ranges.get(pair, ())
        if ranges != known:
            gone = [(sink, route_id, first) for first, _ in set(known) - set(ranges)]
            new = [(sink, route_id, *new) for new in set(ranges) - set(known)]
            self._connection.executemany("DELETE FROM ranges WHERE sink = ? AND route_id = ? AND first = ?", gone)
            rows = [(*row, fields_sum(*row)) for row in new]
            self._connection.executemany("INSERT INTO ranges VALUES (?, ?, ?, ?, ?)", rows)
            self._ranges[pair] = ranges

    def _remove(self, route: str, sink: str) -> None:
        del self._pos[route, sink]
        for table in ("cursors", "ranges"):
            statement = f"DELETE FROM {table} WHERE sink = ? AND route_id = ?"  # noqa: S608
            self._connection.execute(statement, (sink, self.route_ids[route]))
