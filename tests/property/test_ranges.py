"""Ranges of ids against sets of ids."""

import itertools
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from gatewayd.spool.ranges import Range, common, gaps, united

IDS = st.integers(0, 40)
RANGES = st.lists(st.tuples(IDS, IDS).map(lambda pair: (min(pair), max(pair) + 1)), max_size=8).map(united)


def ids(ranges: Iterable[Range]) -> set[int]:
    return {row for first, last in ranges for row in range(first + 1, last + 1)}


def is_tidy(ranges: list[Range]) -> bool:
    return all(first < last for first, last in ranges) and all(
        one[1] < two[0] for one, two in itertools.pairwise(ranges)
    )


@given(st.lists(st.tuples(IDS, IDS).map(lambda pair: (min(pair), max(pair) + 1)), max_size=8))
def test_united_holds_the_same_ids_in_ranges_that_do_not_touch(ranges: list[Range]) -> None:
    joined = united(ranges)

    assert ids(joined) == ids(ranges)
    assert is_tidy(joined)


@given(RANGES, RANGES)
def test_what_two_have_in_common_is_the_intersection_of_their_ids(one: list[Range], two: list[Range]) -> None:
    both = common(one, two)

    assert ids(both) == ids(one) & ids(two)
    assert all(first < last for first, last in both)


@given(IDS, RANGES, IDS, IDS)
def test_gaps_are_what_neither_position_nor_ranges_hold(pos: int, ranges: list[Range], after: int, upto: int) -> None:
    beyond = [(first, last) for first, last in ranges if first > pos]

    found = list(gaps(pos, beyond, after=after, upto=upto))

    assert ids(found) == ids([(max(after, pos), upto)]) - ids(beyond)
    assert is_tidy(found)
