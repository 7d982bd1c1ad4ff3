"""A route with `parallel`: keys side by side, each in order and by one instance, over stops and crashes; real spool."""

import asyncio
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gatewayd.answer import HandlerRunner, Instances
from gatewayd.api import Batch, Result
from gatewayd.checked import load_checked
from gatewayd.config import schema
from gatewayd.config.load import ConfigErrors
from gatewayd.errors import ConfigError, TransientError
from gatewayd.lanes import Calls, Lanes
from gatewayd.wiring import build_handlers
from tests.sim.handlers import Scripted
from tests.sim.stages import Rig, config_of, stages, until

N = 3
SLOW = {"handler": "summarize_text", "options": {}}
JOURNALED = {"r": {**SLOW, "mode": "journaled", "parallel": N, "batch": {"max_messages": 4}}}
WINDOWED = {
    "r": {**SLOW, "mode": "auto", "parallel": N, "window": {"every_s": 60.0, "key": "topic", "max_messages": 2}}
}


class Gate:
    """Handlers wait here until it is opened; `peak` is how many waited at once."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.peak = self.now = 0
        self._lock = threading.Lock()

    def __call__(self, batch: Batch) -> Sequence[Result]:
        with self._lock:
            self.now += 1
            self.peak = max(self.peak, self.now)
        try:
            assert self.opened.wait(30)
        finally:
            with self._lock:
                self.now -= 1
        return [
            Result(kind="sum", data={"values": [m.value for m in batch.messages], "topic": batch.messages[0].topic})
        ]


def in_lanes(rig: Rig, function: Any) -> list[Scripted]:
    """The route's handler in N instances."""
    instances = [Scripted(function) for _ in range(N)]
    rig.part().context.runner = HandlerRunner("r", Instances(instances))  # type: ignore[arg-type]
    return instances


@pytest.mark.parametrize("keys", [JOURNALED, WINDOWED])
async def test_different_keys_are_handled_at_once(tmp_path: Path, keys: dict[str, dict[str, Any]]) -> None:
    gate = Gate()
    async with stages(tmp_path, {"r": Scripted()}, keys, started=False) as rig:
        in_lanes(rig, gate)
        rig.start()
        for topic in ("t/a", "t/b", "t/c"):
            rig.send(1, 2, topic=topic)

        await until(lambda: gate.now == N)

        gate.opened.set()
        await rig.settled(received=6, handled=6)


