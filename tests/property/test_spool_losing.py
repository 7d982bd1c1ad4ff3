"""At the cap: whatever routes say, whoever needs room and however sinks come and go, only what may be lost is lost.

Each step is one work or one lease, so that what is lost is lost for a known route. What is in the database is read
beside the spool, as any other process may.
"""

import asyncio
import json
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path

import apsw
import pytest
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gatewayd.config import schema
from gatewayd.errors import SpoolFull
from gatewayd.ports import Lease, NewResult, RawMessage, Work
from gatewayd.spool.aggregates import KIND, read_aggregate
from gatewayd.spool.policy import RoutePolicy
from gatewayd.spool.spool import SqliteSpool
from tests.sim.real_spool import MIB, FakeClock

ROUTES = {"a": ("cloud", "archive"), "b": ("cloud",), "c": ("archive",)}
PAIRS = [(route, sink) for route, sinks in ROUTES.items() for sink in sinks]
COMES_AND_GOES = ("a", "archive")
WHEN_FULL = ["evict_oldest", "evict_lowest_priority", "thin", "block"]

policies = st.builds(RoutePolicy, when_full=st.sampled_from(WHEN_FULL), priority=st.integers(0, 3))
routes = st.sampled_from(sorted(ROUTES))


def how_many(kind: str, data: bytes) -> int:
    found = read_aggregate(data) if kind == KIND else None
    return 1 if found is None else found.count


class LosingMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="spool-losing-"))
        self.clock = FakeClock()
        self.max_bytes = 4 * MIB
        self.n_keys = 0
        self.routes = ROUTES
        self.pairs = PAIRS
        self.start: dict[tuple[str, str], int] = defaultdict(int)  # id of the last row before the sink came
        self.n_produced: dict[tuple[str, str], int] = defaultdict(int)
        self.n_delivered: dict[tuple[str, str], int] = defaultdict(int)  # results, aggregates by what is in them
        self.n_lost: dict[tuple[str, str], int] = defaultdict(int)
        self.came: dict[tuple[str, str], list[int]] = defaultdict(list)  # ids of rows, as they came
        self.leases: dict[tuple[str, str], Lease] = {}

    @initialize(a=policies, b=policies, c=policies, fill=st.permutations(["a", "a", "b", "b", "c", "c"]))
    def begin(self, a: RoutePolicy, b: RoutePolicy, c: RoutePolicy, fill: list[str]) -> None:
        self.policies = {"a": a, "b": b, "c": c}
        self.open()
        for route in fill:  # nearly full from the start
            self.commit(route, 300, 1500, False)

    def open(self) -> None:
        config = schema.Spool(max_bytes=self.max_bytes, lease_s=100.0)
        path = self.folder / "spool.db"
        self.spool = SqliteSpool.open(path, routes=self.routes, policies=self.policies, config=config, clock=self.clock)

    def do(self, awaitable):
        return self.loop.run_until_complete(asyncio.wait_for(awaitable, 30))

    def rows(self) -> dict[str, dict[int, int]]:
        """Route -> id of a row -> results in it."""
        found: dict[str, dict[int, int]] = {route: {} for route in ROUTES}
        with apsw.Connection(str(self.folder / "spool.db"), flags=apsw.SQLITE_OPEN_READONLY) as connection:
            names = dict(connection.execute("SELECT id, name FROM routes"))
            for row, kind, data in connection.execute("SELECT id, kind, data FROM results"):
                found[names[row >> 44]][row] = how_many(kind, data)
        return found

    def evicted(self, reason: str = "cap") -> dict[str, int]:
        """Everything of a route that is counted as evicted, messages included."""
        reasons = self.do(self.spool.books()).reasons
        return {
            route: sum(n.get(reason, 0) for place, n in reasons.items() if place.split("/")[1] == route)
            for route in ROUTES
        }

    def pending(self, rows: dict[str, dict[int, int]]) -> dict[tuple[str, str], int]:
        """Results, with those in aggregates, that a sink is still to get; no row is had by halves here."""
        return {
            pair: sum(n for row, n in rows[pair[0]].items() if row > max(self.came[pair], default=self.start[pair]))
            for pair in self.pairs
        }

    @rule(route=routes, n=st.integers(1, 300), size=st.sampled_from([10, 300, 3000]), is_list=st.booleans())
    def append(self, route: str, n: int, size: int, is_list: bool) -> None:
        for _ in range(4):
            self.commit(route, n, size, is_list)

    @rule(route=routes, n=st.integers(1, 60))
    def append_large(self, route: str, n: int) -> None:
        self.commit(route, n, 30_000, False)

    def commit(self, route: str, n: int, size: int, is_list: bool) -> None:
        results = self.results(n, size, is_list)
        self.work(route, Work(route=route, received=n, handled=n, results=results))

    def results(self, n: int, size: int, is_list: bool = False) -> list[NewResult]:
        self.n_keys += n
        results = []
        for i in range(self.n_keys - n, self.n_keys):
            data = ["x" * size] if is_list else {"label": f"l{i % 3}", "score": i, "pad": "x" * size}
            body = json.dumps(data).encode()
            results.append(NewResult(key=f"key-{i}", kind="k", subject=f"s/{i % 7}", time=float(i), data=body))
        return results

    @rule(route=routes, n=st.integers(1, 60), size=st.sampled_from([10, 3000, 20_000]))
    def journal(self, route: str, n: int, size: int) -> None:
        raws = [RawMessage(topic="t", payload=b"p" * size, time=1.0, key=str(i)) for i in range(n)]
        self.work(route, Work(route=route, received=n, journal=raws))

    @rule(route=routes, n=st.integers(1, 60), n_results=st.integers(1, 60), size=st.sampled_from([10, 3000, 20_000]))
    def answer(self, route: str, n: int, n_results: int, size: int) -> None:
        done = [entry.id for entry in self.do(self.spool.journal(route, after=0, limit=n))]
        if done:
            results = self.results(n_results, size)
            self.work(route, Work(route=route, handled=len(done), done=done, results=results))

    def work(self, route: str, work: Work) -> None:
        before, evicted, thinned = self.rows(), self.evicted(), self.evicted("thinned")
        try:
            self.do(self.spool.commit(work))
        except SpoolFull:
            assert self.policies[route].when_full == "block"
            assert (before, evicted, thinned) == (self.rows(), self.evicted(), self.evicted("thinned"))
            return
        after = self.rows()
        lost = {name: n - evicted[name] for name, n in self.evicted().items()}
        less = {name: n - thinned[name] for name, n in self.evicted("thinned").items()}
        self.check_who_lost(route, lost, less, after)
        self.check_what_is_sent_is_spared(route, before, after)
        self.count_lost(route, before, after, len(work.results))
        for pair in self.pairs:
            if pair[0] == route:
                self.n_produced[pair] += len(work.results)

    def check_what_is_sent_is_spared(
        self, route: str, before: dict[str, dict[int, int]], after: dict[str, dict[int, int]]
    ) -> None:
        for (sent, _), lease in self.leases.items():
            if any(result.row in before[sent] and result.row not in after[sent] for result in lease.results):
                event("what is being sent is evicted")
                for other, policy in self.policies.items():
                    if policy.when_full != "block" and policy.priority <= self.policies[route].priority:
                        assert not set(self.free(other, after[other])) & set(before[other])

    def check_who_lost(
        self, route: str, lost: dict[str, int], less: dict[str, int], after: dict[str, dict[int, int]]
    ) -> None:
        needing = self.policies[route]
        for other, policy in self.policies.items():
            if policy.when_full == "block" or policy.priority > needing.priority or needing.when_full == "block":
                assert lost[other] == less[other] == 0
            if policy.when_full != "thin":
                assert less[other] == 0
            if lost[other]:
                event(f"{needing.when_full} evicts from {policy.when_full}")
            if less[other]:
                event(f"{needing.when_full} thins")
            if (lost[other] or less[other]) and needing.when_full == "evict_lowest_priority":
                for lower, known in self.policies.items():
                    if known.priority < policy.priority and known.when_full != "block":
                        assert not self.free(lower, after[lower])

    def free(self, route: str, rows: dict[int, int]) -> list[int]:
        """Rows of the route that are not in flight."""
        spans = [
            (lease.results[0].row, lease.results[-1].row) for pair, lease in self.leases.items() if pair[0] == route
        ]
        return [row for row in rows if not any(first <= row <= last for first, last in spans)]

    def count_lost(
        self, route: str, before: dict[str, dict[int, int]], after: dict[str, dict[int, int]], n_new: int
    ) -> None:
        was, now = self.pending(before), self.pending(after)
        for pair in self.pairs:
            n_lost = was[pair] + (n_new if pair[0] == route else 0) - now[pair]
            assert n_lost >= 0
            self.n_lost[pair] += n_lost

    @rule(pair=st.sampled_from(PAIRS), limit=st.sampled_from([3, 50, 1000]))
    def lease(self, pair: tuple[str, str], limit: int) -> None:
        route, sink = pair
        if pair in self.pairs and pair not in self.leases:
            lease = self.do(self.spool.try_lease(sink, route, limit=limit, max_bytes=MIB))
            if lease is not None:
                self.leases[pair] = lease

    @rule(pair=st.sampled_from(PAIRS))
    def ack(self, pair: tuple[str, str]) -> None:
        if (lease := self.leases.pop(pair, None)) is not None:
            there = self.rows()[pair[0]]
            self.do(self.spool.ack(lease, refused={}))
            for result in lease.results:
                self.came[pair].append(result.row)
                n = how_many(result.kind, result.data)
                self.n_delivered[pair] += n
                if result.row not in there:
                    self.n_lost[pair] -= n  # evicted while it was being sent, for there was nothing else

    @rule(pair=st.sampled_from(PAIRS))
    def nack(self, pair: tuple[str, str]) -> None:
        if (lease := self.leases.pop(pair, None)) is not None:
            self.do(self.spool.nack(lease, delay_s=0.0))

    @rule(max_mib=st.sampled_from([4, 6]), is_there=st.booleans())
    def reopen(self, max_mib: int, is_there: bool) -> None:
        """With another cap, too: what is lost then is lost for nobody's need. And with a sink that comes and goes."""
        before = self.rows()
        self.do(self.spool.close())
        self.leases.clear()
        self.max_bytes = max_mib * MIB
        has_come = is_there and COMES_AND_GOES not in self.pairs
        self.pairs = [pair for pair in PAIRS if is_there or pair != COMES_AND_GOES]
        self.routes = {route: tuple(sink for known, sink in self.pairs if known == route) for route in ROUTES}
        if not is_there or has_come:
            for figures in (self.n_produced, self.n_delivered, self.n_lost, self.came):
                figures.pop(COMES_AND_GOES, None)
        self.open()
        if has_come:
            self.start[COMES_AND_GOES] = max(before["a"], default=0)
        self.count_lost("", before, self.rows(), 0)

    @invariant()
    def the_books_balance(self) -> None:
        if hasattr(self, "spool"):
            books = self.do(self.spool.books())
            assert books.balanced, books
            for (route, sink), n in self.pending(self.rows()).items():
                pair = route, sink
                assert self.n_produced[pair] == self.n_delivered[pair] + n + self.n_lost[pair]
                n_evicted = books.reasons.get(f"results/{route}/{sink}/evicted", {}).get("cap", 0)
                assert (self.n_lost[route, sink] > 0) <= (n_evicted > 0)

    @invariant()
    def what_is_on_disk_stays_within_the_cap(self) -> None:
        if hasattr(self, "spool"):
            taken = sum(file.stat().st_size for file in self.folder.glob("spool.*"))
            blocked = any(policy.when_full == "block" for policy in self.policies.values())
            assert taken <= (6 * MIB if blocked else self.max_bytes)

    def teardown(self) -> None:
        try:
            if not hasattr(self, "spool"):
                return
            for lease in self.leases.values():
                self.do(self.spool.nack(lease, delay_s=0.0))
            self.leases.clear()
            for pair in self.pairs:
                n_there = len(
                    [row for row in self.rows()[pair[0]] if row > max(self.came[pair], default=self.start[pair])]
                )
                while lease := self.do(self.spool.try_lease(pair[1], pair[0], limit=500, max_bytes=MIB)):
                    self.leases[pair] = lease
                    n_there -= len(lease.results)
                    self.ack(pair)
                assert n_there == 0
                assert self.came[pair] == sorted(set(self.came[pair]))
                assert self.n_produced[pair] == self.n_delivered[pair] + self.n_lost[pair]
            assert self.do(self.spool.books()).balanced
        finally:
            self.do(self.spool.close())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()
            shutil.rmtree(self.folder)


LosingMachine.TestCase.settings = settings(
    max_examples=10, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLosing = pytest.mark.timeout(300)(LosingMachine.TestCase)  # the works are large
