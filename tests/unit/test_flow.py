"""gatewayd.flow: what routes note in passing, and the picture that is made of it for who looks."""

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gatewayd.api import Result
from gatewayd.config import schema
from gatewayd.errors import ModelError
from gatewayd.flow.glance import MAX_COMMITS, MAX_RESULT_BYTES, Glance, quantiles_ms
from gatewayd.flow.history import EVERY_S, MAX_LABELS, OTHER, Points, Rates, Sight
from gatewayd.flow.watch import FlowWatch
from gatewayd.ports import NewResult
from gatewayd.status import Depths, run_depths
from tests.sim.clock import ManualClock, settle
from tests.sim.handlers import Scripted
from tests.sim.stages import Rig, stages, until


def results(*labels: str, size: int = 0) -> list[NewResult]:
    return [
        NewResult(
            key=f"k{n}",
            kind="echo",
            subject="t/a",
            time=1000.0 + n,
            data=json.dumps({"label": label, "pad": "x" * size}).encode(),
        )
        for n, label in enumerate(labels)
    ]


def labelled(batch: Any) -> list[Result]:
    return [Result(kind="seen", data={"label": str(one.value)}, message=one) for one in batch.messages]


def watch_of(rig: Rig, **web: Any) -> tuple[FlowWatch, ManualClock]:
    clock = ManualClock()
    return FlowWatch(rig.parts, Depths(), schema.Web(**web), monotonic=clock.monotonic), clock


def flow_of(watch: FlowWatch) -> dict[str, Any]:
    return dict(msgspec.json.decode(watch.flow()))


def test_a_route_notes_one_result_a_commit_and_no_payload_that_is_large() -> None:
    glance = Glance()

    for _ in range(MAX_COMMITS + 10):
        glance.committed(results("a", "b", "c"))
    glance.committed(results("d", size=MAX_RESULT_BYTES))

    commits = glance.take()
    assert len(commits) == MAX_COMMITS
    assert {len(commit.newest) for commit in commits[:-1]} == {1}
    assert commits[-1].newest == []
    assert glance.n_results == 3 * (MAX_COMMITS + 10) + 1
    assert glance.take() == []


def test_labels_of_results_that_were_not_noted_are_estimated_by_those_that_were() -> None:
    glance, sight = Glance(), Sight("r", 60.0, 5)
    for _ in range(2 * MAX_COMMITS):
        glance.committed(results("well", "ill"))  # the last one of each is noted

    seen = sight.see(glance.take(), glance.n_results)
    sight.point()

    assert sight.labels() == {"ill": [4 * MAX_COMMITS]}
    assert sight.is_sampled
    assert [each.number for each in seen][-2:] == [4 * MAX_COMMITS - 2, 4 * MAX_COMMITS]
    assert [each.number for each in sight.latest] == list(range(4 * MAX_COMMITS - 8, 4 * MAX_COMMITS + 1, 2))


def test_labels_are_exact_while_there_is_a_commit_for_each_result() -> None:
    glance, sight = Glance(), Sight("r", 60.0, 5)
    for label in ["a", "b", "a"]:
        glance.committed(results(label))

    sight.see(glance.take(), 3)
    sight.point()

    assert sight.labels() == {"a": [2], "b": [1]}
    assert not sight.is_sampled


def test_a_handler_that_makes_up_labels_gets_a_few_lines_and_one_for_the_rest() -> None:
    glance, sight = Glance(), Sight("r", 60.0, 5)
    glance.depth = 1000
    glance.committed(results(*[f"label {n}" for n in range(300)]))

    sight.see(glance.take(), 300)
    sight.point()

    labels = sight.labels()
    assert len(labels) == MAX_LABELS + 1
    assert sum(map(sum, labels.values())) == 300
    assert labels[OTHER] == [300 - MAX_LABELS]


def test_rates_are_over_the_last_seconds() -> None:
    rates = Rates()
    assert rates.per_s("received", "r") == 0.0

    for second in range(20):
        rates.look(100.0 + second, {("received", "r"): float(10 * second if second < 10 else 90 + 2 * (second - 9))})

    assert rates.per_s("received", "r") == 2.0
    assert rates.per_s("received", "another") == 0.0


def test_points_of_somebody_new_begin_with_zeros_and_are_bounded() -> None:
    points = Points(4 * EVERY_S)

    for n in range(6):
        points.add({("received", "old"): float(n), **({("received", "new"): 1.0} if n == 5 else {})})

    assert points.of("received", "old") == [2, 3, 4, 5]
    assert points.of("received", "new") == [0, 0, 0, 1]
    assert points.n == 6


