"""A newer version of a model takes over in the running stages, wholly or not at all."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatewayd.api import Batch, ModelError, Models, Result
from gatewayd.swap import Renewals, renew_stale, run_renewals, swap
from tests.sim.handlers import Options
from tests.sim.models import affine_onnx, onnx_bundle
from tests.sim.stages import Rig, stages, until


class Multiplies:
    """A handler whose answers are multiplied by its model's weight."""

    Config = Options
    journaled = False
    inline = False

    def __init__(self) -> None:
        self.refuses: set[str] = set()  # versions it does not start with
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.is_called = threading.Event()
        self.is_stopped = False

    def start(self, models: Models) -> None:
        model = models.get("tiny")
        self.version = model.version
        if self.version in self.refuses:
            raise ModelError("this version is not for me")
        self.session = model.tensors()

    def handle(self, batch: Batch) -> Sequence[Any]:
        self.is_called.set()
        assert self.may_answer.wait(10)
        rows = np.array([[message.value] for message in batch.messages], np.float32)
        products = self.session.run({"x": rows})["y"][:, 0].tolist()
        return [
            Result(kind="product", data={"product": product, "version": self.version}, message=message)
            for message, product in zip(batch.messages, products, strict=True)
        ]

    def stop(self) -> None:
        self.is_stopped = True


def put(folder: Path, version: int) -> None:
    onnx_bundle(folder / "models", affine_onnx([[float(version)]], [0.0]), version=str(version))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> dict[str, Multiplies]:
    """The handlers that a swap makes, by route; those of a second one are made anew."""
    handlers = {"r": Multiplies(), "s": Multiplies()}
    monkeypatch.setattr("gatewayd.swap.build_handlers", lambda *_: handlers)
    return handlers


async def answer(rig: Rig, value: int, route: str = "r") -> dict[str, Any]:
    n_before = len(await rig.data(route))
    rig.send(value)
    await rig.acked(len(rig.source.acked) + 1)
    data = await rig.data(route)
    assert len(data) == n_before + 1
    return product(data[-1])


def product(data: dict[str, Any]) -> dict[str, Any]:
    return {key: data[key] for key in ("product", "version")}


async def test_the_new_version_answers_from_the_swap_on(tmp_path: Path, made: dict[str, Multiplies]) -> None:
    put(tmp_path, 1)
    old: Any = Multiplies()
    async with stages(tmp_path, {"r": old}) as rig:
        assert await answer(rig, 5) == {"product": 5.0, "version": "1"}
        put(tmp_path, 2)

        assert await swap(rig.parts, "tiny")

        assert await answer(rig, 5) == {"product": 10.0, "version": "2"}
        assert old.is_stopped
        assert rig.parts.models.stats()["tiny"]["swaps"] == 1.0


async def test_a_call_under_way_ends_with_the_version_it_began_with(
    tmp_path: Path, made: dict[str, Multiplies]
) -> None:
    put(tmp_path, 1)
    old: Any = Multiplies()
    async with stages(tmp_path, {"r": old}) as rig:
        await until(lambda: rig.part().state == "running")
        old.may_answer.clear()
        rig.send(5)
        await until(old.is_called.is_set)
        put(tmp_path, 2)
        async with asyncio.TaskGroup() as tasks:
            swapping = tasks.create_task(swap(rig.parts, "tiny"), name="swap")
            await until(lambda: rig.part().context.runner.handler is made["r"])
            assert not swapping.done()
            old.may_answer.set()

        await rig.acked(1)
        assert [product(data) for data in await rig.data()] == [{"product": 5.0, "version": "1"}]
        assert await answer(rig, 5) == {"product": 10.0, "version": "2"}


async def test_all_routes_that_use_it_change_or_none(tmp_path: Path, made: dict[str, Multiplies]) -> None:
    put(tmp_path, 1)
    made["s"].refuses = {"2"}
    handlers: Any = {"r": Multiplies(), "s": Multiplies()}
    async with stages(tmp_path, handlers, {"s": {"topics": ["s/#"]}}) as rig:
        await until(lambda: all(part.state == "running" for part in rig.parts.routes.values()))
        put(tmp_path, 2)

        assert not await swap(rig.parts, "tiny")

        assert [rig.part(name).context.runner.handler for name in "rs"] == [handlers["r"], handlers["s"]]
        assert made["r"].is_stopped
        assert await answer(rig, 5) == {"product": 5.0, "version": "1"}
        assert rig.parts.models.get("tiny").version == "1"
        assert rig.parts.models.replaced() == [], "not tried again until somebody asks"


async def test_a_route_that_got_the_old_version_while_it_started_is_renewed(
    tmp_path: Path, made: dict[str, Multiplies]
) -> None:
    put(tmp_path, 1)
    late: Any = Multiplies()
    async with stages(tmp_path, {"r": late}) as rig:
        await until(lambda: rig.part().state == "running")
        rig.part().state = "starting"  # as if it had been when the swap looked
        put(tmp_path, 2)
        assert await swap(rig.parts, "tiny")
        assert rig.part().context.runner.handler is late
        rig.part().state = "running"

        await renew_stale(rig.parts)

        assert rig.part().context.runner.handler is made["r"]
        assert await answer(rig, 5) == {"product": 10.0, "version": "2"}


async def test_it_is_looked_for_when_somebody_asks(tmp_path: Path, made: dict[str, Multiplies]) -> None:
    put(tmp_path, 1)
    old: Any = Multiplies()
    async with stages(tmp_path, {"r": old}) as rig:
        await until(lambda: rig.part().state == "running")
        renewals = Renewals()
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(run_renewals(rig.parts, renewals), name="renewals")
            put(tmp_path, 2)
            renewals.ask()
            await until(lambda: rig.part().context.runner.handler is made["r"])
            task.cancel()

        assert await answer(rig, 5) == {"product": 10.0, "version": "2"}
