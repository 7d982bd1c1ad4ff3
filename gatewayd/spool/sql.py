"""Statements over many rows that cross into SQLite once, not once a row.

Every step of a statement hands the interpreter lock over and waits to get it back; beside a busy event loop that wait
is what costs, not the row. So rows go in 64 at a time.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import apsw

_CHUNKS = (64, 8, 1)


def _inserts(table: str, n_columns: int) -> tuple[tuple[int, str], ...]:
    row = "(" + ",".join("?" * n_columns) + ")"
    return tuple((n_rows, f"INSERT INTO {table} VALUES {','.join([row] * n_rows)}") for n_rows in _CHUNKS)  # noqa: S608


_INSERT = {"results": (8, _inserts("results", 8)), "journal": (5, _inserts("journal", 5))}


def insert(connection: apsw.Connection, table: str, flat: Sequence[Any]) -> None:
    """Insert rows into `results` or `journal`, their columns one row after the other in `flat`."""
    n_columns, statements = _INSERT[table]
    start = 0
    for n_rows, statement in statements:
        width = n_rows * n_columns
        while len(flat) - start >= width:
            connection.execute(statement, flat[start : start + width])
            start += width


def by_ids(connection: apsw.Connection, statement: str, ids: Sequence[int]) -> Iterator[apsw.Cursor]:
    """Run `statement`, which ends in `IN`, for some ids at a time."""
    start = 0
    for n_ids in _CHUNKS:
        text = f"{statement} ({','.join('?' * n_ids)})"
        while len(ids) - start >= n_ids:
            yield connection.execute(text, ids[start : start + n_ids])
            start += n_ids


def number(connection: apsw.Connection, statement: str, bindings: Sequence[Any] = ()) -> int:
    """The one number a query answers; 0 for NULL."""
    return int(connection.execute(statement, bindings).get or 0)


def rows(connection: apsw.Connection, statement: str, bindings: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """All rows of a query, which the caller bounds."""
    return connection.execute(statement, bindings).fetchall()
