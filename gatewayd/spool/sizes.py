"""About how much rows take on disk, before they are there: what room is made by. Pure."""

from collections.abc import Sequence

from gatewayd.ports import Work

_ROW_BYTES = 192  # of one row beside its blob: key, kind, subject, trace context and SQLite's own
_FILL = 1.3  # pages are never quite full


def work_bytes(work: Work) -> int:
    """About what the new rows of a work take on disk. Dead letters are bounded apart and take no part in the cap's
    room: they must go in whatever happens."""
    blobs = sum([len(result.data) for result in work.results]) + sum([len(raw.payload) for raw in work.journal])
    return rows_bytes(len(work.results) + len(work.journal), blobs)


def rows_bytes(n_rows: int, n_bytes: int) -> int:
    """About what so many rows with so many bytes in their blobs take on disk."""
    return int(_FILL * (n_bytes + _ROW_BYTES * n_rows))


def n_too_many(sizes: Sequence[int], room: int) -> int:
    """How many of the first (oldest) rows have to go for the rest to fit into `room`."""
    total = rows_bytes(len(sizes), sum(sizes))
    n = 0
    while n < len(sizes) and total > room:
        total -= rows_bytes(1, sizes[n])
        n += 1
    return n
