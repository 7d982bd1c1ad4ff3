"""Orders: what a command in another process asks of the running daemon, put into the spool and carried out there.

Invariants: an order is on disk before anybody waits for it; each step of it and the note of how far it has come are one
transaction, so that after a crash it goes on where it was and does nothing twice. Finished orders are forgotten after a
while, and no more than `MAX_WAITING` may wait.

A step is bounded in rows and bytes, and done by the writer thread as a chore, once a second: ingest does not wait for
it. The other process writes one row and never checkpoints.
"""

import math
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Protocol

import apsw
import msgspec
import structlog

from gatewayd.errors import GatewaydError, SpoolFull
from gatewayd.spool.browse import Pick
from gatewayd.spool.database import BUSY_MS
from gatewayd.spool.sql import number
from gatewayd.spool.store import Store

log = structlog.get_logger(__name__)

What = Literal["requeue", "purge"]

MAX_WAITING = 64
STEP_ROWS = 1000
STEP_BYTES = 1 << 20
_KEPT = 64  # finished orders, for commands that have not read their answers yet
_MAX_REASONS = 16  # different words about rows that were left
_POLL_S = 0.1
_LAST = "orders_last"  # name in `state`: the highest id that was given out


class Progress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far an order has come."""

    n: int = 0  # rows done
    left: dict[str, int] = {}  # why rows were left -> how many
    examples: dict[str, str] = {}  # why -> the id of one of them
    after: int = 0  # rows up to this one have been looked at
    until: int | None = None  # and those beyond this one came after the order

    def leaving(self, why: str, row: str) -> "Progress":
        """One more row is left where it is."""
        known = why if why in self.left or len(self.left) < _MAX_REASONS else "other reasons"
        return msgspec.structs.replace(
            self,
            left={**self.left, known: self.left.get(known, 0) + 1},
            examples={known: row, **self.examples},
        )


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for, as it stands in `orders.args`."""

    pick: Pick
    progress: Progress = Progress()


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came of it, as it stands in `orders.answer`."""

    n: int
    left: dict[str, int] = {}
    examples: dict[str, str] = {}
    error: str = ""


class Step(Protocol):
    """One kind of order: does a bounded part of it, within a transaction. The progress, and whether that was all."""

    def __call__(self, store: Store, order: Order, routes: Collection[str]) -> tuple[Progress, bool]: ...


class OrderUnansweredError(GatewaydError):
    """The daemon has not carried the order out within the time; it stays in the spool and will be."""


_encode = msgspec.json.Encoder().encode
_decode_order = msgspec.json.Decoder(Order).decode
_decode_answer = msgspec.json.Decoder(Answer).decode


class Orders:
    """The chore. `routes` are those of the config."""

    def __init__(self, store: Store, steps: dict[str, Step], routes: Collection[str]) -> None:
        self._store = store
        self._connection = store.connection
        self._steps = steps
        self._routes = routes
        self._version = -1
        self._is_waiting = True  # what an earlier life has left
        self._failed: tuple[int, str] | None = None  # the order that cannot be carried out, and why

    def is_due(self, now_s: float) -> bool:  # noqa: ARG002 - asked once a second anyway
        """Whether another process has written something, or an order is under way."""
        version = int(self._connection.pragma("data_version"))
        self._is_waiting |= version != self._version
        self._version = version
        return self._is_waiting

    def run(self) -> None:
        """A step of the oldest order."""
        query = "SELECT id, what, args FROM orders WHERE answer IS NULL ORDER BY id LIMIT 1"
        row = self._connection.execute(query).fetchone()
        self._is_waiting = row is not None
        if row is None:
            return
        order_id, what, args = row
        if self._failed is not None and self._failed[0] == order_id:
            self._finish(order_id, what, Answer(n=_progress(args).n, error=self._failed[1]))
            return
        step = self._steps.get(what)
        try:
            order = _decode_order(args)
        except msgspec.DecodeError:
            step = None
        if step is None:
            self._finish(order_id, what, Answer(n=0, error=f"this gatewayd does not know the order {what}"))
            return
        try:
            progress, is_done = step(self._store, order, self._routes)
        except SpoolFull as error:
            self._failed = (order_id, str(error))  # said in the next transaction: this one is undone
            raise
        if is_done:
            self._finish(order_id, what, Answer(n=progress.n, left=progress.left, examples=progress.examples))
        elif progress != order.progress:
            noted = _encode(msgspec.structs.replace(order, progress=progress)).decode()
            self._connection.execute("UPDATE orders SET args = ? WHERE id = ?", (noted, order_id))

    def _finish(self, order_id: int, what: str, answer: Answer) -> None:
        self._connection.execute("UPDATE orders SET answer = ? WHERE id = ?", (_encode(answer).decode(), order_id))
        self._connection.execute("DELETE FROM orders WHERE answer IS NOT NULL AND id <= ?", (order_id - _KEPT,))
        log.info("order carried out", what=what, rows=answer.n, left=sum(answer.left.values()), error=answer.error)


def _progress(args: str) -> Progress:
    try:
        return _decode_order(args).progress
    except msgspec.DecodeError:
        return Progress()


def write_order(connection: apsw.Connection, what: What, pick: Pick) -> int:
    """Put an order into the spool; its id. Raises GatewaydError when too many wait."""
    with _writing(connection):
        waiting = number(connection, "SELECT count(*) FROM orders WHERE answer IS NULL")
        if waiting >= MAX_WAITING:
            raise GatewaydError(f"{waiting} orders wait in the spool already: does the daemon run?")
        # Never an id that was there before, or a command would read the answer to another order.
        last = number(connection, "SELECT value FROM state WHERE name = ?", (_LAST,))
        order_id = max(last, number(connection, "SELECT max(id) FROM orders")) + 1
        args = _encode(Order(pick=pick)).decode()
        connection.execute("INSERT INTO orders VALUES (?, ?, ?, NULL)", (order_id, what, args))
        connection.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (_LAST, order_id))
    return order_id


@contextmanager
def _writing(connection: apsw.Connection) -> Iterator[None]:
    # Not deferred: a read that becomes a write fails at once when the daemon has written in between.
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def read_answer(connection: apsw.Connection, order_id: int) -> tuple[Progress, Answer | None]:
    """How far the order has come, and its answer once it has one. Raises GatewaydError when it is not there."""
    row = connection.execute("SELECT args, answer FROM orders WHERE id = ?", (order_id,)).fetchone()
    if row is None:
        raise GatewaydError(f"order {order_id} is no longer in the spool: see the daemon's log")
    args, answer = row
    return _progress(args), None if answer is None else _decode_answer(answer)


def carry_out(store: Store, what: What, pick: Pick, routes: Collection[str], steps: dict[str, Step]) -> Answer:
    """Do it here and now, in a spool that nobody else has open. What earlier commands have left is done first."""
    order_id = write_order(store.connection, what, pick)
    chore = Orders(store, steps, routes)
    while True:
        answer = read_answer(store.connection, order_id)[1]
        if answer is not None:
            return answer
        store.begin()
        try:
            chore.run()
            store.flush()
            store.commit()
        except SpoolFull:  # the chore says so in the answer
            store.rollback()
        except BaseException:
            store.rollback()
            raise
        store.committed()


class Desk:
    """A connection to a spool that a daemon has open, to give orders to it."""

    def __init__(self, path: Path) -> None:
        self._connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self._connection.set_busy_timeout(BUSY_MS)
        self._connection.wal_autocheckpoint(0)
        self._connection.pragma("synchronous", "FULL")

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def give(
        self, what: What, pick: Pick, *, wait_s: float, progress: Callable[[int], None], limit_s: float = math.inf
    ) -> Answer:
        """Give an order and wait for its answer; `progress` is told how many rows are done.

        Raises OrderUnansweredError when there is none in `wait_s` seconds without any progress, or in `limit_s`.
        """
        order_id = write_order(self._connection, what, pick)
        seen, since_s = Progress(), time.monotonic()
        until_s = since_s + limit_s
        while True:
            now, answer = read_answer(self._connection, order_id)
            if answer is not None:
                return answer
            if now != seen:
                seen, since_s = now, time.monotonic()
                progress(now.n)
            if time.monotonic() > min(until_s, since_s + wait_s):
                error = OrderUnansweredError(
                    f"the daemon has done nothing about the order for {wait_s:.0f} s ({now.n} rows so far)"
                )
                error.hint = "the order is in the spool, and is carried out as soon as the daemon can: see its log"
                raise error
            time.sleep(_POLL_S)
