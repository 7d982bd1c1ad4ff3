"""Shares of a route against a model in lists: two sinks, a boundary that moves, leases that lapse, crashes, evictions.

A crash is a copy of the files as they are on disk (database and WAL, nothing closed), opened by a fresh spool.
"""

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gatewayd.config import schema
from gatewayd.ports import Lease, NewResult, Share, Work
from gatewayd.spool.policy import RoutePolicy
from gatewayd.spool.reader import SpoolReader
from gatewayd.spool.spool import SqliteSpool
from tests.sim.real_spool import FakeClock

pytestmark = pytest.mark.timeout(240)

ROUTES = {"a": ("cloud", "archive"), "b": ("cloud",)}
SHARES: dict[str, tuple[Share, ...]] = {"cloud": ("older", "live"), "archive": ("all",)}
PAIRS = [(route, sink) for route, sinks in ROUTES.items() for sink in sinks]
CLAIMS = [(route, sink, share) for route, sink in PAIRS for share in SHARES[sink]]
LEASE_S = 100.0

Pair = tuple[str, str]
Triple = tuple[str, str, Share]


class SharesMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="shares-machine-"))
        self.n_lives = self.n_keys = 0
        self.clock = FakeClock()
        self.spool = self.open()
        self.pending: dict[Pair, list[str]] = {pair: [] for pair in PAIRS}
        self.older: dict[Pair, set[str]] = {pair: set() for pair in PAIRS}
        self.wanted: dict[Pair, set[str]] = {}
        self.leases: dict[Triple, Lease] = {}
        self.dues: dict[Triple, float] = {}
        self.counted = dict.fromkeys(("delivered", "refused", "evicted"), 0)

    def open(self) -> SqliteSpool:
        config = schema.Spool(max_bytes=4 * 1024 * 1024, lease_s=LEASE_S, ballast_bytes=0)
        policies = {route: RoutePolicy(drain="live_first") for route in ROUTES}
        spool = SqliteSpool.open(self.path, routes=ROUTES, policies=policies, config=config, clock=self.clock)
        spool._store.chores.clear()  # reports of losses come when they please, as further results
        return spool

    @property
    def path(self) -> Path:
        return self.folder / str(self.n_lives) / "spool.db"

    def do(self, awaitable: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(awaitable, 30))

    def in_share(self, claim: Triple) -> list[str]:
        route, sink, share = claim
        older = self.older[route, sink]
        return [key for key in self.pending[route, sink] if share == "all" or (key in older) == (share == "older")]

    def settle(self, pair: Pair) -> None:
        if pair in self.wanted and (*pair, "live") not in self.leases:
            self.older[pair] = self.wanted.pop(pair)

    @rule(route=st.sampled_from(sorted(ROUTES)), n=st.integers(1, 6), size=st.integers(0, 200))
    def append(self, route: str, n: int, size: int) -> None:
        keys = [f"key-{self.n_keys + i}" for i in range(n)]
        self.n_keys += n
        results = [NewResult(key=key, kind="k", subject="t", time=1.0, data=b"x" * size) for key in keys]
        self.do(self.spool.commit(Work(route=route, received=n, handled=n, results=results)))
        for sink in ROUTES[route]:
            self.pending[route, sink] += keys

    @rule(claim=st.sampled_from(CLAIMS), limit=st.integers(1, 6))
    def lease(self, claim: Triple, limit: int) -> None:
        route, sink, share = claim
        lease = self.do(self.spool.try_lease(sink, route, limit=limit, max_bytes=1 << 20, share=share))
        if self.clock.at < self.dues.get(claim, 0.0):
            assert lease is None
            return
        if self.leases.pop(claim, None) is not None:  # it lapsed, and is void now
            del self.dues[claim]
            self.settle((route, sink))
        expected = self.in_share(claim)[:limit]
        assert ([] if lease is None else [result.key for result in lease.results]) == expected
        if lease is not None:
            assert lease.share == share
            self.leases[claim], self.dues[claim] = lease, self.clock.at + LEASE_S

    @rule(claim=st.sampled_from(CLAIMS), refuse=st.booleans())
    def ack(self, claim: Triple, refuse: bool) -> None:
        if (lease := self.leases.pop(claim, None)) is None:
            return
        route, sink, _ = claim
        pair = route, sink
        keys = [result.key for result in lease.results]
        there = [key for key in keys if key in self.pending[pair]]
        refused = {keys[-1]: "no"} if refuse else {}
        self.do(self.spool.ack(lease, refused=refused))
        n_refused = len(set(there) & set(refused))
        self.counted["refused"] += n_refused
        self.counted["delivered"] += len(there) - n_refused
        self.pending[pair] = [key for key in self.pending[pair] if key not in keys]
        del self.dues[claim]
        self.settle(pair)

    @rule(claim=st.sampled_from(CLAIMS), delay=st.sampled_from([0.0, 5.0]))
    def nack(self, claim: Triple, delay: float) -> None:
        if (lease := self.leases.pop(claim, None)) is not None:
            self.do(self.spool.nack(lease, delay_s=delay))
            self.dues[claim] = self.clock.at + delay
            self.settle(claim[:2])

    @rule(pair=st.sampled_from([pair for pair in PAIRS if pair[1] == "cloud"]))
    def divide(self, pair: Pair) -> None:
        self.spool.divide(pair[1], pair[0])
        self.wanted[pair] = set(self.pending[pair])
        self.settle(pair)

    @rule(route=st.sampled_from(sorted(ROUTES)))
    def divide_while_live_results_are_under_way(self, route: str) -> None:
        self.append(route, 2, 10)
        self.lease((route, "cloud", "live"), 3)
        self.divide((route, "cloud"))
        self.lease((route, "cloud", "older"), 50)

    @rule(seconds=st.sampled_from([3.0, LEASE_S + 1.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.at += seconds

    @rule(route=st.sampled_from(sorted(ROUTES)), n=st.integers(1, 8))
    def flood(self, route: str, n: int) -> None:
        for _ in range(n):
            self.append(route, 10, 20_000)
        self.learn_evictions()

    @rule()
    def crash_and_reopen(self) -> None:
        old_folder, old = self.path.parent, self.spool
        self.n_lives += 1
        self.path.parent.mkdir()
        for name in ("spool.db", "spool.db-wal"):
            if (old_folder / name).exists():
                shutil.copy(old_folder / name, self.path.parent / name)
        self.do(old.close())
        self.spool = self.open()
        self.leases.clear()
        self.dues.clear()
        self.wanted.clear()
        self.older = {pair: set(keys) for pair, keys in self.pending.items()}

    def on_disk(self) -> dict[Pair, list[str]]:
        with SpoolReader.open(self.path) as reader:
            return {pair: [result.key for result in reader.pending(pair[1], pair[0])] for pair in PAIRS}

    def learn_evictions(self) -> None:
        """The model does not know sizes on disk: it looks what is left, and checks that order and counts are right."""
        for pair, left in self.on_disk().items():
            there = set(left)
            assert left == [key for key in self.pending[pair] if key in there]
            self.counted["evicted"] += len(self.pending[pair]) - len(left)
            self.pending[pair] = left

    @invariant()
    def what_is_pending_is_what_the_model_says_and_the_books_balance(self) -> None:
        books = self.do(self.spool.books())
        assert books.balanced, books
        for pair in PAIRS:
            if pair[0] in books.results:
                assert books.results[pair[0]][pair[1]]["pending"] == len(self.pending[pair])
        assert self.on_disk() == self.pending
        totals: Any = books.totals()
        assert {line: totals["results"][line] for line in self.counted} == self.counted

    @invariant()
    def no_row_is_kept_that_nobody_waits_for(self) -> None:
        waited_for = {(route, key) for (route, _), keys in self.pending.items() for key in keys}
        with SpoolReader.open(self.path) as reader:
            assert reader.status().results == len(waited_for)

    @invariant()
    def what_is_in_flight_are_the_leases(self) -> None:
        for route in ROUTES:
            held = [lease for (known, _, _), lease in self.leases.items() if known == route]
            spans = sorted((lease.results[0].row, lease.results[-1].row) for lease in held)
            assert self.spool._store.leased.spans(route) == spans

    def teardown(self) -> None:
        try:
            self.clock.at += 1000
            # All that is pending comes, in order within each share, once, and nothing else. Twice around: where a
            # boundary waited for a live lease, that share's results are older ones by the time it is asked for.
            for claim in CLAIMS * 2:
                route, sink, share = claim
                if self.leases.pop(claim, None) is not None and share == "live":
                    self.settle((route, sink))
                came: list[str] = []
                expected: list[str] | None = None
                while lease := self.do(self.spool.try_lease(sink, route, limit=7, max_bytes=1 << 20, share=share)):
                    expected = self.in_share(claim) if expected is None else expected
                    came += [result.key for result in lease.results]
                    self.do(self.spool.ack(lease, refused={}))
                assert came == (expected or [])
                self.pending[route, sink] = [key for key in self.pending[route, sink] if key not in came]
            assert [keys for keys in self.pending.values() if keys] == []
            self.no_row_is_kept_that_nobody_waits_for()
        finally:
            self.do(self.spool.close())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()
            shutil.rmtree(self.folder)


SharesMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestShares = SharesMachine.TestCase
