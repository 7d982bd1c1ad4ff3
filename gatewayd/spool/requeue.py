"""Dead letters brought back: messages into the journal of their route, refused results to the sink that refused them.

Invariants: a letter leaves in the transaction that puts its row back, and moves in the books from `dead` to `journaled`
or from `refused` to `pending`; keys stay, so that a far side that remembers them stores nothing twice; other sinks of
the route are not given the result again. What cannot be brought back whole stays where it is, and is said.
"""

from collections.abc import Collection, Iterator, Sequence

import msgspec

from gatewayd.errors import SpoolFull
from gatewayd.export import message_of, refused_event
from gatewayd.ports import DeadLetter, NewResult, RawMessage, Work
from gatewayd.results import MAX_DEAD_PAYLOAD
from gatewayd.spool import sql
from gatewayd.spool.browse import Pick, row_id
from gatewayd.spool.dead import COLUMNS, read_letter
from gatewayd.spool.orders import STEP_BYTES, STEP_ROWS, Order, Progress
from gatewayd.spool.rows import encode_props, result_columns
from gatewayd.spool.sizes import work_bytes
from gatewayd.spool.store import Store
from gatewayd.spool.sums import journal_sum, letter_sum

_MATCHES = (
    "(?1 = '' OR route = ?1) AND (?2 = '' OR sink = ?2) AND (?3 = '' OR reason = ?3) AND (?4 IS NULL OR time < ?4)"
)
_SELECT = f"SELECT {COLUMNS}, sum FROM dead WHERE {_MATCHES}"  # noqa: S608
_CUT = f"its payload is cut: a dead letter keeps {MAX_DEAD_PAYLOAD:,} bytes at most"
_NO_EVENT = "it does not hold the result as it was sent"
_DAMAGED = "it is damaged: what the disk gave back is not what was written"
_STRANGE = (TypeError, ValueError, msgspec.DecodeError, msgspec.ValidationError)

Found = tuple[int, DeadLetter | None]


def step(store: Store, order: Order, routes: Collection[str]) -> tuple[Progress, bool]:
    """Bring back some letters, the oldest first. Raises SpoolFull before anything is changed on disk for good."""
    progress = begun(store, order)
    letters = list(letters_of(store, order.pick, progress))
    if not all(_has_room(store, letter) for _, letter in letters if letter is not None):
        return order.progress, False  # until the sinks of the route have caught up
    back: dict[tuple[str, str], list[Found]] = {}
    for row, letter in letters:
        why = _DAMAGED if letter is None else _why_not(store, letter, routes)
        if why:
            progress = progress.leaving(why, row_id("dead", row))
        elif letter is not None:
            back.setdefault((letter.route, letter.sink), []).append((row, letter))
    for (route, sink), found in back.items():
        put_back = [letter for _, letter in found if letter is not None]
        if sink:
            _put_results(store, route, sink, put_back)
        else:
            _put_messages(store, route, put_back)
        store.dead.take([row for row, _ in found])
    n = sum(map(len, back.values()))
    after = letters[-1][0] if letters else progress.after
    progress = msgspec.structs.replace(progress, n=progress.n + n, after=after)
    return progress, next(letters_of(store, order.pick, progress), None) is None


def begun(store: Store, order: Order) -> Progress:
    """What comes after the order is not part of it: a message brought back may fail again while it is carried out."""
    if order.progress.until is not None:
        return order.progress
    highest = sql.number(store.connection, "SELECT max(id) FROM dead")
    return msgspec.structs.replace(order.progress, until=highest)


def letters_of(store: Store, pick: Pick, progress: Progress) -> Iterator[Found]:
    """The next letters that are meant, as many as a step takes; None in place of a damaged one."""
    matches = (pick.route, pick.sink, pick.reason, pick.before)
    if pick.ids:
        ids = [letter for letter in sorted(pick.ids) if letter > progress.after][:STEP_ROWS]
        rows = (
            row for letter in ids for row in sql.rows(store.connection, f"{_SELECT} AND id = ?5", (*matches, letter))
        )
    else:
        query = f"{_SELECT} AND id > ?5 AND id <= ?6 ORDER BY id LIMIT {STEP_ROWS}"
        rows = (row for row in store.connection.execute(query, (*matches, progress.after, progress.until)))
    n_bytes, most = 0, min(STEP_BYTES, store.cap.group_bytes)
    for row in rows:
        yield row[0], _read(row)
        n_bytes += len(row[6])
        if n_bytes >= most:
            return


