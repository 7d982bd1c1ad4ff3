"""A ring's content into the file, and what it counted into the books: the store's part of it, on the writer thread and
within a transaction.

Invariant: the books on disk balance after each of these. What a sink had already is counted by the ring's tally as
produced and delivered; the rest is counted as produced here, and is pending because its row is there.

Rows get their numbers here, in the order of the ring, and not when the results came: sequence numbers say when a row
was stored (its age, its clock), and one given out earlier would make a fresh row look old.
"""

from collections.abc import Mapping

from gatewayd.errors import SpoolFull
from gatewayd.ports import Share, Work
from gatewayd.spool import sql
from gatewayd.spool.cap import REASON
from gatewayd.spool.migrations import route_range
from gatewayd.spool.ring import Spill, Tally
from gatewayd.spool.rows import result_columns
from gatewayd.spool.sizes import n_too_many
from gatewayd.spool.store import Store

Held = Mapping[tuple[str, Share], tuple[int, int]]  # (sink, share) -> first and last result on their way, as indices


def write_ring(store: Store, spill: Spill, held: Held) -> list[int]:
    """Store the results; the row of each, 0 for what the cap has evicted."""
    route = spill.route
    n_lost = _n_without_room(store, spill)
    rows = _insert(store, spill, n_lost)
    write_tally(store, route, spill.tally)
    seen = list(spill.tally.seen)
    store.seen.stage(seen)
    store._forget_attempts(seen)
    for sink, n_had in spill.resolved.items():
        n_evicted = max(0, n_lost - n_had)
        store.ledger.result(route, sink, "produced", len(rows) - n_had)
        if n_evicted:
            store.evict_results(route, sink, n_evicted, REASON)
        if had := [row for row in rows[:n_had] if row]:
            store.positions.resolve(route, sink, had[0] - 1, had[-1])
    for (sink, share), (first, last) in held.items():
        if leased := [row for row in rows[first : last + 1] if row]:
            store.leased.set(route, sink, share, leased[0], leased[-1])
    if any(rows):
        store.grown.add(route)
    return rows


def write_tally(store: Store, route: str, tally: Tally) -> None:
    """What has left the ring goes into the books."""
    for (line, reason), n in tally.messages.items():
        store.ledger.message(route, line, n, reason)
    for sink, n in tally.delivered.items():
        store.ledger.result(route, sink, "produced", n)
        store.ledger.result(route, sink, "delivered", n)


def is_nearly_drained(store: Store, route: str, n: int) -> bool:
    """Whether no more than `n` of the route's rows wait for a sink."""
    query = "SELECT count(*) FROM (SELECT 1 FROM results WHERE id > ? AND id < ? LIMIT ?)"
    route_id = store.positions.route_ids.get(route, 0)
    bounds = route_range(route_id)
    store._recent_keys(route, route_id)  # what is in memory is compared with them from now on
    return sql.number(store.connection, query, (*bounds, n + 1)) <= n


def _n_without_room(store: Store, spill: Spill) -> int:
    """Make room; how many of the oldest results there is none for.

    Where the route would rather wait than lose any there was room when they were taken into memory: it does not wait.
    """
    try:
        room = store.room_for(Work(route=spill.route, results=spill.results), spill.route)
    except SpoolFull:
        return 0
    return n_too_many([len(result.data) for result in spill.results], room)


def _insert(store: Store, spill: Spill, n_lost: int) -> list[int]:
    kept = spill.results[n_lost:]
    rows = store.next_rows(spill.route, len(kept))
    keys = store._recent_keys(spill.route, store.positions.route_id(spill.route))
    keys.stage(result.key for result in spill.results)
    # Not buffered: what a sink has had is resolved right after, and that looks at the table.
    sql.insert(store.connection, "results", store._results + result_columns(kept, rows.start))
    store._results = []
    return [0] * n_lost + list(rows)
