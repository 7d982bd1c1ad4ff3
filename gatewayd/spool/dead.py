"""Dead letters, put aside for a person. Bounded in number and bytes: the oldest are purged, and stay counted."""

from collections.abc import Sequence

import apsw
import msgspec

from gatewayd.ports import DeadLetter
from gatewayd.spool.ledger import Ledger
from gatewayd.spool.sql import number
from gatewayd.spool.sums import letter_sum

_Props = tuple[str, tuple[tuple[str, str], ...]]

COLUMNS = "id, route, sink, reason, detail, topic, payload, props, time, key"
BYTES = "length(payload) + length(detail) + length(topic) + length(props)"
OVERHEAD_BYTES = 256  # of one letter: the other columns and SQLite's own

_encode = msgspec.msgpack.Encoder().encode
_decode_props = msgspec.msgpack.Decoder(_Props).decode
_INSERT = f"INSERT INTO dead ({COLUMNS[4:]}, sum) VALUES (?,?,?,?,?,?,?,?,?,?)"  # noqa: S608


class DeadLetters:
    """The table `dead`, and how much is in it."""

    def __init__(self, connection: apsw.Connection, ledger: Ledger, *, max_letters: int, max_bytes: int) -> None:
        self._connection = connection
        self._ledger = ledger
        self._max_letters = max_letters
        self._max_bytes = max_bytes
        self._n = 0
        self._bytes = 0

    def load(self) -> None:
        """Forget what is in memory and read what is on disk."""
        self._n = number(self._connection, "SELECT count(*) FROM dead")
        self._bytes = self._n * OVERHEAD_BYTES + number(self._connection, f"SELECT sum({BYTES}) FROM dead")  # noqa: S608

    def bury(self, letters: Sequence[DeadLetter]) -> int:
        """Keep these letters; how many older ones had to go."""
        for letter in letters:
            props = _encode((letter.content_type, letter.properties))
            head = (letter.route, letter.sink, letter.reason, letter.detail, letter.topic)
            row = (*head, letter.payload, props, letter.time, letter.key)
            self._connection.execute(_INSERT, (*row, letter_sum(row)))
            self._n += 1
            # As BYTES counts them: characters of text, bytes of blobs.
            self._bytes += OVERHEAD_BYTES + len(letter.payload) + len(letter.detail) + len(letter.topic) + len(props)
        return self._purge() if letters else 0

    def _purge(self) -> int:
        n_purged = 0
        while self._n > self._max_letters or (self._n and self._bytes > self._max_bytes):
            statement = f"DELETE FROM dead WHERE id = (SELECT min(id) FROM dead) RETURNING {BYTES}"  # noqa: S608
            self._bytes -= OVERHEAD_BYTES + number(self._connection, statement)
            self._n -= 1
            n_purged += 1
        self._ledger.purged(n_purged)
        return n_purged


def read_letter(row: Sequence[object]) -> DeadLetter:
    """A row of `COLUMNS` as a value."""
    _, route, sink, reason, detail, topic, payload, props, time, key = row
    content_type, properties = _decode_props(props)  # type: ignore[arg-type]
    fields = {"route": route, "sink": sink, "reason": reason, "detail": detail, "topic": topic, "payload": payload}
    letter = {**fields, "time": time, "key": key, "content_type": content_type, "properties": properties}
    return msgspec.convert(letter, DeadLetter)
