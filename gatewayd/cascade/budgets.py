"""What tiers outside of this box cost on a day, and what they may: calls, tokens, bytes and money. No I/O of its own.

Invariants:
- A limit is overrun by one request at most. Before a request what it is expected to take is reserved, and on disk
  before the request is made; afterwards it is settled with what it took. Several are under way at once only while all
  of them together cannot reach a limit, if each takes the most that it can take by itself, and twice as much as any
  request has taken so far (a server may add a long prompt of its own); the first request goes alone.
- What was spent counts until its day is over, whatever the clock does meanwhile, and over restarts; a request that a
  crash cut short counts with what was reserved for it.

Days are UTC. As for sinks' months (gatewayd.quota): what is spent while the clock is known not to be synchronized is
booked without a day, counts in the day that is, and gets its day when the clock is synchronized; the day does not turn
meanwhile. A synchronized clock that is set back finds the days after its own counted in its day.
"""

import asyncio
import math
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, Protocol

import msgspec
import structlog

from gatewayd.config.tiers import RemoteTier
from gatewayd.ports import Clock
from gatewayd.quota import UNDATED, day_of

log = structlog.get_logger(__name__)

NANOS = 1_000_000_000  # money is counted in billionths of the config's unit: whole numbers add up exactly


class Spending(msgspec.Struct, frozen=True, kw_only=True):
    """An amount of each kind."""

    n_calls: int = 0  # questions that the far side took
    n_tokens: int = 0  # prompt and answer
    n_bytes: int = 0  # on the wire, both ways, failed requests too
    n_nanos: int = 0  # money

    def __add__(self, other: "Spending") -> "Spending":
        return _each(lambda a, b: a + b, self, other)

    def __sub__(self, other: "Spending") -> "Spending":
        return _each(lambda a, b: a - b, self, other)

    @property
    def cost(self) -> float:
        """Money, in the config's unit."""
        return self.n_nanos / NANOS


NOTHING = Spending()


def nanos(cost: float) -> int:
    """Money in billionths of its unit."""
    return math.floor(cost * NANOS + 0.5)


def _each(combine: Any, one: Spending, other: Spending) -> Spending:
    names = Spending.__struct_fields__
    return Spending(**{name: combine(getattr(one, name), getattr(other, name)) for name in names})


class Limits(Spending, frozen=True, kw_only=True):
    """Most of each kind on a day; 0: no limit."""

    @classmethod
    def of(cls, config: RemoteTier) -> "Limits":
        """As `[tiers.<name>]` says."""
        return cls(
            n_calls=config.max_calls_per_day,
            n_tokens=config.max_tokens_per_day,
            n_bytes=config.max_bytes_per_day,
            n_nanos=nanos(config.max_cost_per_day),
        )

    @property
    def is_set(self) -> bool:
        """Whether there is any."""
        return self != Limits()

    def allow(self, spent: Spending) -> bool:
        """Whether so much is within all of them."""
        names = Spending.__struct_fields__
        return all(not getattr(self, name) or getattr(spent, name) <= getattr(self, name) for name in names)


class Prices(msgspec.Struct, frozen=True, kw_only=True):
    """What a tier asks for."""

    per_call: float = 0.0
    per_1k_tokens_in: float = 0.0
    per_1k_tokens_out: float = 0.0

    @classmethod
    def of(cls, config: RemoteTier) -> "Prices":
        """As `[tiers.<name>]` says."""
        return cls(
            per_call=config.cost_per_call,
            per_1k_tokens_in=config.cost_per_1k_tokens_in,
            per_1k_tokens_out=config.cost_per_1k_tokens_out,
        )

    def nanos(self, *, n_calls: int, tokens_in: int, tokens_out: int) -> int:
        """The price in billionths, rounded to the next one."""
        tokens = tokens_in * self.per_1k_tokens_in + tokens_out * self.per_1k_tokens_out
        return nanos(n_calls * self.per_call + tokens / 1000.0)


class Book(Protocol):
    """Where spending is kept, by tier and day."""

    def add(self, tier: str, day: str, amount: Spending) -> None:
        """So much more on that day; less, where a kind is negative."""

    def newest(self, tier: str) -> str:
        """The last day on which anything was booked; UNDATED when there is none."""

    def total(self, tier: str, *, since: str) -> Spending:
        """Of that day, of later ones, and of what has no day."""

    def date(self, tier: str, day: str) -> None:
        """What is booked without a day belongs to this one."""

    async def keep(self) -> None:
        """Return when all that was added before is durable."""


