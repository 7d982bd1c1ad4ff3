"""Who loses when there is no room for all. Pure.

Invariants: a route that says `block` loses nothing; a route that needs room takes it from routes of its own priority or
a lower one alone. Results go before raw messages of the journal, which nobody has answered yet; `evict_lowest_priority`
puts the priority before that.
"""

from collections.abc import Sequence
from typing import NamedTuple

from gatewayd.spool.migrations import SEQ_MASK
from gatewayd.spool.policy import RoutePolicy


class Candidate(NamedTuple):
    """A route that has rows in a table."""

    route: str
    table: str  # "results" or "journal"
    policy: RoutePolicy
    seq: int  # sequence number of what it would lose next
    is_thinnable: bool  # it would be thinned, not evicted


class Needing(NamedTuple):
    """The route that needs room."""

    route: str
    policy: RoutePolicy


class Victim(NamedTuple):
    """The first to lose, and the sequence number up to which it stays the first."""

    candidate: Candidate
    until_seq: int


def may_lose(policy: RoutePolicy, needing: Needing | None) -> bool:
    """Whether rows of a route with this policy may be taken; `needing` is None when the spool itself needs room."""
    if policy.when_full == "block":
        return False
    if needing is None:
        return True
    return needing.policy.when_full != "block" and policy.priority <= needing.policy.priority


def choose(candidates: Sequence[Candidate], needing: Needing | None) -> Victim | None:
    """The first to lose among the candidates, None when nobody may lose."""
    ranked = sorted((_rank(one, needing), one) for one in candidates if may_lose(one.policy, needing))
    if not ranked:
        return None
    rank, victim = ranked[0]
    is_tied = len(ranked) > 1 and ranked[1][0][:-1] == rank[:-1]
    return Victim(victim, ranked[1][1].seq if is_tied else SEQ_MASK)


def _rank(candidate: Candidate, needing: Needing | None) -> tuple[int, ...]:
    is_journal = candidate.table == "journal"
    if needing is None or needing.policy.when_full == "evict_lowest_priority":
        return (candidate.policy.priority, is_journal, candidate.seq)
    thins_itself = candidate.is_thinnable and candidate.route == needing.route and needing.policy.when_full == "thin"
    return (not thins_itself, is_journal, candidate.seq)
