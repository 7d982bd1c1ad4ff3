"""Ranges of row ids, as pairs (first, last]: `first` is outside, `last` is inside. Pure, but for what reads them.

What a sink has had of a route is everything up to its position, and beyond that the ranges: sorted, disjoint, none of
them empty, none touching the one before it or the position. What lies between them are the gaps: what it waits for.
"""

from collections.abc import Iterable, Iterator, Sequence

import apsw

from gatewayd.spool.sql import number
from gatewayd.spool.sums import check_fields

Range = tuple[int, int]

MAX_RANGES = 64  # of one sink and route: with so many nothing new is begun that would make another

_COUNT = "SELECT count(*) FROM results WHERE id > ? AND id <= ?"


def gaps(pos: int, ranges: Sequence[Range], *, after: int, upto: int) -> Iterator[Range]:
    """What is not resolved, within (after, upto]."""
    begin = pos
    for first, last in (*ranges, (upto, upto)):
        left, right = max(begin, after), min(first, upto)
        if left < right:
            yield left, right
        begin = max(begin, last)


def common(one: Iterable[Range], other: Iterable[Range]) -> list[Range]:
    """What lies in both."""
    ours, theirs = list(one), list(other)
    both: list[Range] = []
    i = j = 0
    while i < len(ours) and j < len(theirs):
        first, last = max(ours[i][0], theirs[j][0]), min(ours[i][1], theirs[j][1])
        if first < last:
            both.append((first, last))
        if ours[i][1] < theirs[j][1]:
            i += 1
        else:
            j += 1
    return both


def united(ranges: Iterable[Range]) -> list[Range]:
    """The same ids in as few ranges as they take."""
    joined: list[Range] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return joined


def read_ranges(connection: apsw.Connection) -> dict[tuple[str, int], list[Range]]:
    """The ranges on disk by sink and route id. Raises CorruptError when one is not what was written."""
    found: dict[tuple[str, int], list[Range]] = {}
    rows = connection.execute("SELECT sink, route_id, first, last, sum FROM ranges ORDER BY sink, route_id, first")
    for sink, route_id, first, last, checksum in rows:
        check_fields(checksum, sink, route_id, first, last)
        found.setdefault((sink, route_id), []).append((first, last))
    return found


def count_pending(connection: apsw.Connection, unresolved: Iterable[Range]) -> int:
    """The rows that are in these gaps."""
    return sum(number(connection, _COUNT, gap) for gap in unresolved)