class Tally:
    """A Book in memory alone: for who counts and keeps nothing."""

    def __init__(self) -> None:
        self._days: dict[str, dict[str, Spending]] = {}

    def add(self, tier: str, day: str, amount: Spending) -> None:
        """See Book."""
        days = self._days.setdefault(tier, {})
        days[day] = days.get(day, NOTHING) + amount

    def days(self, tier: str) -> Mapping[str, Spending]:
        """By day."""
        return dict(self._days.get(tier, {}))

    def newest(self, tier: str) -> str:
        """See Book."""
        return max(self._days.get(tier, {}), default=UNDATED)

    def total(self, tier: str, *, since: str) -> Spending:
        """See Book."""
        days = self._days.get(tier, {}).items()
        return sum((amount for day, amount in days if day >= since or day == UNDATED), NOTHING)

    def date(self, tier: str, day: str) -> None:
        """See Book."""
        amount = self._days.get(tier, {}).pop(UNDATED, NOTHING)
        if amount != NOTHING:
            self.add(tier, day, amount)

    async def keep(self) -> None:
        """See Book; there is nothing to wait for."""


class Reserved:
    """What one request may take. Settled once, with `Budget.settle`."""

    __slots__ = ("day", "expected", "most")

    def __init__(self, day: str, expected: Spending, most: Spending) -> None:
        self.day = day
        self.expected = expected
        self.most = most


class Budget:
    """One tier's. Used by the tasks of one event loop; `spent` and `allows` may be read from other threads."""

    def __init__(self, tier: str, *, limits: Limits, prices: Prices, book: Book, clock: Clock) -> None:
        self.limits = limits
        self.prices = prices
        self._tier = tier
        self._book = book
        self._clock = clock
        self._under_way: list[Reserved] = []
        self._settled = asyncio.Event()
        self._largest = NOTHING  # that a request took, of each kind
        self._is_spent = False

    @classmethod
    def of(cls, tier: str, config: RemoteTier, *, book: Book, clock: Clock) -> "Budget":
        """As `[tiers.<name>]` says."""
        return cls(tier, limits=Limits.of(config), prices=Prices.of(config), book=book, clock=clock)

    def spent(self) -> Spending:
        """On the day that is, what is reserved for requests under way included."""
        is_dated, today = self._today()
        return self._book.total(self._tier, since=today if is_dated else self._book.newest(self._tier))

    def allows(self, expected: Spending) -> bool:
        """Whether the day has room for so much."""
        return not self.limits.is_set or self.limits.allow(self.spent() + expected)

    async def reserve(self, expected: Spending, *, most: Spending) -> Reserved | None:
        """Set so much aside, durably; None when the day has no room for it.

        Waits for requests under way while they may use up what is left. `most`: what the request cannot exceed, as far
        as the one who makes it knows.
        """
        while self._under_way and not self._has_room_for_all(most):
            self._settled.clear()
            await self._settled.wait()
        most = _each(max, most, self._largest + self._largest)
        if not self.allows(expected):
            self._tell(is_spent=True)
            return None
        self._tell(is_spent=False)
        is_dated, today = self._today()
        reserved = Reserved(today if is_dated else UNDATED, expected, most)
        self._book.add(self._tier, reserved.day, expected)
        self._under_way.append(reserved)
        if self.limits.is_set:
            try:
                await self._book.keep()
            except BaseException:
                self.settle(reserved, NOTHING)
                raise
        return reserved

    def settle(self, reserved: Reserved, took: Spending) -> None:
        """The request is over. Synchronous: fit for a `finally`."""
        self._under_way = [other for other in self._under_way if other is not reserved]
        self._book.add(self._tier, reserved.day, took - reserved.expected)
        self._largest = _each(max, self._largest, took)
        self._settled.set()

    def rest_s(self) -> float:
        """Seconds until the day is over, at most a day; while the clock is not synchronized a minute, to ask again."""
        is_dated, today = self._today()
        if not is_dated:
            return 60.0
        return min(max(_end_of(today) - self._clock.now(), 1.0), 86_400.0)

    def _has_room_for_all(self, most: Spending) -> bool:
        if not self.limits.is_set:
            return True
        if self._largest == NOTHING:
            return False
        most = _each(max, most, self._largest + self._largest)
        beyond = sum((each.most - each.expected for each in self._under_way), NOTHING)
        return self.limits.allow(self.spent() + beyond + most)

    def _today(self) -> tuple[bool, str]:
        is_dated, today = self._clock.is_synced() is not False, day_of(self._clock.now())
        if is_dated:
            self._book.date(self._tier, today)
            for reserved in self._under_way:
                reserved.day = reserved.day or today
        return is_dated, today

    def _tell(self, *, is_spent: bool) -> None:
        if is_spent and not self._is_spent:
            log.warning(
                "tier's budget of the day is spent",
                tier=self._tier,
                **msgspec.to_builtins(self.spent()),
                hint=f"raise tiers.{self._tier}.max_*_per_day; `when_spent` says what routes do meanwhile",
            )
        self._is_spent = is_spent


def _end_of(day: str) -> float:
    try:
        after = date.fromisoformat(day) + timedelta(days=1)
    except OverflowError:  # the last day there is
        return math.inf
    return datetime(after.year, after.month, after.day, tzinfo=UTC).timestamp()
