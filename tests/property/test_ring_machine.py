"""Routes that spare flash, against a model of what may be lost and what may not: whatever happens, in whatever order.

A power cut is a copy of the files as they are on disk, opened by a fresh spool; the model then asks the books how much
is gone, and checks that it was in memory alone, and the newest. At the end every sink has had what was not lost, once.
"""

import asyncio
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gatewayd.config import schema
from gatewayd.ports import DeadLetter, Lease, NewResult, RawMessage, Work
from gatewayd.spool import SqliteSpool
from gatewayd.spool.books import Books
from gatewayd.spool.policy import RoutePolicy
from gatewayd.spool.reader import SpoolReader
from tests.sim.real_spool import MIB, FakeClock

ROUTES = {"a": ("archive", "cloud"), "b": ("cloud",), "written": ("cloud",)}
PAIRS = [(route, sink) for route, sinks in ROUTES.items() for sink in sinks]
SPARING = RoutePolicy(write="when_offline", write_max_s=5.0, write_max_results=12)
POLICIES = {"a": SPARING, "b": SPARING}
LEASE_S = 100.0
pytestmark = pytest.mark.timeout(240)

_pair = st.sampled_from(PAIRS)
_route = st.sampled_from(sorted(ROUTES))


class RingMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="ring-machine-"))
        self.n_lives = 0
        self.clock = FakeClock()
        self.spool = self.do(self.open())
        self.n_keys = 0
        self.there: dict[tuple[str, str], list[str]] = {pair: [] for pair in PAIRS}  # owed to the sink, in order
        self.known: dict[str, list[str]] = {route: [] for route in ROUTES}  # keys taken in since the last start
        self.n_received = 0
        self.leases: dict[tuple[str, str], Lease] = {}
        self.dues: dict[tuple[str, str], float] = {}
        self.voided: list[Lease] = []

    async def open(self) -> SqliteSpool:
        return SqliteSpool.open(
            self.folder / str(self.n_lives) / "spool.db",
            routes=ROUTES,
            policies=POLICIES,
            config=schema.Spool(max_bytes=16 * MIB, ballast_bytes=0, lease_s=LEASE_S),
            clock=self.clock,
        )

    def do(self, awaitable):
        return self.loop.run_until_complete(asyncio.wait_for(awaitable, 30))

    def settle(self) -> None:
        """What the last rule has set off is done."""
        for _ in range(3):
            self.do(self.spool.ping())

    def on_disk(self) -> Books:
        with SpoolReader.open(self.folder / str(self.n_lives) / "spool.db") as reader:
            return reader.books()

    def new_keys(self, n: int) -> list[str]:
        self.n_keys += n
        return [f"key-{i}" for i in range(self.n_keys - n, self.n_keys)]

    def owe(self, route: str, keys: list[str]) -> None:
        self.known[route] += keys
        for sink in ROUTES[route]:
            self.there[route, sink] += keys

    @rule(route=_route, sizes=st.lists(st.integers(0, 4), min_size=1, max_size=4), n_dead=st.integers(0, 1))
    def take_in(self, route: str, sizes: list[int], n_dead: int) -> None:
        """Several works under way at once, with an answer each or none, and perhaps a dead letter in the last."""

        async def submit() -> None:
            futures = []
            for index, n in enumerate(sizes):
                keys = self.new_keys(n)
                letter = DeadLetter(route=route, reason="no", detail="", topic="t", payload=b"", time=1.0, key="dead")
                dead = [letter] * (n_dead if index + 1 == len(sizes) else 0)
                seen = [key.encode() for key in keys]
                results = [result(key) for key in keys]
                work = Work(
                    route=route, received=1 + len(dead), handled=1, results=results, dead=dead, dropped={}, seen=seen
                )
                futures.append(self.spool.submit(work))
                self.n_received += 1 + len(dead)
                self.owe(route, keys)
            for future in futures:
                await future
            assert all(self.spool.was_seen(key.encode()) for key in keys)

        self.do(submit())

    @rule(route=_route)
    def take_in_again(self, route: str) -> None:
        if known := self.known[route]:
            self.do(self.spool.commit(Work(route=route, results=[result(known[0]), result(known[-1])])))

    @rule(route=_route)
    def journal_and_work_from_it(self, route: str) -> None:
        raw = RawMessage(topic="t", payload=b"p", time=1.0, key="raw")
        done = self.do(self.spool.commit(Work(route=route, received=1, journal=[raw])))
        self.n_received += 1
        keys = self.new_keys(1)
        self.do(self.spool.commit(Work(route=route, handled=1, done=done, results=[result(keys[0])])))
        self.owe(route, keys)

    @rule(pair=_pair, limit=st.integers(1, 6))
    def lease(self, pair: tuple[str, str], limit: int) -> None:
        route, sink = pair
        lease = self.do(self.spool.try_lease(sink, route, limit=limit, max_bytes=MIB))
        if self.clock.at < self.dues.get(pair, 0.0) or not self.there[pair]:
            assert lease is None
            return
        assert lease is not None
        keys = [stored.key for stored in lease.results]
        assert keys == self.there[pair][: len(keys)]
        assert len(keys) == limit or route != "written" or len(keys) == len(self.there[pair])
        if pair in self.leases:
            self.voided.append(self.leases[pair])
            assert lease.attempt == self.leases[pair].attempt + 1
        self.leases[pair], self.dues[pair] = lease, self.clock.at + LEASE_S

    @rule(pair=_pair, refuse=st.booleans())
    def ack(self, pair: tuple[str, str], refuse: bool) -> None:
        if (lease := self.leases.pop(pair, None)) is None:
            return
        del self.dues[pair]
        keys = [stored.key for stored in lease.results]
        self.do(self.spool.ack(lease, refused={keys[0]: "no"} if refuse else {}))
        self.there[pair] = self.there[pair][len(keys) :]

    @rule(pair=_pair, delay_s=st.sampled_from([0.0, 3.0]))
    def nack(self, pair: tuple[str, str], delay_s: float) -> None:
        if (lease := self.leases.pop(pair, None)) is not None:
            self.do(self.spool.nack(lease, delay_s=delay_s))
            self.dues[pair] = self.clock.at + delay_s

    @rule()
    def every_sink_confirms(self) -> None:
        """The usual state of things, which chance alone would seldom reach."""
        for pair in PAIRS:
            for _ in range(2):
                self.ack(pair, refuse=False)
                self.lease(pair, limit=50)
        for pair in PAIRS:
            self.ack(pair, refuse=False)
        self.settle()

    @rule(nack=st.booleans())
    def answer_a_void_lease(self, nack: bool) -> None:
        for lease in self.voided:
            self.do(self.spool.nack(lease, delay_s=50.0) if nack else self.spool.ack(lease, refused={}))

    @rule(seconds=st.sampled_from([1.0, 4.5, 70.0, 101.0]), is_awaited=st.booleans())
    def time_passes(self, seconds: float, is_awaited: bool) -> None:
        async def look() -> None:
            self.spool.rings.look()

        self.clock.at += seconds
        self.do(look())
        if is_awaited:
            self.settle()

    @rule()
    def stop_and_start(self) -> None:
        self.do(self.spool.close())
        books = self.on_disk()
        assert [books.results[route][sink]["pending"] for route, sink in PAIRS] == [*map(len, self.there.values())]
        self.spool = self.do(self.open())
        self.forget_leases()

    @rule()
    def cut_the_power(self) -> None:
        in_memory = self.spool.rings.sizes()
        old, old_folder = self.spool, self.folder / str(self.n_lives)
        self.n_lives += 1
        new_folder = self.folder / str(self.n_lives)
        new_folder.mkdir()
        for name in ("spool.db", "spool.db-wal"):
            if (old_folder / name).exists():
                shutil.copy(old_folder / name, new_folder / name)
        self.do(old.close())
        self.spool = self.do(self.open())
        self.forget_leases()
        books = self.do(self.spool.books())
        for pair in PAIRS:
            route, sink = pair
            n_left = books.results[route][sink]["pending"]
            n_lost = len(self.there[pair]) - n_left
            assert 0 <= n_lost <= in_memory.get(route, 0) <= SPARING.write_max_results
            if n_lost:
                self.there[pair] = self.there[pair][:-n_lost]
        self.n_received = sum(lines["received"] for lines in books.messages.values())

    def forget_leases(self) -> None:
        self.known = {route: [] for route in ROUTES}  # keys of results that have gone are not kept on disk
        self.voided = [*self.leases.values()]
        self.leases.clear()
        self.dues.clear()

    @invariant()
    def the_running_books_balance_and_agree(self) -> None:
        books = self.do(self.spool.books())
        assert books.balanced, books
        assert sum(lines["received"] for lines in books.messages.values()) == self.n_received
        for route, sink in PAIRS:
            assert books.results[route][sink]["pending"] == len(self.there[route, sink])

    @invariant()
    def the_books_on_disk_balance(self) -> None:
        books = self.on_disk()
        assert books.balanced, books

    @invariant()
    def memory_holds_no_more_than_it_may(self) -> None:
        assert all(n <= SPARING.write_max_results for n in self.spool.rings.sizes().values())

    def teardown(self) -> None:
        try:
            for pair in PAIRS:  # all that is owed comes, in order, once, and nothing else
                self.clock.at += 1000
                route, sink = pair
                came: list[str] = []
                while lease := self.do(self.spool.try_lease(sink, route, limit=7, max_bytes=MIB)):
                    came += [stored.key for stored in lease.results]
                    self.do(self.spool.ack(lease, refused={}))
                assert came == self.there[pair]
        finally:
            self.do(self.spool.close())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()
            shutil.rmtree(self.folder)


def result(key: str) -> NewResult:
    return NewResult(key=key, kind="k", subject="t", time=1.0, data=key.encode())


RingMachine.TestCase.settings = settings(
    max_examples=10, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestRing = RingMachine.TestCase
