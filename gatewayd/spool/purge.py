"""Rows that a person gives up. Nothing is deleted uncounted.

Results are counted as evicted, for each sink that had not had them, messages of the journal as evicted, reason
`purged`; dead letters as purged, for the books count them as dead or refused already. What is being sent now stays: it
may arrive all the same.
"""

from collections.abc import Collection, Iterator

import msgspec

from gatewayd.spool import sql
from gatewayd.spool.browse import Pick, row_id
from gatewayd.spool.migrations import route_range
from gatewayd.spool.orders import STEP_ROWS, Order, Progress
from gatewayd.spool.ranges import Range, gaps, united
from gatewayd.spool.requeue import begun, letters_of
from gatewayd.spool.store import Store

REASON = "purged"
_IN_FLIGHT = "being sent now"
_NO_ROOM = "too much is out of order for the sink: try again when it has caught up"


def step(store: Store, order: Order, routes: Collection[str]) -> tuple[Progress, bool]:  # noqa: ARG001 - as Step
    """Give up some of the rows, the oldest first."""
    pick = order.pick
    if pick.table == "dead":
        return _letters(store, order)
    if pick.ids:
        return _by_number(store, order)
    if pick.table == "results":
        return _results(store, order)
    return _messages(store, order)


def _letters(store: Store, order: Order) -> tuple[Progress, bool]:
    progress = begun(store, order)
    ids = [row for row, _ in letters_of(store, order.pick, progress)]
    n = store.dead.purge(ids)
    progress = msgspec.structs.replace(progress, n=progress.n + n, after=ids[-1] if ids else progress.after)
    return progress, next(letters_of(store, order.pick, progress), None) is None


def _by_number(store: Store, order: Order) -> tuple[Progress, bool]:
    pick, progress = order.pick, order.progress
    ids = [seq for seq in sorted(pick.ids) if seq > progress.after]
    n = 0
    for seq in ids[:STEP_ROWS]:
        for route, row in _rows_of(store, pick, seq):
            why = (
                _give_up_result(store, route, row, pick.sink)
                if pick.table == "results"
                else _give_up_message(store, route, row)
            )
            if why:
                progress = progress.leaving(why, row_id(pick.table, row))
            else:
                n += 1
    after = ids[:STEP_ROWS][-1] if ids else progress.after
    return msgspec.structs.replace(progress, n=progress.n + n, after=after), len(ids) <= STEP_ROWS


def _messages(store: Store, order: Order) -> tuple[Progress, bool]:
    """Of one route: without one nothing is meant."""
    progress = order.progress
    if progress.until is None:
        progress = msgspec.structs.replace(progress, until=store.seq)
    base = route_range(store.positions.route_ids.get(order.pick.route, 0))[0]
    query = "SELECT id FROM journal WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"
    found = sql.rows(store.connection, query, (base, base | (progress.until or 0), STEP_ROWS))
    if found:
        last = found[-1][0]
        store.connection.execute("DELETE FROM journal WHERE id > ? AND id <= ?", (base, last))
        _count_messages(store, order.pick.route, len(found))
    return msgspec.structs.replace(progress, n=progress.n + len(found)), len(found) < STEP_ROWS


def _count_messages(store: Store, route: str, n: int) -> None:
    store.ledger.message(route, "evicted", n, REASON)
    store.emit("evicted", {"route": route, "sink": "", "reason": REASON, "n": n})


def _rows_of(store: Store, pick: Pick, seq: int) -> Iterator[tuple[str, int]]:
    """The row of that number, and its route."""
    there = f"SELECT count(*) FROM {pick.table} WHERE id = ?"  # noqa: S608 - one of two names
    for route, route_id in store.positions.route_ids.items():
        row = route_range(route_id)[0] | seq
        if pick.route in ("", route) and sql.number(store.connection, there, (row,)):
            yield route, row


def _give_up_message(store: Store, route: str, row: int) -> str:
    store.connection.execute("DELETE FROM journal WHERE id = ?", (row,))
    _count_messages(store, route, 1)
    return ""


def _give_up_result(store: Store, route: str, row: int, sink: str) -> str:
    """Why it was not possible; "" when it was."""
    if any(first <= row <= last for first, last in store.leased.spans(route)):
        return _IN_FLIGHT
    sinks = store.positions.sinks(route)
    waiting = [each for each in sinks if store.positions.is_pending(route, each, row)]
    if not sink:
        for each in waiting:
            _count(store, route, each, 1)
        store.connection.execute("DELETE FROM results WHERE id = ?", (row,))
        return ""
    if sink not in waiting:
        return f"sink {sink} does not wait for it"
    if not store.positions.has_room(route, sink):
        return _NO_ROOM
    _count(store, route, sink, 1)
    store.positions.resolve(route, sink, row - 1, row)
    return ""


def _results(store: Store, order: Order) -> tuple[Progress, bool]:
    progress = order.progress
    if progress.until is None:
        progress = msgspec.structs.replace(progress, until=store.seq)
    n, n_left = 0, 0
    for route, sink in _pairs(store, order.pick):
        upto = route_range(store.positions.route_ids[route])[0] | (progress.until or 0)
        free = list(_free(store, route, sink, upto))
        while n < STEP_ROWS and free and store.positions.has_room(route, sink):
            first, last = free.pop(0)
            n += _give_up_range(store, route, sink, first, last, STEP_ROWS - n)
        if n >= STEP_ROWS:
            return msgspec.structs.replace(progress, n=progress.n + n), False
        n_left += store.positions.pending(route, sink, upto=upto)
    left = {_IN_FLIGHT: n_left} if n_left else {}
    return msgspec.structs.replace(progress, n=progress.n + n, left=left), True


def _pairs(store: Store, pick: Pick) -> list[tuple[str, str]]:
    """The routes and sinks that are meant."""
    routes = [route for route in store.positions.route_ids if pick.route in ("", route)]
    return [(route, sink) for route in routes for sink in store.positions.sinks(route) if pick.sink in ("", sink)]


def _free(store: Store, route: str, sink: str, upto: int) -> Iterator[Range]:
    """What the sink waits for, without what is being sent to it or to another."""
    spans = united((first - 1, last) for first, last in store.leased.spans(route))
    for first, last in store.positions.gaps(route, sink, upto=upto):
        yield from gaps(first, spans, after=first, upto=last)


def _give_up_range(store: Store, route: str, sink: str, first: int, last: int, limit: int) -> int:
    query = "SELECT count(*), max(id) FROM (SELECT id FROM results WHERE id > ? AND id <= ? ORDER BY id LIMIT ?)"
    ((n, end),) = sql.rows(store.connection, query, (first, last, limit))
    if n:
        _count(store, route, sink, n)
        store.positions.resolve(route, sink, first, end)
    return int(n)


def _count(store: Store, route: str, sink: str, n: int) -> None:
    store.evict_results(route, sink, n, REASON)
