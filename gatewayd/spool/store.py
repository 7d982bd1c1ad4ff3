"""What the writer thread does to the database: each public method is one change or one read, inside a transaction.

Invariants: a change and its counters are one transaction; what is in memory (`Positions`, `Ledger`, sequence number …)
is what is on disk, and after a rollback is read again from there; new rows are buffered and go in at `flush`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import apsw

from gatewayd.config import schema
from gatewayd.crash import NO_CRASH, CrashPoint
from gatewayd.errors import FatalError, SpoolFull
from gatewayd.ports import Clock, DeadLetter, NewResult, RawMessage, Work
from gatewayd.spool import expiry, sql
from gatewayd.spool.ages import Ages
from gatewayd.spool.ballast import ballast_bytes_for
from gatewayd.spool.books import Books, read_books
from gatewayd.spool.cap import REASON, Cap
from gatewayd.spool.chores import Chore
from gatewayd.spool.damaged import REASON as DAMAGED
from gatewayd.spool.damaged import Checked, GiveUp, check_ids
from gatewayd.spool.dead import DeadLetters
from gatewayd.spool.holds import Holds
from gatewayd.spool.in_flight import InFlight
from gatewayd.spool.journaled import Journaled
from gatewayd.spool.ledger import Ledger
from gatewayd.spool.migrations import SEQ_MASK, route_range
from gatewayd.spool.outgoing import Outgoing
from gatewayd.spool.policy import DEFAULT, RoutePolicy
from gatewayd.spool.positions import Positions
from gatewayd.spool.recent import MAX_KEYS, RecentKeys, Seen
from gatewayd.spool.rows import encode_props, result_columns
from gatewayd.spool.sizes import n_too_many, work_bytes
from gatewayd.spool.sums import journal_sum

OnEvent = Callable[[str, Mapping[str, object]], None]

_MIN_ATTEMPTS_KEPT = 1024
# Why a row of the journal may be gone while it is being handled.
_GONE = (("evicted", REASON), ("evicted", "purged"), ("expired", expiry.REASON), ("dead", DAMAGED))


class Store:
    """The spool's state, used by one thread at a time."""

    def __init__(
        self,
        connection: apsw.Connection,
        path: Path,
        config: schema.Spool,
        policies: Mapping[str, RoutePolicy],
        routes: Mapping[str, Sequence[str]],
        clock: Clock,
        emit: OnEvent,
        crash: CrashPoint = NO_CRASH,
    ) -> None:
        self.connection = self._connection = connection
        self.emit = self._emit = emit
        self._policies = policies
        self.chores: list[Chore] = []
        self.leased = InFlight()
        self.ledger = Ledger()
        self.ages = Ages(clock, policies)
        self.holds = Holds(self.ages)
        self.positions = Positions(connection)
        self.checked = Checked(connection)
        self.damaged = GiveUp(connection, self.checked, self.positions, self.ledger, self._bury, emit)
        self.journaled = Journaled(self.checked, self.positions, self.ages)
        self.outgoing = Outgoing(self.checked, self.positions, self.ledger, self.leased, self.ages.segments, self._bury)
        self.cap = Cap(
            connection,
            path,
            self.positions,
            self.ledger,
            max_bytes=config.max_bytes - ballast_bytes_for(config.ballast_bytes, config.max_bytes),
            policy=self.policy,
            spans=self.leased.spans,
            on_evicted=self._report_evicted,
            crash=crash,
        )
        self.dead = DeadLetters(
            connection,
            self.ledger,
            max_letters=config.max_dead_letters,
            max_bytes=min(config.max_dead_bytes, config.max_bytes // 4),  # leave most of the cap to what is alive
        )
        self.seen = Seen(config.seen_messages)
        self._max_attempts_kept = max(config.seen_messages, _MIN_ATTEMPTS_KEPT)
        self._attempts: dict[bytes, int] = {}
        self._keys: dict[str, RecentKeys] = {}
        self._half_keys = MAX_KEYS // 2 // max(1, len(routes))
        self._seq = 0
        self._written_seq = 0
        self._n_changes = 0  # as SQLite counts them, before the transaction under way
        self._is_marked = False  # as in use: the next start checks the file, unless we end in good order
        self._is_stale = False  # memory may not be what is on disk
        self._results: list[object] = []  # columns of rows not inserted yet
        self._journal: list[object] = []
        self.grown: set[str] = set()  # routes that got results in this transaction

    def policy(self, route: str) -> RoutePolicy:
        """What the route's config says, or the default for one that is gone from it."""
        return self._policies.get(route, DEFAULT)

    @property
    def seq(self) -> int:
        """The last sequence number given out; for any thread."""
        return self._seq

    def in_flight(self, route: str) -> int:
        """The highest row id that is being sent now, 0 when none: see `leased.spans` for those of live shares."""
        return self.leased.highest(route)

    def skip_seq(self) -> None:
        """Use up a sequence number for a row that is not there."""
        self._seq += 1

    def hold(self, sink: str, delay_s: float) -> None:
        """The far side asked for this pause."""
        self.holds.put(self._connection, sink, delay_s)

    def start(self) -> None:
        """Read everything that is kept in memory."""
        self.load()
        check_ids(self._connection, self.positions.route_ids, self._seq)
        self.seen.load(self._connection)
        self.ages.load(self._connection)
        self.holds.load(self._connection)
        self.chores += [expiry.Timekeeping(self), expiry.Expiry(self, self._policies)]
        if not sql.number(self._connection, "SELECT value FROM meta WHERE name = 'clean'"):
            self._read_all()

    def load(self) -> None:
        """Read again what a transaction changes in memory while it is under way: after a rollback."""
        self._written_seq = self._seq = sql.number(self._connection, "SELECT value FROM meta WHERE name = 'seq'")
        self.ledger.load(self._connection)
        self.positions.load()
        self.checked.load()
        self.dead.load()
        self._attempts = dict(sql.rows(self._connection, "SELECT identity, n FROM attempts ORDER BY id"))
        self.cap.load()
        self._is_stale = False

    def _read_all(self) -> None:
        # SQLite's check looks at pages, not at what is in them. Rows are checked when they are read, see `damaged`.
        if not read_books(self._connection).balanced:
            raise apsw.CorruptError("the books do not balance")

    def reconcile(self, routes: Mapping[str, Sequence[str]], sinks: Collection[str]) -> list[tuple[str, str, int]]:
        """Take over the routes and sinks of the config; (route, sink, results given up)."""
        return self.positions.reconcile(routes, sinks, self._seq, self.ledger)

    def begin(self) -> None:
        """Start a transaction."""
        if self._is_stale:
            self.rollback()
        self._connection.execute("BEGIN IMMEDIATE")
        self._n_changes = self._connection.total_changes()
        self.cap.begin()

    def flush(self) -> None:
        """Write what was buffered; the transaction is then ready to commit."""
        self._insert_rows()
        self.seen.flush(self._connection)
        self.ledger.flush(self._connection)
        self.ages.flush(self._connection, self._written_seq, self._seq)
        if self._seq != self._written_seq:
            self._connection.execute("UPDATE meta SET value = ? WHERE name = 'seq'", (self._seq,))
        if not self._is_marked and self._connection.total_changes() != self._n_changes:
            # With the first change of this life and not before, so that a full disk does not keep us from starting.
            self._connection.execute("UPDATE meta SET value = 0 WHERE name = 'clean'")

    def _insert_rows(self) -> None:
        sql.insert(self._connection, "results", self._results)
        sql.insert(self._connection, "journal", self._journal)
        self._results, self._journal = [], []

    def commit(self) -> None:
        """Put the transaction on disk."""
        self._connection.execute("COMMIT")

    def committed(self) -> frozenset[str]:
        """The transaction is on disk: remember it. The routes that have new results."""
        self._written_seq = self._seq
        self._is_marked |= self._connection.total_changes() != self._n_changes
        self.seen.commit()
        self.ages.commit()
        for keys in self._keys.values():
            if keys.staged:
                keys.commit()
        grown, self.grown = frozenset(self.grown), set()
        return grown

    def rollback(self) -> None:
        """Undo the transaction under way, on disk and in memory.

        When the disk does not even allow to read what is on it, the next `begin` tries again.
        """
        self._is_stale = True
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        self._results, self._journal = [], []
        self.grown.clear()
        self.seen.rollback()
        self.ages.rollback()
        for keys in self._keys.values():
            keys.rollback()
        self.load()

    def apply(self, work: Work) -> list[int]:
        """One `Work`; the ids of its journal rows. Raises SpoolFull before anything is changed."""
        route, ledger = work.route, self.ledger
        route_id = self.positions.route_id(route)
        sinks = self.positions.sinks(route)
        if work.done:
            need = work_bytes(work)
            if self.cap.blocks(route) and not self.cap.may_answer(need, work.done):
                raise SpoolFull(f"route {route}: spool.max_bytes leaves no room for {need} bytes of answers")
            self._remove_done(route, work.done)  # first, for it makes room
        room = self.room_for(work, route)
        journal_ids = self._add_journal(route, route_id, work.journal, room)
        if sinks and work.results:
            self._add_results(route, route_id, work.results, room)
        for line, n in (("received", work.received), ("handled", work.handled)):
            ledger.message(route, line, n)
        for reason, n in work.dropped.items():
            ledger.message(route, "dropped", n, reason)
        for letter in work.dead:
            ledger.message(route, "dead", 1, letter.reason)
        self._bury(work.dead)
        if work.seen:
            self.seen.stage(work.seen)
            self._forget_attempts(work.seen)
        return journal_ids

    def count_attempts(self, route: str, ids: Sequence[int]) -> None:
        """An attempt at handling these journal rows is about to be made."""
        own = self.positions.own(route, ids)
        for _ in sql.by_ids(self._connection, "UPDATE journal SET attempts = attempts + 1 WHERE id IN", own):
            pass

    def attempt(self, identity: bytes) -> int:
        """An attempt at a redelivered message is about to be made; how many that makes."""
        n = self._attempts.get(identity, 0) + 1
        if n > 1:
            self._connection.execute("UPDATE attempts SET n = ? WHERE identity = ?", (n, identity))
        else:
            self._connection.execute("INSERT INTO attempts (identity, n) VALUES (?, 1)", (identity,))
        self._attempts[identity] = n
        if len(self._attempts) > self._max_attempts_kept:
            self._forget_attempts([next(iter(self._attempts))])
        return n

    def first_attempts(self, identities: Sequence[bytes]) -> list[bool]:
        """Attempts at redelivered messages are about to be made together: which of them were never tried."""
        had_none = [identity not in self._attempts for identity in identities]
        for identity, is_first in zip(identities, had_none, strict=True):
            if is_first and identity not in self._attempts:  # twice in a batch is once
                self.attempt(identity)
        return had_none

    def read_books(self) -> Books:
        """Both books, counted from the rows."""
        return read_books(self._connection)

    def next_rows(self, route: str, n: int) -> range:
        """The ids of `n` new rows of the route. Raises FatalError when there are no more numbers."""
        if self._seq + n > SEQ_MASK:
            raise FatalError("the spool has numbered all the rows it can: move it aside and start a fresh one")
        first = route_range(self.positions.route_id(route))[0] | (self._seq + 1)
        self._seq += n
        return range(first, first + n)

    def room_for(self, work: Work, route: str) -> int:
        """How much of the work's new rows there is room for, after the cap has made some. Raises SpoolFull."""
        need = work_bytes(work)
        if not need:
            return 0
        if self.cap.blocks(route):
            if not work.done and self.cap.room_bytes() - self.cap.group_bytes < need:  # that is left for answers
                raise SpoolFull(f"route {route}: spool.max_bytes leaves no room for {need} bytes")
        elif self.cap.room_bytes() < need:
            self._insert_rows()
            # What does not fit even in an emptied spool is taken and evicted at once, see `n_too_many`.
            need = min(need, self.cap.make_room(need, route))
        self.cap.add(max(0, need))
        return need

    def _remove_done(self, route: str, done: Sequence[int]) -> None:
        ids = list(dict.fromkeys(done))
        n_gone = len(done)
        for _ in sql.by_ids(self._connection, "DELETE FROM journal WHERE id IN", ids):
            n_gone -= self._connection.changes()
        for line, reason in _GONE:
            # It left while it was being handled, and now it is answered after all: it counts as that.
            n = min(n_gone, self.ledger.get("messages", route, "", line, reason))
            self.ledger.message(route, line, -n, reason)
            n_gone -= n
        if n_gone:
            raise FatalError(f"route {route}: {n_gone} journal entries are done that were never there")

    def _add_journal(self, route: str, route_id: int, messages: Sequence[RawMessage], room: int) -> list[int]:
        base = route_range(route_id)[0]
        n_evicted = n_too_many([len(raw.payload) for raw in messages], room) if messages else 0
        ids = []
        for index, raw in enumerate(messages):
            row = base | self._next_seq()
            ids.append(row)
            if index >= n_evicted:
                props = encode_props(raw)
                self._journal.extend((row, raw.payload, props, 0, journal_sum(row, raw.payload, props)))
        if n_evicted:
            self.ledger.message(route, "evicted", n_evicted, REASON)
            self._report_evicted(route, "", n_evicted)
        return ids

    def _add_results(self, route: str, route_id: int, results: Sequence[NewResult], room: int) -> None:
        new = self._recent_keys(route, route_id).stage_new(results)
        n_lost = n_too_many([len(result.data) for result in new], room)
        kept = new[n_lost:]
        self._results += result_columns(kept, self.next_rows(route, len(kept)).start)
        self._count_produced(route, len(new), n_lost)
        if len(new) < len(results):
            self._emit("duplicates", {"route": route, "n": len(results) - len(new)})

    def _count_produced(self, route: str, n_new: int, n_lost: int) -> None:
        for sink in self.positions.sinks(route):
            self.ledger.result(route, sink, "produced", n_new)
            if n_lost:
                self.evict_results(route, sink, n_lost, REASON)
        if n_new > n_lost:
            self.grown.add(route)

    def _recent_keys(self, route: str, route_id: int) -> RecentKeys:
        keys = self._keys.get(route)
        if keys is None:
            keys = self._keys[route] = RecentKeys(max(1, self._half_keys))
            keys.load(self._connection, route_id)
        return keys

    def _next_seq(self) -> int:
        self._seq += 1
        return self._seq

    def _forget_attempts(self, identities: Sequence[bytes]) -> None:
        if not self._attempts:
            return
        for identity in identities:
            if self._attempts.pop(identity, None) is not None:
                self._connection.execute("DELETE FROM attempts WHERE identity = ?", (identity,))

    def _bury(self, letters: Sequence[DeadLetter]) -> None:
        n_purged = self.dead.bury(letters)
        if n_purged:
            self._emit("dead_purged", {"n": n_purged})

    def evict_results(self, route: str, sink: str, n: int, reason: str) -> None:
        """Results that the sink has not had are given up: counted, and told."""
        self.ledger.result(route, sink, "evicted", n, reason)
        self._report_evicted(route, sink, n, reason)

    def _report_evicted(self, route: str, sink: str, n: int, reason: str = REASON) -> None:
        self._emit("evicted", {"route": route, "sink": sink, "reason": reason, "n": n})