async def test_messages_of_a_topic_are_handled_by_one_instance_and_in_order(tmp_path: Path) -> None:
    seen: dict[str, list[int]] = {}

    def note(batch: Batch) -> Sequence[Result]:
        for message in batch.messages:
            seen.setdefault(message.topic, []).append(message.value)
        return []

    async with stages(tmp_path, {"r": Scripted()}, JOURNALED, started=False) as rig:
        instances = in_lanes(rig, note)
        rig.start()
        for value in range(40):
            rig.send(100 * (value % 5) + value, topic=f"t/{value % 5}")
        await rig.settled(received=40, handled=40)

    assert all(values == sorted(values) for values in seen.values())
    of_topic = [{value // 100 for batch in one.batches for value in batch} for one in instances]
    assert sorted(topic for topics in of_topic for topic in topics) == [0, 1, 2, 3, 4]
    assert all(of_topic)


async def test_one_lane_that_fails_holds_up_no_other(tmp_path: Path) -> None:
    def picky(batch: Batch) -> Sequence[Result]:
        if batch.messages[0].topic == "t/bad":
            raise TransientError("not now")
        return []

    keys = {"r": {**JOURNALED["r"], "max_attempts": 100, "retry_s": 3600.0}}
    async with stages(tmp_path, {"r": Scripted()}, keys, started=False) as rig:
        in_lanes(rig, picky)
        rig.start()
        rig.send(1, topic="t/bad")
        rig.send(2, topic="t/good")
        rig.send(3, topic="t/fine")

        await rig.settled(received=3, handled=2, journaled=1)


async def test_a_stop_waits_for_the_calls_of_every_lane(tmp_path: Path) -> None:
    gate = Gate()
    async with stages(tmp_path, {"r": Scripted()}, JOURNALED, started=False) as rig:
        in_lanes(rig, gate)
        rig.start()
        for topic in ("t/a", "t/b", "t/c"):
            rig.send(1, topic=topic)
        await until(lambda: gate.now == N)
        rig.life.stop.set()
        await until(lambda: rig.part().context.in_call._is_closed)

        gate.opened.set()

        await rig.settled(received=3, handled=3)


async def test_a_crash_repeats_work_and_no_effect(tmp_path: Path) -> None:
    gate = Gate()
    async with stages(tmp_path, {"r": Scripted()}, JOURNALED, started=False) as rig:
        in_lanes(rig, gate)
        rig.start()
        for topic in ("t/a", "t/b", "t/c"):
            rig.send(1, 2, topic=topic)
        await until(lambda: gate.now == N)
        attempts = [entry.attempts for entry in await rig.parts.spool.journal("r", after=0, limit=10)]
    gate.opened.set()

    assert sum(attempts) >= N  # counted before they were made
    async with stages(tmp_path, {"r": Scripted()}, JOURNALED, started=False) as rig:
        in_lanes(rig, gate)
        rig.start()
        await rig.settled(received=6, handled=6)

        values = sorted((data["topic"], value) for data in await rig.data() for value in data["values"])
        assert values == [(topic, value) for topic in ("t/a", "t/b", "t/c") for value in (1, 2)]


async def test_open_windows_are_closed_in_every_lane_before_a_flush_is_over(tmp_path: Path) -> None:
    keys = {"r": {**SLOW, "mode": "auto", "parallel": N, "window": {"every_s": 60.0, "key": "topic"}}}
    async with stages(tmp_path, {"r": Scripted()}, keys, started=False) as rig:
        gate = Gate()
        gate.opened.set()
        in_lanes(rig, gate)
        rig.start(flush=True)
        for topic in ("t/a", "t/b", "t/c", "t/d"):
            rig.send(1, 2, topic=topic)
        await rig.settled(received=8, journaled=8)
        await until(lambda: rig.part().state == "running")

        rig.life.stop.set()

        await rig.settled(received=8, handled=8)


@pytest.mark.parametrize("keys", [{"mode": "direct"}, {"handler": "threshold"}])
def test_only_a_journaled_route_with_a_handler_that_takes_its_time_has_lanes(
    tmp_path: Path, keys: dict[str, Any]
) -> None:
    options = {"rules": [{"field": "v", "above": 1.0, "label": "high"}]}
    plain = {"handler": "threshold", "options": options, "parallel": 2}

    with pytest.raises(ConfigError) as caught:
        build_handlers(config_of({"r": {**plain, **keys}}), tmp_path)

    assert caught.value.key == "routes.r.parallel"


def test_a_route_with_lanes_has_as_many_instances(tmp_path: Path) -> None:
    config: schema.Config = config_of({"r": {**SLOW, "mode": "journaled", "parallel": 3}})

    made = build_handlers(config, tmp_path)["r"]

    assert isinstance(made, Instances)
    assert len({id(one) for one in made.instances}) == 3


async def test_a_new_key_gets_the_lane_with_the_fewest_and_keeps_it() -> None:
    lanes: Lanes[int] = Lanes(3, lambda _lane, _job: asyncio.sleep(0))

    first = [lanes.lane_of(key) for key in "abcdef"]

    assert sorted(first) == [0, 0, 1, 1, 2, 2]
    assert [lanes.lane_of(key) for key in "abcdef"] == first


async def test_no_call_begins_after_the_stop_has_asked() -> None:
    calls, begun = Calls(), []

    async def call(name: str, release: asyncio.Event) -> None:
        async with calls:
            begun.append(name)
            await release.wait()

    release = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(call("first", release), name="first")
        await asyncio.sleep(0)
        stop = tasks.create_task(calls.acquire(), name="stop")
        await asyncio.sleep(0)
        late = tasks.create_task(call("late", release), name="late")
        await asyncio.sleep(0)
        assert not stop.done()
        release.set()
        await stop
        assert begun == ["first"]
        assert first.done()
        late.cancel()


def test_stats_of_instances_are_added_up() -> None:
    class Telling(Scripted):
        def stats(self) -> dict[str, float]:
            return {"texts_total": 2.0}

    runner = HandlerRunner("r", Instances([Telling(), Telling(), Telling()]))  # type: ignore[list-item]

    assert runner.stats() == {"texts_total": 6.0}
    assert json.dumps(dict(runner.stats()))


def test_the_check_of_a_config_names_lanes_that_cannot_be(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        '[routes.r]\ntopics = ["t"]\nhandler = "threshold"\nparallel = 2\n'
        'options.rules = [{ field = "v", above = 1.0, label = "high" }]\n'
    )

    with pytest.raises(ConfigErrors) as caught:
        load_checked(config)

    assert "routes.r.parallel" in str(caught.value.problems[0])
