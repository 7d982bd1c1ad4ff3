"""What the spool remembers of the past: keys of stored results, identities of received messages. Both bounded.

Invariant: only what is committed is remembered, so work that failed and is tried again is not taken for a duplicate.
"""

from collections import deque
from collections.abc import Iterable, Sequence

import apsw
import msgspec

from gatewayd.ports import NewResult
from gatewayd.spool.migrations import route_range

MAX_KEYS = 65_536  # over all routes

_decode_identities = msgspec.msgpack.Decoder(list[bytes]).decode
_encode = msgspec.msgpack.Encoder().encode


def fingerprints(keys: Iterable[str]) -> list[complex]:
    """106 bits that stand for each key, in the smallest object that holds so many: 32 bytes, where a key takes 96.

    A float keeps the first 53 bits of a hash, and its sign and exponent: of two hashes drawn at random the same float
    comes with a chance of 1 in 2**54.

    Two hashes under a secret of this process (SipHash, PEP 456), so nobody outside can aim at a collision. That a new
    key is taken for one of 65,536 known ones has a chance of 65,536 / 2**106: less than one in 10**14 over ten years at
    20,000 keys a second. Keys of messages whose publisher named them are digests of 128 bits to begin with.
    """
    return [complex(hash(key), hash(key + "~")) for key in keys]


class RecentKeys:
    """The newest keys of one route, `half` to twice `half` of them: two generations, the older dropped whole.

    What is kept of a key is its fingerprint.
    """

    __slots__ = ("_half", "old", "staged", "young")

    def __init__(self, half: int) -> None:
        self._half = half
        self.young: set[complex] = set()
        self.old: set[complex] = set()
        self.staged: set[complex] = set()  # of the transaction under way

    def __contains__(self, key: str) -> bool:
        (mark,) = fingerprints([key])
        return mark in self.young or mark in self.old or mark in self.staged

    def stage(self, keys: Iterable[str]) -> None:
        """These keys are stored with the transaction under way."""
        self.staged.update(fingerprints(keys))

    def stage_new(self, results: Sequence[NewResult]) -> Sequence[NewResult]:
        """Stage the keys that are not known yet; the first result of each of them."""
        marks = fingerprints([result.key for result in results])
        new = set(marks)
        if len(new) == len(marks) and all(map(new.isdisjoint, (self.staged, self.young, self.old))):
            self.staged |= new  # nearly always
            return results
        found = []
        for mark, result in zip(marks, results, strict=True):
            if not (mark in self.staged or mark in self.young or mark in self.old):
                self.staged.add(mark)
                found.append(result)
        return found

    def load(self, connection: apsw.Connection, route_id: int) -> None:
        """Remember the newest rows on disk."""
        rows = connection.execute(
            "SELECT CAST(key AS BLOB) FROM results WHERE id > ? AND id < ? ORDER BY id DESC LIMIT ?",
            (*route_range(route_id), 2 * self._half),
        )
        self.old = set(fingerprints(key.decode(errors="replace") for (key,) in rows))

    def commit(self) -> None:
        """The transaction is on disk."""
        self.young |= self.staged
        self.staged.clear()
        if len(self.young) >= self._half:
            self.old, self.young = self.young, set()

    def rollback(self) -> None:
        """The transaction is not on disk."""
        self.staged.clear()


class Taken:
    """Identities of the newest messages whose results were taken into memory alone."""

    def __init__(self, max_identities: int) -> None:
        self._max = max_identities
        self._identities: dict[bytes, None] = {}  # the oldest first

    def __contains__(self, identity: bytes) -> bool:
        return identity in self._identities

    def add(self, identities: Sequence[bytes]) -> None:
        """These messages have passed the point up to which the route's owner wants them kept."""
        self._identities.update(dict.fromkeys(identities))
        while len(self._identities) > self._max:
            del self._identities[next(iter(self._identities))]


class Seen:
    """Identities of the newest messages: a row of `seen` for each group commit, trimmed as a whole."""

    def __init__(self, max_identities: int) -> None:
        self._max = max_identities
        self._rows: deque[tuple[int, Sequence[bytes]]] = deque()
        self._row_of: dict[bytes, int] = {}  # read by the event loop's thread
        self._n = 0
        self._staged: list[bytes] = []

    def __contains__(self, identity: bytes) -> bool:
        return identity in self._row_of

    def load(self, connection: apsw.Connection) -> None:
        """Remember what is on disk."""
        for row, blob in connection.execute("SELECT id, identities FROM seen ORDER BY id"):
            self._remember(row, _decode_identities(blob))

    def stage(self, identities: Sequence[bytes]) -> None:
        """These messages pass their durable point with the transaction under way."""
        if self._max:
            self._staged += identities

    def flush(self, connection: apsw.Connection) -> None:
        """Write the staged identities as one row, and remove the rows that are too old."""
        if not self._staged:
            return
        connection.execute("INSERT INTO seen VALUES (?, ?)", (self._next_row(), _encode(self._staged)))
        n, oldest_kept = self._n + len(self._staged), 0
        for row, identities in self._rows:
            if n - len(identities) < self._max:
                break
            n -= len(identities)
            oldest_kept = row
        if oldest_kept:
            connection.execute("DELETE FROM seen WHERE id <= ?", (oldest_kept,))

    def commit(self) -> None:
        """The transaction is on disk."""
        if self._staged:
            self._remember(self._next_row(), self._staged)
            self._staged = []

    def rollback(self) -> None:
        """The transaction is not on disk."""
        self._staged = []

    def _next_row(self) -> int:
        return self._rows[-1][0] + 1 if self._rows else 1

    def _remember(self, row: int, identities: Sequence[bytes]) -> None:
        self._rows.append((row, identities))
        self._row_of.update(dict.fromkeys(identities, row))
        self._n += len(identities)
        while self._n - len(self._rows[0][1]) >= self._max:
            oldest, forgotten = self._rows.popleft()
            self._n -= len(forgotten)
            for identity in forgotten:
                if self._row_of.get(identity) == oldest:
                    del self._row_of[identity]
