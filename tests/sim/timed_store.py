"""A store on a real file whose clocks are bent, life after life; the test plays the writer thread."""

from collections.abc import Mapping
from pathlib import Path

from gatewayd.clock import SystemClock
from gatewayd.config import schema
from gatewayd.ports import NewResult, RawMessage, StoredResult, Work
from gatewayd.spool.books import Books
from gatewayd.spool.expiry import Expiry, Timekeeping
from gatewayd.spool.migrations import SEQ_MASK
from gatewayd.spool.opening import open_store
from gatewayd.spool.policy import RoutePolicy
from gatewayd.spool.store import Store
from tests.sim.clock import BentClock

ROUTES = {"kept": ("cloud",), "brief": ("cloud", "archive")}


class Lives:
    """One gateway's spool: `restart` ends a life in good order or not, `reboot` the machine with it."""

    def __init__(self, folder: Path, bent: BentClock, *, ttl_s: float = 600.0) -> None:
        self.bent = bent
        self.policies = {"kept": RoutePolicy(), "brief": RoutePolicy(ttl_s=ttl_s)}
        self.told: list[tuple[str, Mapping[str, object]]] = []
        self._path = folder / "spool.db"
        self._n_keys = 0
        self._begin()

    def _begin(self) -> None:
        bent = self.bent
        self.clock = SystemClock(ask=lambda: bent.synced, wall=bent.now, boottime=bent.boottime, boot_id=bent.boot_id)
        self._opened = open_store(
            self._path,
            routes=ROUTES,
            sinks=["cloud", "archive"],
            policies=self.policies,
            config=schema.Spool(),
            clock=self.clock,
        )

    @property
    def store(self) -> Store:
        return self._opened.store

    def restart(self, *, is_clean: bool = True, down_s: float = 0.0) -> None:
        self.end(is_clean=is_clean)
        self.bent.pass_s(down_s)
        self._begin()

    def reboot(self, *, is_clean: bool = True, off_s: float = 0.0, wall: float | None = None) -> None:
        self.end(is_clean=is_clean)
        self.bent.reboot(off_s=off_s, wall=wall)
        self._begin()

    def end(self, *, is_clean: bool = True) -> None:
        self._opened.close(is_clean=is_clean)

    def transact(self, *works: Work) -> list[list[int]]:
        store = self.store
        store.begin()
        answers = [store.apply(work) for work in works]
        store.flush()
        store.commit()
        store.committed()
        return answers

    def add(self, n: int = 1, route: str = "brief") -> list[str]:
        """Results, at the time it is now; their keys."""
        keys = [f"key-{self._n_keys + i}" for i in range(n)]
        self._n_keys += n
        time = self.clock.now()
        results = [NewResult(key=key, kind="k", subject="t", time=time, data=b"{}") for key in keys]
        self.transact(Work(route=route, received=n, handled=n, results=results))
        return keys

    def journal(self, n: int = 1, route: str = "brief") -> list[int]:
        """Messages into the journal; their ids."""
        raws = [RawMessage(topic="t", payload=b"p", time=self.clock.now(), key=f"raw-{i}") for i in range(n)]
        [ids] = self.transact(Work(route=route, received=n, journal=raws))
        return ids

    def upkeep(self, *, n_rounds: int = 1) -> None:
        """What the writer does once a second for ages, and nothing else of its upkeep."""
        chores = [chore for chore in self.store.chores if isinstance(chore, Timekeeping | Expiry)]
        for _ in range(n_rounds):
            for chore in chores:
                if chore.is_due(self.bent.monotonic()):
                    self.store.begin()
                    chore.run()
                    self.store.flush()
                    self.store.commit()
                    self.store.committed()

    def run_s(self, seconds: int, *, step_s: int = 1) -> None:
        """Time passes, and the writer looks around."""
        for _ in range(0, seconds, step_s):
            self.bent.pass_s(step_s)
            self.upkeep()

    def results(self, route: str = "brief", sink: str = "cloud") -> list[StoredResult]:
        taken = self.store.outgoing.read(route, sink, "all", SEQ_MASK, 100_000, 1 << 30)
        self.store.leased.clear(route, sink, "all")
        return list(taken)

    def keys(self, route: str = "brief", sink: str = "cloud") -> list[str]:
        return [result.key for result in self.results(route, sink)]

    def messages(self) -> list[RawMessage]:
        """The journal, as it is read."""
        rows = self.store.connection.execute("SELECT id, payload, props, attempts, sum FROM journal ORDER BY id")
        return [self.store.ages.entry(row).message for row in rows.fetchall()]

    def books(self) -> Books:
        return self.store.read_books()
