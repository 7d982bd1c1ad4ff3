"""The spool against a model of it in dicts: whatever happens, in whatever order, crashes included.

A crash is a copy of the files as they are on disk (database and WAL, nothing closed), opened by a fresh spool.
"""

import asyncio
import shutil
import tempfile
from contextlib import closing
from pathlib import Path

import apsw
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gatewayd.config import schema
from gatewayd.ports import Lease, NewResult, RawMessage, Work
from gatewayd.spool.reports import Reports
from gatewayd.spool.spool import SqliteSpool
from tests.sim.clock import WallClock

ROUTES = {"a": ("cloud", "archive"), "b": ("cloud",), "c": ()}
PAIRS = [(route, sink) for route, sinks in ROUTES.items() for sink in sinks]
MAX_BYTES = 4 * 1024 * 1024


class FakeClock(WallClock):
    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        await asyncio.Event().wait()


def number(key: str) -> int:
    return int(key.removeprefix("key-"))


class SpoolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="spool-machine-"))
        self.n_lives = 0
        self.clock = FakeClock()
        self.spool = self.open()
        self.n_keys = 0
        self.pending: dict[tuple[str, str], list[str]] = {pair: [] for pair in PAIRS}
        self.gone: dict[tuple[str, str], set[str]] = {pair: set() for pair in PAIRS}  # acked or refused
        self.journal: dict[str, list[int]] = {route: [] for route in ROUTES}
        self.messages = dict.fromkeys(("received", "handled", "dropped"), 0)
        self.n_produced = self.n_refused = 0
        self.leases: dict[tuple[str, str], Lease] = {}
        self.old_leases: list[Lease] = []
        self.dues: dict[tuple[str, str], float] = {}

    def open(self) -> SqliteSpool:
        self.path = self.folder / str(self.n_lives) / "spool.db"
        config = schema.Spool(max_bytes=MAX_BYTES, lease_s=100.0, max_dead_letters=20)
        spool = SqliteSpool.open(self.path, routes=ROUTES, policies={}, config=config, clock=self.clock)
        # Reports of losses come by the real clock, so a model cannot know when: they have tests of their own.
        chores = spool._store.chores
        chores[:] = [chore for chore in chores if not isinstance(chore, Reports)]
        return spool

    def do(self, awaitable):
        return self.loop.run_until_complete(asyncio.wait_for(awaitable, 30))

    def keys(self, n: int) -> list[str]:
        self.n_keys += n
        return [f"key-{i}" for i in range(self.n_keys - n, self.n_keys)]

    def append(self, route: str, keys: list[str], size: int, **more: object) -> None:
        results = [NewResult(key=key, kind="k", subject="t", time=1.0, data=b"x" * size) for key in keys]
        self.do(self.spool.commit(Work(route=route, results=results, **more)))
        for sink in ROUTES[route]:
            self.pending[route, sink] += keys
            self.n_produced += len(keys)

    @rule(route=st.sampled_from(sorted(ROUTES)), n=st.integers(1, 5), size=st.integers(0, 300), lost=st.integers(0, 2))
    def append_results(self, route: str, n: int, size: int, lost: int) -> None:
        dropped = {"why": lost} if lost else {}
        self.append(route, self.keys(n), size, received=n + lost, handled=n, dropped=dropped)
        self.messages["received"] += n + lost
        self.messages["handled"] += n
        self.messages["dropped"] += lost

    @rule(route=st.sampled_from(["a", "b"]))
    def append_twice_and_keep_one(self, route: str) -> None:
        keys = self.keys(1)
        self.append(route, keys, 10)
        self.do(
            self.spool.commit(
                Work(route=route, results=[NewResult(key=keys[0], kind="k", subject="t", time=1.0, data=b"again")])
            )
        )

    @rule(route=st.sampled_from(sorted(ROUTES)), n=st.integers(1, 4))
    def journal_messages(self, route: str, n: int) -> None:
        raws = [RawMessage(topic="t", payload=b"p", time=1.0, key=key) for key in self.keys(n)]
        self.journal[route] += self.do(self.spool.commit(Work(route=route, received=n, journal=raws)))
        self.messages["received"] += n

    @rule(route=st.sampled_from(sorted(ROUTES)), n=st.integers(1, 4))
    def work_from_the_journal(self, route: str, n: int) -> None:
        entries = self.do(self.spool.journal(route, after=0, limit=n))
        assert [entry.id for entry in entries] == self.journal[route][:n]
        done = [entry.id for entry in entries]
        if done:
            self.append(route, self.keys(1), 10, handled=len(done), done=done)
            del self.journal[route][: len(done)]
            self.messages["handled"] += len(done)

    @rule(pair=st.sampled_from(PAIRS), limit=st.integers(1, 6))
    def lease(self, pair: tuple[str, str], limit: int) -> None:
        route, sink = pair
        lease = self.do(self.spool.try_lease(sink, route, limit=limit, max_bytes=1 << 20))
        now = self.clock.at
        held = pair in self.leases and now < self.dues[pair]
        waits = pair not in self.leases and now < self.dues.get(pair, 0)
        if held or waits or not self.pending[pair]:
            assert lease is None
            return
        assert lease is not None
        assert [result.key for result in lease.results] == self.pending[pair][:limit]
        if pair in self.leases:
            self.old_leases.append(self.leases[pair])
            assert lease.attempt == self.leases[pair].attempt + 1
        self.leases[pair], self.dues[pair] = lease, now + 100.0

    @rule(pair=st.sampled_from(PAIRS), refuse=st.booleans())
    def ack(self, pair: tuple[str, str], refuse: bool) -> None:
        if (lease := self.leases.pop(pair, None)) is None:
            return
        keys = [result.key for result in lease.results]
        refused = {keys[0]: "no"} if refuse else {}
        there = set(self.pending[pair])
        self.do(self.spool.ack(lease, refused=refused))
        self.n_refused += len(there & set(refused))
        self.pending[pair] = [key for key in self.pending[pair] if key not in keys]
        self.gone[pair] |= set(keys)
        self.dues.pop(pair)

    @rule(pair=st.sampled_from(PAIRS), delay=st.sampled_from([0.0, 5.0]))
    def nack(self, pair: tuple[str, str], delay: float) -> None:
        if (lease := self.leases.pop(pair, None)) is not None:
            self.do(self.spool.nack(lease, delay_s=delay))
            self.dues[pair] = self.clock.at + delay

    @rule(nack=st.booleans())
    def answer_a_lease_that_was_superseded(self, nack: bool) -> None:
        for lease in self.old_leases:
            self.do(self.spool.nack(lease, delay_s=50.0) if nack else self.spool.ack(lease, refused={}))

    @rule(seconds=st.sampled_from([3.0, 101.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.at += seconds

    @rule(route=st.sampled_from(["a", "b"]), n=st.integers(1, 8))
    def flood(self, route: str, n: int) -> None:
        """Much more than usual, so that the cap evicts the globally oldest."""
        for _ in range(n):
            self.append(route, self.keys(10), 20_000)
            self.what_is_on_disk_stays_within_the_cap()
            self.learn_evictions(10)

    @rule(route=st.sampled_from(["a", "b"]), n=st.integers(15, 90))
    def flood_in_one_piece(self, route: str, n: int) -> None:
        """More than the WAL's reserve in one work, up to nearly half of the cap."""
        self.append(route, self.keys(n), 20_000)
        self.learn_evictions(n)

    @rule()
    def crash_and_reopen(self) -> None:
        old_folder, old = self.folder / str(self.n_lives), self.spool
        self.n_lives += 1
        new_folder = self.folder / str(self.n_lives)
        new_folder.mkdir()
        for name in ("spool.db", "spool.db-wal"):
            if (old_folder / name).exists():
                shutil.copy(old_folder / name, new_folder / name)
        self.do(old.close())
        self.spool = self.open()
        self.old_leases += self.leases.values()
        self.leases.clear()
        self.dues.clear()

    def learn_evictions(self, n_new: int) -> None:
        """The model does not know sizes on disk: it takes from the database what is gone, and checks that it was the
        oldest, and what is being sent only when there was nothing else. `n_new` results were appended just now."""
        with closing(apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
            there = {key for (key,) in connection.execute("SELECT key FROM results")}
        for route, sink in PAIRS:
            known = self.pending[route, sink]
            leases = (lease for pair, lease in self.leases.items() if pair[0] == route)
            held = {result.key for lease in leases for result in lease.results}
            kept = [key for key in known if key in there]
            lost = [key for key in known if key not in there]
            free = [key for key in known if key not in held]
            lost_free = [key for key in lost if key not in held]
            assert lost_free == free[: len(lost_free)]
            if not held.isdisjoint(lost):
                assert all(number(key) >= self.n_keys - n_new for key in free[len(lost_free) :])
            self.pending[route, sink] = kept
        for route, ids in self.journal.items():
            entries = self.do(self.spool.journal(route, after=0, limit=10_000))
            self.journal[route] = ids[len(ids) - len(entries) :]

    @invariant()
    def books_balance_and_agree_with_the_model(self) -> None:
        books = self.do(self.spool.books())
        assert books.balanced, books
        totals = books.totals()
        for line, n in self.messages.items():
            assert totals["messages"][line] == n
        assert totals["messages"]["journaled"] == sum(map(len, self.journal.values()))
        assert totals["results"]["produced"] == self.n_produced
        assert totals["results"]["refused"] == self.n_refused
        for route, sink in PAIRS:
            if route in books.results:
                assert books.results[route][sink]["pending"] == len(self.pending[route, sink])

    @invariant()
    def what_is_on_disk_stays_within_the_cap(self) -> None:
        folder = self.folder / str(self.n_lives)
        assert sum(file.stat().st_size for file in folder.glob("spool.*")) <= MAX_BYTES  # database, WAL, index, ballast

    def teardown(self) -> None:
        try:
            for route, sink in PAIRS:  # all that is pending comes, in order, once, and nothing else
                self.clock.at += 1000
                came: list[str] = []
                while lease := self.do(self.spool.try_lease(sink, route, limit=7, max_bytes=1 << 20)):
                    came += [result.key for result in lease.results]
                    self.do(self.spool.ack(lease, refused={}))
                assert came == self.pending[route, sink]
                assert not self.gone[route, sink] & set(came)
        finally:
            self.do(self.spool.close())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()
            shutil.rmtree(self.folder)


SpoolMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestSpool = SpoolMachine.TestCase
