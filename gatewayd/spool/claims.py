"""Leases: which sink has claimed what. In memory alone, for a claim must not outlive the process.

Invariants: one lease at a time for each sink, route and share of it, always the oldest results; a lease that lapsed is
void as soon as the same results are offered again. Nobody is forgotten: the flag is cleared before the rows are read,
so that a commit after the reading sets it again.
"""

import asyncio
import secrets

from gatewayd.errors import FatalError
from gatewayd.ports import Clock, Lease, Share


class Claim:
    """One sink's claim on one share of a route."""

    __slots__ = ("_changed", "_clock", "_due_s", "_lapse_s", "attempt", "lease", "lock")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed = asyncio.Event()
        self._changed.set()
        self._due_s = float("-inf")
        self._lapse_s = 0.0
        self.attempt = 1
        self.lease: Lease | None = None
        self.lock = asyncio.Lock()

    def wait_s(self) -> float:
        """How long until something may be leased: 0 for now, infinite until results come."""
        now_s = self._clock.monotonic()
        if self.lease is not None:
            return max(0.0, self._lapse_s - now_s)
        if now_s < self._due_s:
            return self._due_s - now_s
        return 0.0 if self._changed.is_set() else float("inf")

    async def wait(self, seconds: float) -> None:
        """Return after `seconds`, or earlier when something has changed."""
        self._changed.clear()
        if seconds == float("inf"):
            await self._changed.wait()
            return
        async with asyncio.TaskGroup() as tasks:
            alarm = tasks.create_task(self._alarm(seconds), name="spool-lease-alarm")
            await self._changed.wait()
            alarm.cancel()

    def about_to_read(self) -> None:
        """The rows are read now; what is committed later wakes who waits."""
        self._changed.clear()
        if self.lease is not None:
            self.lease = None  # lapsed, and void from here on
            self.attempt += 1

    @property
    def is_busy(self) -> bool:
        """Whether there is a lease, though it may have lapsed, or is about to be one."""
        return self.lease is not None or self.lock.locked()

    def wake(self) -> None:
        """There may be something to lease."""
        self._changed.set()

    def take(self, lease: Lease, lapse_s: float) -> Lease:
        """The claim is this lease's."""
        self.lease = lease
        self._lapse_s = self._clock.monotonic() + lapse_s
        return lease

    def is_held_by(self, lease: Lease) -> bool:
        """Whether nobody has been offered the lease's results since."""
        return self.lease is not None and self.lease.id == lease.id

    def keep(self) -> None:
        """The lease is being acked: it no longer lapses."""
        self._lapse_s = float("inf")

    def free(self, *, attempt: int, delay_s: float = 0.0) -> None:
        """Nobody holds the claim; due in `delay_s`."""
        self.lease = None
        self.attempt = attempt
        self._due_s = self._clock.monotonic() + delay_s
        self.wake()

    async def _alarm(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self._changed.set()


class Claims:
    """Every claim, made when it is first asked for."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._claims: dict[tuple[str, str, Share], Claim] = {}
        self._next_id = secrets.randbits(40)  # a lease of a spool that was open before is not taken for one of this

    def of(self, sink: str, route: str, share: Share, *, is_known: bool) -> Claim:
        """The claim of a sink. Raises FatalError when the sink gets none of the route's results."""
        claim = self._claims.get((route, sink, share))
        if claim is None:
            if not is_known:
                raise FatalError(f"sink {sink} has no part in route {route}")
            claim = self._claims[route, sink, share] = Claim(self._clock)
        return claim

    def find(self, lease: Lease) -> Claim | None:
        """The claim, when the lease still holds it."""
        claim = self._claims.get((lease.route, lease.sink, lease.share))
        return claim if claim is not None and claim.is_held_by(lease) else None

    def get(self, sink: str, route: str, share: Share) -> Claim | None:
        """The claim, when it was asked for before."""
        return self._claims.get((route, sink, share))

    def next_id(self) -> int:
        """A number for a new lease."""
        self._next_id += 1
        return self._next_id

    def wake(self, route: str) -> None:
        """The route has new results: none of them is in an older share."""
        for (known, _, share), claim in self._claims.items():
            if known == route and share != "older":
                claim.wake()
