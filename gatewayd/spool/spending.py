"""What each tier outside of this box has cost on which day; see `daily`."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

import apsw

from gatewayd.cascade.budgets import NOTHING, Spending
from gatewayd.errors import FatalError
from gatewayd.spool.daily import Daily

_COLUMNS = ("n_calls", "n_tokens", "n_bytes", "n_nanos")


async def _nobody() -> None:
    raise FatalError("spending is kept before the spool is there")


class SpendingBook:
    """The table `spending`. Implements gatewayd.cascade.budgets.Book."""

    def __init__(self, connection: apsw.Connection) -> None:
        """Read what is on disk."""
        self.daily = Daily(connection, "spending", "tier", _COLUMNS)
        self.commit: Callable[[], Awaitable[None]] = _nobody  # returns when what was counted before is on disk

    def add(self, tier: str, day: str, amount: Spending) -> None:
        """See Book."""
        self.daily.add(tier, day, amount.n_calls, amount.n_tokens, amount.n_bytes, amount.n_nanos)

    def days(self, tier: str) -> Mapping[str, Spending]:
        """By day."""
        return {day: _spending(counts) for day, counts in self.daily.days(tier).items()}

    def newest(self, tier: str) -> str:
        """See Book."""
        return self.daily.newest(tier)

    def total(self, tier: str, *, since: str) -> Spending:
        """See Book."""
        return _spending(self.daily.total(tier, since=since))

    def date(self, tier: str, day: str) -> None:
        """See Book."""
        self.daily.date(tier, day)

    async def keep(self) -> None:
        """See Book. Waits while the disk is full."""
        if not self.daily.is_durable:
            await self.commit()


def _spending(counts: Sequence[int]) -> Spending:
    return Spending(**dict(zip(_COLUMNS, counts, strict=True))) if counts else NOTHING
