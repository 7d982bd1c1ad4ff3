"""Tiers outside of this box as somebody beside the daemon sees them: what their budget of today has left.

Nothing is asked and nothing is changed: the spool is read, as `gatewayd spool` reads it.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from gatewayd.cascade.budgets import NANOS, Book, Budget, Limits, Spending, Tally
from gatewayd.config.schema import Config, Route
from gatewayd.config.tiers import HandlerTier, RemoteTier
from gatewayd.ports import Clock
from gatewayd.spool.reader import SpoolReader
from gatewayd.spool.spending import SpendingBook


@dataclass(frozen=True, slots=True)
class SeenPost:
    """What a decision needs to know of gatewayd.cascade.post.Post."""

    name: str
    is_spent: bool = False
    usual_latency_ms: float = 0.0  # known to the running daemon alone


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """One tier's day."""

    tier: str
    spent: Spending
    limits: Limits
    is_spent: bool  # one more question is not within the limits
    is_known: bool  # there is a spool to read it from

    def in_words(self) -> str:
        """For a person."""
        if not self.limits.is_set:
            return f"{self.tier} today: {self.spent.n_calls} calls, {self.spent.n_bytes} bytes; no limit is set"
        kinds = (
            ("calls", self.spent.n_calls, self.limits.n_calls),
            ("tokens", self.spent.n_tokens, self.limits.n_tokens),
            ("bytes", self.spent.n_bytes, self.limits.n_bytes),
            ("money", self.spent.cost, self.limits.n_nanos / NANOS),
        )
        limited = ", ".join(f"{used:g} of {most:g} {name}" for name, used, most in kinds if most)
        unknown = "" if self.is_known else " (no daemon has run here yet)"
        return f"{self.tier} today: {limited}{'; SPENT' if self.is_spent else ''}{unknown}"


def spent_today(config: Config, route: Route, spool: Path, clock: Clock) -> list[Spent]:
    """Of each tier of the route that is outside of this box. Raises ConfigError when the spool cannot be read."""
    far = {name: tier for name in route.tiers if not isinstance(tier := config.tiers[name], HandlerTier)}
    if not far:
        return []
    if not spool.exists():
        return [_spent(name, tier, Tally(), clock, is_known=False) for name, tier in far.items()]
    with SpoolReader.open(spool) as reader:
        book = SpendingBook(reader.connection)
        return [_spent(name, tier, book, clock, is_known=True) for name, tier in far.items()]


def _spent(name: str, tier: RemoteTier, book: Book, clock: Clock, *, is_known: bool) -> Spent:
    budget = Budget.of(name, tier, book=book, clock=clock)
    one_more = Spending(n_calls=1, n_nanos=budget.prices.nanos(n_calls=1, tokens_in=0, tokens_out=0))
    return Spent(
        tier=name,
        spent=budget.spent(),
        limits=budget.limits,
        is_spent=not budget.allows(one_more),
        is_known=is_known,
    )
