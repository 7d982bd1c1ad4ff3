"""Who loses when there is no room for all."""

from gatewayd.spool.migrations import SEQ_MASK
from gatewayd.spool.policy import RoutePolicy
from gatewayd.spool.victims import Candidate, Needing, Victim, choose


def policy(when_full: str = "evict_oldest", priority: int = 4) -> RoutePolicy:
    return RoutePolicy(when_full=when_full, priority=priority)


def candidate(
    route: str, seq: int, *, when_full: str = "evict_oldest", priority: int = 4, table: str = "results"
) -> Candidate:
    return Candidate(route, table, policy(when_full, priority), seq, when_full == "thin")


def needing(when_full: str = "evict_oldest", priority: int = 4, route: str = "r") -> Needing:
    return Needing(route, policy(when_full, priority))


def route_of(victim: Victim | None) -> str | None:
    return None if victim is None else victim.candidate.route


def test_the_globally_oldest_loses_up_to_the_next_routes_oldest() -> None:
    victim = choose([candidate("a", 7), candidate("b", 3), candidate("c", 9)], needing())

    assert victim == Victim(candidate("b", 3), 7)


def test_what_is_left_alone_stays_the_first_to_the_end() -> None:
    assert choose([candidate("a", 7)], needing()) == Victim(candidate("a", 7), SEQ_MASK)


def test_results_go_before_messages_that_nobody_has_answered() -> None:
    victim = choose([candidate("a", 1, table="journal"), candidate("b", 9)], needing())

    assert victim == Victim(candidate("b", 9), SEQ_MASK)


def test_nobody_of_a_higher_priority_loses_for_a_lower_one() -> None:
    assert choose([candidate("a", 1, priority=5), candidate("b", 2, priority=9)], needing(priority=4)) is None


def test_among_lower_and_equal_priorities_evict_oldest_looks_at_age_alone() -> None:
    candidates = [candidate("low", 5, priority=0), candidate("equal", 2, priority=4), candidate("high", 1, priority=5)]

    assert route_of(choose(candidates, needing(priority=4))) == "equal"


def test_evict_lowest_priority_takes_the_lowest_first_journal_included() -> None:
    low = [candidate("low", 9, priority=1), candidate("low", 4, priority=1, table="journal")]
    rest = [candidate("equal", 1, priority=4)]
    need = needing("evict_lowest_priority")

    assert choose(low + rest, need) == Victim(low[0], SEQ_MASK)
    assert choose(low[1:] + rest, need) == Victim(low[1], SEQ_MASK)
    assert choose(rest, need) == Victim(rest[0], SEQ_MASK)


def test_within_a_priority_evict_lowest_priority_goes_by_age() -> None:
    victim = choose([candidate("a", 7), candidate("b", 3)], needing("evict_lowest_priority"))

    assert victim == Victim(candidate("b", 3), 7)


def test_a_route_that_thins_begins_with_itself() -> None:
    own = candidate("r", 50, when_full="thin")

    victim = choose([candidate("a", 1), own], needing("thin"))

    assert victim == Victim(own, SEQ_MASK)


def test_a_route_that_has_nothing_more_to_thin_takes_the_oldest() -> None:
    own = candidate("r", 50, when_full="thin")._replace(is_thinnable=False)

    assert route_of(choose([candidate("a", 1), own], needing("thin"))) == "a"


def test_a_route_that_blocks_neither_loses_nor_takes() -> None:
    blocks = candidate("a", 1, when_full="block", priority=0)

    assert choose([blocks], needing(priority=9)) is None
    assert choose([candidate("b", 1, priority=0)], needing("block", priority=9)) is None


def test_when_the_spool_itself_needs_room_the_lowest_priority_goes_first_and_everyone_may() -> None:
    low, high = candidate("low", 9, priority=1, table="journal"), candidate("high", 1, priority=9)

    assert choose([low, high, candidate("b", 0, when_full="block", priority=0)], None) == Victim(low, SEQ_MASK)
    assert choose([high], None) == Victim(high, SEQ_MASK)