def _read(row: Sequence[object]) -> DeadLetter | None:
    *columns, checksum = row
    try:
        return read_letter(columns) if checksum in (0, letter_sum(columns[1:])) else None
    except _STRANGE:
        return None


def _why_not(store: Store, letter: DeadLetter, routes: Collection[str]) -> str:
    """Why the letter cannot be brought back; "" when it can."""
    if letter.reason == "damaged":
        return _DAMAGED
    if not letter.sink:
        if letter.route not in routes:
            return f"there is no route {letter.route} in the config any more"
        return _CUT if len(letter.payload) >= MAX_DEAD_PAYLOAD else ""
    if store.positions.get(letter.route, letter.sink) is None:
        return f"route {letter.route} does not go to sink {letter.sink} any more"
    return "" if refused_event(letter) is not None else _NO_EVENT


def _has_room(store: Store, letter: DeadLetter) -> bool:
    """Whether the sinks that are not to get the result may note that."""
    others = [sink for sink in store.positions.sinks(letter.route) if letter.sink and sink != letter.sink]
    return all(store.positions.has_room(letter.route, sink) for sink in others)


def _put_messages(store: Store, route: str, letters: Sequence[DeadLetter]) -> None:
    raws = [message_of(letter) for letter in letters]
    _make_room(store, Work(route=route, journal=raws))
    flat: list[object] = []
    for row, raw in zip(store.next_rows(route, len(raws)), raws, strict=True):
        flat += _journal_row(row, raw)
    sql.insert(store.connection, "journal", flat)
    for letter in letters:
        if store.ledger.get("messages", route, "", "dead", letter.reason) > 0:
            store.ledger.message(route, "dead", -1, letter.reason)
        elif store.ledger.get("messages", route, "", "dead", "other") > 0:
            store.ledger.message(route, "dead", -1, "other")
        else:
            store.ledger.message(route, "received", 1, "salvaged")  # the count of it was lost to damage
    store.emit("requeued", {"route": route, "n": len(raws)})


def _journal_row(row: int, raw: RawMessage) -> tuple[object, ...]:
    props = encode_props(raw)
    return row, raw.payload, props, 0, journal_sum(row, raw.payload, props)


def _put_results(store: Store, route: str, sink: str, letters: Sequence[DeadLetter]) -> None:
    results = [_result_of(letter) for letter in letters]
    _make_room(store, Work(route=route, results=results))
    rows = store.next_rows(route, len(results))
    sql.insert(store.connection, "results", result_columns(results, rows.start))
    for other in store.positions.sinks(route):
        if other != sink:
            store.positions.resolve(route, other, rows[0] - 1, rows[-1])
    n_counted = min(len(results), store.ledger.get("results", route, sink, "refused", "refused"))
    store.ledger.result(route, sink, "refused", -n_counted, "refused")
    store.ledger.result(route, sink, "produced", len(results) - n_counted, "salvaged")  # as above
    store.grown.add(route)
    store.emit("requeued", {"route": route, "sink": sink, "n": len(results)})


def _result_of(letter: DeadLetter) -> NewResult:
    event = refused_event(letter)
    assert event is not None
    return NewResult(
        key=event.id,
        kind=event.kind,
        subject=event.subject,
        time=letter.time,  # the event has only its milliseconds
        data=bytes(event.data),
        traceparent=event.traceparent,
    )


def _make_room(store: Store, work: Work) -> None:
    if store.room_for(work, work.route) < work_bytes(work):
        raise SpoolFull(f"route {work.route}: spool.max_bytes leaves no room to bring dead letters back")
