"""Dead letters, put aside for a person. Bounded in number and bytes: the oldest are purged, and stay counted."""

from collections.abc import Sequence
from dataclasses import dataclass

import apsw
import msgspec

from gatewayd.errors import FatalError
from gatewayd.ports import DeadLetter
from gatewayd.spool.ledger import Ledger
from gatewayd.spool.sql import number, rows
from gatewayd.spool.sums import letter_sum

_Props = tuple[str, tuple[tuple[str, str], ...]]

COLUMNS = "id, route, sink, reason, detail, topic, payload, props, time, key"
BYTES = "length(payload) + length(detail) + length(topic) + length(props)"
OVERHEAD_BYTES = 256  # of one letter: the other columns and SQLite's own

_encode = msgspec.msgpack.Encoder().encode
_decode_props = msgspec.msgpack.Decoder(_Props).decode
_INSERT = f"INSERT INTO dead ({COLUMNS}, sum) VALUES (?,?,?,?,?,?,?,?,?,?,?)"  # noqa: S608
_LAST = "dead_last"  # name in `state`: the highest id that was given out, once its letter is gone
# Whose letter it is: the sink's that refused a result, or the route's that buried a message.
_OWNER = "sink, CASE WHEN sink = '' THEN route ELSE '' END"
_OLDEST = "SELECT id FROM dead WHERE id > ? AND sink = ? AND (sink <> '' OR route = ?) ORDER BY id LIMIT 1"

_Owner = tuple[str, str]  # (sink, "") or ("", route)


@dataclass(slots=True)
class _Share:
    n: int
    n_bytes: int
    before: int  # all of the owner's letters have higher ids


class DeadLetters:
    """The table `dead`, and how much is in it.

    When there are too many, whoever has most loses the oldest: the flood of one sink pushes out nobody else's letters.
    An id is never given out twice, so that what a person has seen is what a command then finds.
    """

    def __init__(self, connection: apsw.Connection, ledger: Ledger, *, max_letters: int, max_bytes: int) -> None:
        self._connection = connection
        self._ledger = ledger
        self._max_letters = max_letters
        self._max_bytes = max_bytes
        self._shares: dict[_Owner, _Share] = {}
        self._last = 0

    def load(self) -> None:
        """Forget what is in memory and read what is on disk."""
        query = f"SELECT {_OWNER}, count(*), sum({BYTES}), min(id) FROM dead GROUP BY 1, 2"  # noqa: S608
        self._shares = {
            (sink, route): _Share(n, n_bytes + n * OVERHEAD_BYTES, first - 1)
            for sink, route, n, n_bytes, first in rows(self._connection, query)
        }
        highest = number(self._connection, "SELECT max(id) FROM dead")
        self._last = max(highest, number(self._connection, "SELECT value FROM state WHERE name = ?", (_LAST,)))

    def bury(self, letters: Sequence[DeadLetter]) -> int:
        """Keep these letters; how many older ones had to go."""
        for letter in letters:
            props = _encode((letter.content_type, letter.properties))
            head = (letter.route, letter.sink, letter.reason, letter.detail, letter.topic)
            row = (*head, letter.payload, props, letter.time, letter.key)
            self._last += 1
            self._connection.execute(_INSERT, (self._last, *row, letter_sum(row)))
            share = self._share((letter.sink, "" if letter.sink else letter.route))
            share.n += 1
            # As BYTES counts them: characters of text, bytes of blobs.
            share.n_bytes += OVERHEAD_BYTES + len(letter.payload) + len(letter.detail) + len(letter.topic) + len(props)
        return self._purge() if letters else 0

    def purge(self, ids: Sequence[int]) -> int:
        """These letters are no longer kept, and counted as such; how many there were."""
        n = self.take(ids)
        self._ledger.purged(n)
        return n

    def take(self, ids: Sequence[int]) -> int:
        """These letters leave, and whoever takes them counts what becomes of them; how many there were."""
        n = 0
        for letter in ids:
            query = f"DELETE FROM dead WHERE id = ? RETURNING {_OWNER}, {BYTES}"  # noqa: S608
            for sink, route, n_bytes in rows(self._connection, query, (letter,)):
                share = self._share((sink, route))
                share.n -= 1
                share.n_bytes -= OVERHEAD_BYTES + n_bytes
                n += 1
            if letter == self._last:
                self._connection.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (_LAST, letter))
        return n

    def _share(self, owner: _Owner) -> _Share:
        return self._shares.setdefault(owner, _Share(0, 0, 0))

    def _purge(self) -> int:
        n_purged = 0
        while (owner := self._too_much()) is not None:
            share = self._shares[owner]
            oldest = number(self._connection, _OLDEST, (share.before, *owner))
            if not self.take([oldest]):
                raise FatalError("there are fewer dead letters in the spool than were counted")
            n_purged += 1
            share.before = oldest
        self._ledger.purged(n_purged)
        return n_purged

    def _too_much(self) -> _Owner | None:
        """Who has to lose a letter; None when all may stay."""
        shares = self._shares
        if sum(share.n for share in shares.values()) > self._max_letters:
            return max(shares, key=lambda owner: shares[owner].n)
        holders = [owner for owner, share in shares.items() if share.n]
        if holders and sum(share.n_bytes for share in shares.values()) > self._max_bytes:
            return max(holders, key=lambda owner: shares[owner].n_bytes)
        return None


def read_letter(row: Sequence[object]) -> DeadLetter:
    """A row of `COLUMNS` as a value."""
    _, route, sink, reason, detail, topic, payload, props, time, key = row
    content_type, properties = _decode_props(props)  # type: ignore[arg-type]
    fields = {"route": route, "sink": sink, "reason": reason, "detail": detail, "topic": topic, "payload": payload}
    letter = {**fields, "time": time, "key": key, "content_type": content_type, "properties": properties}
    return msgspec.convert(letter, DeadLetter)
