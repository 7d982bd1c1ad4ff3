"""Whatever is sent, refused, brought back and given up, in whatever order: each sink has each result once or never."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from gatewayd.clock import SystemClock
from gatewayd.config import schema
from gatewayd.events import event_json
from gatewayd.ports import DeadLetter, NewResult, Work
from gatewayd.spool import purge, requeue
from gatewayd.spool.browse import Browser, Pick, parse_id
from gatewayd.spool.migrations import SEQ_MASK
from gatewayd.spool.opening import open_store
from gatewayd.spool.orders import carry_out
from gatewayd.spool.store import Store

ROUTES = {"r": ("cloud", "backup", "archive"), "s": ("cloud",)}
PAIRS = [(route, sink) for route, sinks in ROUTES.items() for sink in sinks]
STEPS = {"requeue": requeue.step, "purge": purge.step}

pair = st.sampled_from(PAIRS)
small = st.integers(1, 5)
op = st.one_of(
    st.tuples(st.just("add"), st.sampled_from(list(ROUTES)), small),
    st.tuples(st.just("send"), pair, small, st.integers(0, 31)),
    st.tuples(st.just("requeue"), st.sampled_from(["", "cloud", "backup", "archive"])),
    st.tuples(st.just("purge"), st.sampled_from(["", "r", "s"]), st.sampled_from(["", "cloud", "archive"])),
    st.tuples(st.just("purge row"), st.integers(0, 30), st.sampled_from(["", "cloud", "backup"])),
    st.tuples(st.just("purge dead"), st.sampled_from(["", "cloud"])),
    st.tuples(st.just("restart")),
)


class World:
    """The store, and where each sink's results are by what the test has seen."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "spool.db"
        self.made: dict[str, list[str]] = {route: [] for route in ROUTES}
        self.delivered: dict[tuple[str, str], set[str]] = {each: set() for each in PAIRS}
        self.given_up: dict[tuple[str, str], set[str]] = {each: set() for each in PAIRS}
        self.open()

    def open(self) -> None:
        sinks = {sink for _, sink in PAIRS}
        config = schema.Spool()
        self.opened = open_store(
            self._path, routes=ROUTES, sinks=sinks, policies={}, config=config, clock=SystemClock()
        )

    @property
    def store(self) -> Store:
        return self.opened.store

    def transact(self, change: Callable[[], object]) -> None:
        self.store.begin()
        change()
        self.store.flush()
        self.store.commit()
        self.store.committed()

    def add(self, route: str, n: int) -> None:
        keys = [f"{route}-{len(self.made[route]) + i}" for i in range(n)]
        self.made[route] += keys
        results = [NewResult(key=key, kind="k", subject="t", time=1.0, data=b"{}") for key in keys]
        self.transact(lambda: self.store.apply(Work(route=route, received=n, handled=n, results=results)))

    def send(self, each: tuple[str, str], n: int, mask: int) -> None:
        route, sink = each
        results = self.store.outgoing.read(route, sink, "all", SEQ_MASK, n, 1 << 20)
        self.store.leased.clear(route, sink, "all")
        if not results:
            return
        no = [result for index, result in enumerate(results) if mask >> index & 1]
        fields = {"route": route, "sink": sink, "reason": "refused", "detail": "no", "topic": "t", "time": 1.0}
        letters = [DeadLetter(payload=event_json(one, "g"), key=one.key, **fields) for one in no]  # type: ignore[arg-type]
        refused = list(zip(no, letters, strict=True))
        self.transact(lambda: self.store.outgoing.ack(route, sink, results[0].row, results[-1].row, refused))
        sent = {result.key for result in results} - {result.key for result in no}
        assert not sent & self.delivered[each]
        self.delivered[each] |= sent

    def order(self, what: str, pick: Pick) -> None:
        before = self.pending(), self.dead()
        carry_out(self.store, what, pick, ROUTES, STEPS)  # type: ignore[arg-type]
        if what == "purge":
            after = self.pending(), self.dead()
            for each in PAIRS:
                self.given_up[each] |= set(before[0][each]) - set(after[0][each])
                self.given_up[each] |= set(before[1][each]) - set(after[1][each])

    def pending(self) -> dict[tuple[str, str], list[str]]:
        found = {}
        for route, sink in PAIRS:
            results = self.store.outgoing.read(route, sink, "all", SEQ_MASK, 10_000, 1 << 20)
            self.store.leased.clear(route, sink, "all")
            found[route, sink] = [result.key for result in results]
        return found

    def dead(self) -> dict[tuple[str, str], list[str]]:
        query = "SELECT key FROM dead WHERE route = ? AND sink = ? ORDER BY id"
        return {each: [key for (key,) in self.store.connection.execute(query, each)] for each in PAIRS}

    def check(self) -> None:
        pending, dead = self.pending(), self.dead()
        for each in PAIRS:
            known = [*pending[each], *dead[each], *self.delivered[each], *self.given_up[each]]
            assert sorted(known) == sorted(self.made[each[0]]), each
        assert self.store.read_books().balanced


@contextmanager
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory() as folder:
        made = World(Path(folder))
        yield made
        made.opened.close(is_clean=True)


def do(it: World, name: str, *args: object) -> None:
    if name == "add":
        it.add(*args)  # type: ignore[arg-type]
    elif name == "send":
        it.send(*args)  # type: ignore[arg-type]
    elif name == "requeue":
        it.order("requeue", Pick(table="dead", sink=str(args[0])))
    elif name == "purge":
        it.order("purge", Pick(table="results", route=str(args[0]), sink=str(args[1])))
    elif name == "purge row":
        rows = list(Browser(it.store.connection).rows(Pick(table="results")))
        if rows:
            number = parse_id(rows[int(str(args[0])) % len(rows)].id)[1]
            it.order("purge", Pick(table="results", ids=(number,), sink=str(args[1])))
    elif name == "purge dead":
        it.order("purge", Pick(table="dead", sink=str(args[0])))
    else:
        it.opened.close(is_clean=True)
        it.open()


@settings(deadline=None, max_examples=40)
@given(st.lists(op, min_size=5, max_size=30))
def test_each_sink_has_each_result_once_or_never(ops: list[tuple[object, ...]]) -> None:
    with world() as it:
        for each in ops:
            do(it, *each)  # type: ignore[arg-type]
            it.check()
