"""The books' counters: in memory as on disk, written in the transaction of the change they count.

A counter is (book, route, sink, line, reason). Reasons come from handlers and sinks, so their number is bounded: beyond
it they are counted under "other", for nothing here may grow without bound.
"""

import apsw

from gatewayd.spool.sums import check_fields, fields_sum

Counter = tuple[str, str, str, str, str]

MAX_REASONS = 64  # of one line
_UPSERT = (
    "INSERT INTO counters VALUES (?,?,?,?,?,?,?) "
    "ON CONFLICT (book, route, sink, line, reason) DO UPDATE SET n = excluded.n, sum = excluded.sum"
)


class Ledger:
    """What was counted since the spool was made."""

    def __init__(self) -> None:
        self._n: dict[Counter, int] = {}
        self._n_reasons: dict[tuple[str, str, str, str], int] = {}
        self._changed: set[Counter] = set()

    def load(self, connection: apsw.Connection) -> None:
        """Forget what is in memory and read what is on disk."""
        self._changed.clear()
        self._n_reasons.clear()
        self._n.clear()
        for *counter, n, checksum in connection.execute("SELECT * FROM counters"):
            check_fields(checksum, *counter, n)
            book, route, sink, line, reason = counter
            self._n[book, route, sink, line, reason] = n
            self._n_reasons[book, route, sink, line] = self._n_reasons.get((book, route, sink, line), 0) + 1

    def message(self, route: str, line: str, n: int, reason: str = "") -> None:
        """Count `n` messages of `route` under `line`."""
        self._add(("messages", route, "", line, reason), n)

    def result(self, route: str, sink: str, line: str, n: int, reason: str = "") -> None:
        """Count `n` results of `route` for `sink` under `line`."""
        self._add(("results", route, sink, line, reason), n)

    def purged(self, n: int) -> None:
        """Count `n` dead letters that are no longer kept."""
        self._add(("dead", "", "", "purged", ""), n)

    def get(self, book: str, route: str, sink: str, line: str, reason: str = "") -> int:
        """The count so far."""
        return self._n.get((book, route, sink, line, reason), 0)

    def line(self, book: str, route: str, sink: str, line: str) -> int:
        """The count so far, over all reasons."""
        return sum(n for counter, n in list(self._n.items()) if counter[:4] == (book, route, sink, line))

    def counters(self) -> dict[Counter, int]:
        """All of them, with their counts so far."""
        return dict(self._n)

    def flush(self, connection: apsw.Connection) -> None:
        """Write what changed."""
        if self._changed:
            rows = [(*counter, self._n[counter]) for counter in self._changed]
            connection.executemany(_UPSERT, [(*row, fields_sum(*row)) for row in rows])
            self._changed.clear()

    def _add(self, counter: Counter, n: int) -> None:
        if n == 0:
            return
        known = self._n.get(counter)
        if known is None:
            known, counter = self._new(counter)
        self._n[counter] = known + n
        self._changed.add(counter)

    def _new(self, counter: Counter) -> tuple[int, Counter]:
        book, route, sink, line, _ = counter
        n_reasons = self._n_reasons.get((book, route, sink, line), 0)
        if n_reasons >= MAX_REASONS:
            other = (book, route, sink, line, "other")
            return self._n.get(other, 0), other
        self._n_reasons[book, route, sink, line] = n_reasons + 1
        return 0, counter