def test_quantiles_weigh_batches_by_their_messages() -> None:
    assert quantiles_ms([]) is None
    assert quantiles_ms([(0.010, 98), (0.5, 1), (0.7, 1)]) == {"p50": 10.0, "p99": 500.0}
    assert quantiles_ms([(0.25, 1)]) == {"p50": 250.0, "p99": 250.0}


async def test_the_picture_has_rates_latest_results_labels_and_how_long_they_took(tmp_path: Path) -> None:
    async with stages(tmp_path, {"r": Scripted(labelled)}) as rig:
        watch, clock = watch_of(rig)
        watch.look()
        rig.send("well", "ill", "well", "well")
        await rig.acked(4)
        await clock.advance(EVERY_S)

        flow = flow_of(watch)

    route = flow["routes"]["r"]
    assert route["results"] == 4
    assert route["received_per_s"] == pytest.approx(4 / EVERY_S, rel=0.01)
    assert [each["label"] for each in route["latest"]][:1] == ["well"]
    assert route["latest"][0]["data"]["label"] == "well"
    assert "input" not in route["latest"][0]["data"]
    assert route["call_ms"]["p50"] >= 0
    assert flow["broker"]["received_per_s"] == pytest.approx(4 / EVERY_S, rel=0.01)
    history = watch.history()
    assert history["received_per_s"] == [pytest.approx(4 / EVERY_S, rel=0.01)]
    assert sum(history["routes"]["r"]["labels"]["well"]) >= 3


async def test_who_listens_gets_results_and_is_told_how_many_were_left_out(tmp_path: Path) -> None:
    async with stages(tmp_path, {"r": Scripted(labelled), "s": Scripted(labelled)}) as rig:
        watch, _ = watch_of(rig)
        with watch.listening("r", 3) as listener:
            assert rig.part("r").context.glance.depth > 1
            rig.send(*[str(n) for n in range(10)])
            await rig.acked(10)
            await until(lambda: rig.part("r").context.glance.n_results == 10)
            watch.look()

            waiting = [each.data for each in listener.waiting]
            n_left_out = listener.n_left_out
        watch._set_depth()

        assert [json.loads(data)["label"] for data in waiting] == ["7", "8", "9"]
        assert n_left_out == 7
        assert rig.part("r").context.glance.depth == 1


async def test_a_damaged_model_is_told_with_its_cause_and_what_to_do(tmp_path: Path) -> None:
    handler = Scripted()
    handler.starts = [ModelError("weights.onnx does not match its digest")] * 10
    async with stages(tmp_path, {"r": handler}) as rig:
        await until(lambda: rig.part().state == "waiting for its model")
        watch, _ = watch_of(rig)

        flow = flow_of(watch)

    assert flow["routes"]["r"]["problem"] == "weights.onnx does not match its digest"
    [trouble] = [each for each in flow["troubles"] if each["where"] == "routes.r"]
    assert trouble["level"] == "error"
    assert "does not match its digest" in trouble["words"]
    assert "journal" in trouble["hint"]


async def test_what_was_lost_stands_there_with_its_reason(tmp_path: Path) -> None:
    async with stages(tmp_path, {"r": Scripted(labelled)}, {"r": {"payload": {"format": "json"}}}) as rig:
        watch, _ = watch_of(rig)
        rig.source.offer("t/a", b"{not json")
        await rig.acked(1)
        look = asyncio.ensure_future(run_depths(watch.depths, rig.parts.ground.paths.spool))
        await until(lambda: watch.depths.dead_letters == 1)
        look.cancel()

        flow = flow_of(watch)

    assert flow["spool"]["lost"] == [
        {"what": "messages", "route": "r", "sink": "", "line": "dead", "reason": "decode", "n": 1}
    ]
    assert flow["routes"]["r"]["book"]["reasons"] == {"dead": {"decode": 1}}
    assert flow["books"]["balanced"]
    assert "1 dead letter waits for a person." in [each["words"] for each in flow["troubles"]]


async def test_the_spool_is_looked_at_every_second_only_while_somebody_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatewayd.status._LOOK_WATCHED_S", 0.0)
    looks: list[int] = []
    monkeypatch.setattr("gatewayd.status._look", lambda *_: looks.append(1))
    depths = Depths()
    task = asyncio.ensure_future(run_depths(depths, tmp_path))
    await until(lambda: len(looks) == 1)
    await settle()
    assert len(looks) == 1

    depths.watch(is_watched=True)
    await until(lambda: len(looks) > 4)

    depths.watch(is_watched=False)
    task.cancel()
