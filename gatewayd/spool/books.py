"""The two books: what came in and what became of it, per route, and for results per sink.

`journaled` and `pending` are counted from the rows that are there; every other line is a counter. So a balance that
holds says that nothing was lost, and not merely that we add up what we subtracted.
"""

from collections.abc import Mapping

import apsw
import msgspec

from gatewayd.spool.migrations import route_range
from gatewayd.spool.ranges import count_pending, gaps, read_ranges
from gatewayd.spool.sql import number, rows

MESSAGE_LINES = ("received", "handled", "journaled", "dead", "dropped", "evicted", "expired")
RESULT_LINES = ("produced", "delivered", "pending", "refused", "evicted", "expired")

_COUNTERS = "SELECT book, route, sink, line, reason, n FROM counters ORDER BY 1, 2, 3, 4, 5"


class Books(msgspec.Struct, frozen=True, kw_only=True):
    """Both books at one moment. `received` = the other message lines; `produced` = the other result lines."""

    messages: dict[str, dict[str, int]]  # route -> line -> messages
    results: dict[str, dict[str, dict[str, int]]]  # route -> sink -> line -> results
    reasons: dict[str, dict[str, int]]  # "messages/<route>/<line>" or "results/<route>/<sink>/<line>" -> reason -> n
    n_purged: int = 0  # dead letters no longer kept; the lines `dead` and `refused` still count them

    @property
    def balanced(self) -> bool:
        """Whether both books balance, for every route and sink."""
        return all(map(_balances, self.messages.values())) and all(
            _balances(lines) for sinks in self.results.values() for lines in sinks.values()
        )

    def totals(self) -> dict[str, object]:
        """Sums over routes and sinks: {"messages": {line: n}, "results": {line: n}, "balanced": bool}."""
        lines_by_sink = [lines for sinks in self.results.values() for lines in sinks.values()]
        return {
            "messages": {line: sum(book[line] for book in self.messages.values()) for line in MESSAGE_LINES},
            "results": {line: sum(book[line] for book in lines_by_sink) for line in RESULT_LINES},
            "balanced": self.balanced,
        }


def read_books(connection: apsw.Connection) -> Books:
    """Both books as they are on disk. Within a transaction, so that counters and rows are of one moment."""
    routes = {name: route_id for route_id, name in connection.execute("SELECT id, name FROM routes ORDER BY name")}
    messages = {route: dict.fromkeys(MESSAGE_LINES, 0) for route in routes}
    results: dict[str, dict[str, dict[str, int]]] = {}
    reasons: dict[str, dict[str, int]] = {}
    n_purged = 0
    for book, route, sink, line, reason, n in connection.execute(_COUNTERS):
        if book == "dead":
            n_purged = n
            continue
        is_message = book == "messages"
        lines = messages[route] if is_message else _lines(results, route, sink)
        lines[line] += n
        if reason:
            place = f"{book}/{route}/{line}" if is_message else f"{book}/{route}/{sink}/{line}"
            reasons.setdefault(place, {})[reason] = n
    for route, route_id in routes.items():
        counted = number(connection, "SELECT count(*) FROM journal WHERE id > ? AND id < ?", route_range(route_id))
        messages[route]["journaled"] = counted
    ranges = read_ranges(connection)
    for sink, route_id, pos in rows(connection, "SELECT sink, route_id, pos FROM cursors"):
        route = next(name for name, known in routes.items() if known == route_id)
        unresolved = gaps(pos, ranges.get((sink, route_id), ()), after=pos, upto=route_range(route_id)[1] - 1)
        _lines(results, route, sink)["pending"] = count_pending(connection, unresolved)
    return Books(messages=messages, results=results, reasons=reasons, n_purged=n_purged)


def _lines(results: dict[str, dict[str, dict[str, int]]], route: str, sink: str) -> dict[str, int]:
    return results.setdefault(route, {}).setdefault(sink, dict.fromkeys(RESULT_LINES, 0))


def _balances(lines: Mapping[str, int]) -> bool:
    total, *parts = lines.values()  # the first line is what came in
    return total == sum(parts) and all(n >= 0 for n in lines.values())
