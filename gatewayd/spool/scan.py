"""Reading tables of a damaged database: what cannot be read is skipped, what lies behind it is found again."""

from collections.abc import Iterator
from typing import Any

import apsw

_MAX_GAPS = 4096  # of one database: a start must come to an end
_END = 1 << 62


class Scan:
    """Reads; never raises for what is damaged."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self.n_gaps = 0

    def all(self, query: str) -> Iterator[tuple[Any, ...]]:
        """The rows of a query up to the first that cannot be read."""
        try:
            yield from self._connection.execute(query)
        except (apsw.Error, UnicodeDecodeError):
            self.n_gaps += 1

    def by_id(self, table: str, columns: str, *, begin: int = 0) -> Iterator[tuple[Any, ...]]:
        """The rows of a table in order of `id`, which is the first of `columns`, with gaps where it is damaged."""
        query = f"SELECT {columns} FROM {table} WHERE id >= ? ORDER BY id"  # noqa: S608
        while begin < _END and self.n_gaps < _MAX_GAPS:
            try:
                for row in self._connection.execute(query, (begin,)):
                    if row[0] >= begin:
                        begin = row[0] + 1
                        yield row
                return
            except (apsw.Error, UnicodeDecodeError):
                self.n_gaps += 1
                begin = self._behind(f"{query} LIMIT 1", begin)

    def _behind(self, query: str, bad: int) -> int:
        """The first id from which on something, or nothing, can be read: gallop, then halve."""
        step = 1
        while bad + step < _END and not self._reads(query, bad + step):
            step *= 2
        low, high = bad + step // 2, min(_END, bad + step)
        while high - low > 1:
            middle = (low + high) // 2
            if self._reads(query, middle):
                high = middle
            else:
                low = middle
        return high

    def _reads(self, query: str, begin: int) -> bool:
        try:
            self._connection.execute(query, (begin,)).fetchall()
        except (apsw.Error, UnicodeDecodeError):
            return False
        return True
