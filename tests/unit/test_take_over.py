"""A handler that takes another one's place goes on where that one stood, and misses nothing of its last call."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from gatewayd.answer import HandlerRunner
from gatewayd.api import Batch, Message, Result
from gatewayd.cascade.handler import CascadeHandler
from gatewayd.cascade.ladder import LocalTier
from tests.sim.handlers import Scripted
from tests.sim.stages import Rig, stages, until


class Counts(Scripted):
    """Answers with how many messages there were so far."""

    def __init__(self, *, inline: bool = False) -> None:
        super().__init__(self._count, inline=inline)
        self.n = 0
        self.may_go = threading.Event()

    def _count(self, batch: Batch) -> list[Result]:
        results = []
        for message in batch.messages:
            if message.value == "wait":
                self.may_go.wait(10)
            self.n += 1
            results.append(Result(kind="count", data={"n": self.n}, message=message))
        return results

    def take_over(self, before: "Counts") -> None:
        assert not before.is_stopped
        self.n = before.n


class Forgets(Scripted):
    """Fails to take over."""

    def take_over(self, before: object) -> None:
        raise ValueError("bad memory")


async def replace(rig: Rig, new: Any, max_call_s: float = 10.0) -> None:
    """As a swap or a reload does."""
    await until(lambda: rig.part().state == "running")
    part = rig.part()
    runner = HandlerRunner("r", new)
    await runner.start(rig.parts.models_of("r"))
    before, part.context.runner = part.context.runner, runner
    runner.take_over(before, max_call_s)
    await before.stop(10.0)


@pytest.mark.parametrize("inline", [False, True])
async def test_it_goes_on_where_the_one_before_stood(tmp_path: Path, inline: bool) -> None:
    async with stages(tmp_path, {"r": Counts(inline=inline)}) as rig:
        rig.send("a", "b")
        await rig.acked(2)

        await replace(rig, Counts(inline=inline))
        rig.send("c")
        await rig.acked(3)

        assert [data["n"] for data in await rig.data()] == [1, 2, 3]


async def test_the_first_call_waits_for_the_last_one_of_the_handler_before(tmp_path: Path) -> None:
    old, new = Counts(), Counts()
    async with stages(tmp_path, {"r": old}, {"r": {"batch": {"max_messages": 1}}}) as rig:
        rig.send("wait", "b")
        await until(lambda: old.batches == [["wait"]])
        async with asyncio.TaskGroup() as tasks:
            replacing = tasks.create_task(replace(rig, new), name="replace")
            await until(lambda: rig.part().context.runner.handler is new)
            assert (new.batches, replacing.done()) == ([], False)
            old.may_go.set()

        await rig.acked(2)

        assert [data["n"] for data in await rig.data()] == [1, 2]
        assert new.batches == [["b"]]


async def test_a_handler_that_hangs_is_not_waited_for_longer_than_a_call_may_take(tmp_path: Path) -> None:
    old, new = Counts(), Counts()
    async with stages(tmp_path, {"r": old}, {"r": {"batch": {"max_messages": 1}, "qos": 0}}) as rig:
        rig.send("wait", "b")
        await until(lambda: old.batches == [["wait"]])
        part = rig.part()
        runner = HandlerRunner("r", new)
        await runner.start(rig.parts.models_of("r"))
        before, part.context.runner = part.context.runner, runner
        runner.take_over(before, 0.05)

        answer = await runner.answer(
            Batch(route="r", messages=[Message(topic="t", value="c", time=0.0, key="c")], now=0.0)
        )

        assert [result.data["n"] for result, _ in answer.results] == [1]
        old.n = 7
        old.may_go.set()
        await rig.acked(2)
        assert [data["n"] for data in await rig.data()] == [8, 2]


async def test_one_that_fails_to_take_over_begins_anew(tmp_path: Path) -> None:
    async with stages(tmp_path, {"r": Forgets()}) as rig:
        await replace(rig, Forgets())
        rig.send("a")

        assert len(await rig.acked(1)) == 1


async def test_a_handler_of_another_class_is_not_asked(tmp_path: Path) -> None:
    async with stages(tmp_path, {"r": Scripted()}) as rig:
        await replace(rig, Counts())
        rig.send("a")
        await rig.acked(1)

        assert [data["n"] for data in await rig.data()] == [1]


def test_in_a_cascade_each_tier_takes_over_from_the_one_of_its_name() -> None:
    def cascade(*tiers: tuple[str, Counts | Scripted]) -> CascadeHandler:
        return CascadeHandler([LocalTier(name, handler, Counts) for name, handler in tiers])

    was = {name: Counts() for name in ("a", "b")}
    was["a"].n, was["b"].n = 5, 7
    now = {name: Counts() for name in ("a", "b")}

    before = cascade(("a", was["a"]), ("b", was["b"]), ("c", Scripted()))
    cascade(("b", now["b"]), ("a", now["a"]), ("c", Counts())).take_over(before)

    assert [now[name].n for name in ("a", "b")] == [5, 7]
