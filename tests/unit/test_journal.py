"""A journaled route: acknowledged when the raw message is on disk, answered from there, each effect once."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gatewayd.answer import HandlerRunner
from gatewayd.api import Batch, Message
from gatewayd.config.schema import WindowLimits
from gatewayd.errors import GivesWay, ModelError, RejectedError, TransientError
from gatewayd.journal import window_key_of
from gatewayd.ports import JournalEntry, RawMessage, Work
from tests.sim.clock import ManualClock, settle
from tests.sim.handlers import Scripted, echo, failing, raising_on, summarize
from tests.sim.stages import Rig, stages, until

JOURNALED = {"r": {"mode": "journaled"}}


def windowed(**limits: Any) -> dict[str, dict[str, Any]]:
    return {"r": {"mode": "auto", "window": limits}}


def never(rig: Rig) -> None:
    """The route's handler does not start: whatever comes stays in the journal."""
    handler = Scripted()
    handler.starts = [ModelError("not there")] * 1000
    rig.part().context.runner = HandlerRunner("r", handler)


async def test_a_message_is_acknowledged_when_it_is_journaled_and_not_before(tmp_path: Path) -> None:
    async with stages(tmp_path, {"r": Scripted()}, JOURNALED, started=False) as rig:
        never(rig)
        held = rig.hold()
        rig.start()
        sent = rig.send(1, 2)
        await until(lambda: sum(len(work.journal) for work in held.works) == 2)
        await settle()
        assert rig.source.acked == []

        held.open.set()

        assert await rig.acked(2) == sent
        assert await rig.message_book() == {"received": 2, "journaled": 2}


async def test_results_come_and_their_entries_go_in_one_commit(tmp_path: Path) -> None:
    async with stages(tmp_path, {"r": Scripted()}, JOURNALED) as rig:
        held = rig.hold()
        held.open.set()
        rig.send(1, 2)

        await rig.settled(received=2, handled=2)

        answered = [work for work in held.works if work.done]
        assert sum(len(work.done) for work in answered) == 2
        assert all(len(work.results) == len(work.done) == work.handled for work in answered)
        await rig.counted("gatewayd.messages.journaled", "r", n=2)


async def test_what_was_journaled_before_a_crash_is_answered_after_it_under_the_same_keys(tmp_path: Path) -> None:
    async with stages(tmp_path, {"r": Scripted()}, JOURNALED) as rig:
        held = rig.hold()
        rig.send(1, 2)
        await until(lambda: len(held.works) == 1)
        held.open.set()
        await rig.acked(2)
        held.open.clear()
        await until(lambda: any(work.results for work in held.works))
        lost = [result.key for work in held.works for result in work.results]

    async with stages(tmp_path, {"r": Scripted()}, JOURNALED) as rig:
        await rig.settled(received=2, handled=2)

        assert [result.key for result in await rig.stored()][: len(lost)] == lost
        assert len(await rig.stored()) == 2


async def test_what_killed_the_process_is_tried_alone_and_buried_in_the_end(tmp_path: Path) -> None:
    values = [1, "poison", 2]
    async with stages(tmp_path, {"r": Scripted()}, JOURNALED, started=False) as rig:
        never(rig)
        rig.start()
        rig.send(*values)
        await rig.acked(3)
        entries = await rig.parts.spool.journal("r", after=0, limit=10)
        await rig.parts.spool.begin("r", [entry.id for entry in entries])  # all three were being handled
        for _ in range(2):
            await rig.parts.spool.begin("r", [entries[1].id])  # and then it alone, two times more

    handler = Scripted()
    async with stages(tmp_path, {"r": handler}, JOURNALED) as rig:
        await rig.settled(received=3, handled=2, dead=1)

        assert handler.batches == [[1], [2]]
        assert rig.dead() == [("attempts", b'"poison"')]


async def test_an_attempt_is_on_disk_before_it_is_made(tmp_path: Path) -> None:
    counted: list[int] = []

    def look(batch: Batch) -> list[Any]:
        from gatewayd.spool.reader import SpoolReader

        with SpoolReader.open(tmp_path / "state" / "spool.db") as reader:
            counted.extend(n for (n,) in reader._connection.execute("SELECT attempts FROM journal"))
        return echo(batch)

    async with stages(tmp_path, {"r": Scripted(look)}, JOURNALED) as rig:
        rig.send(1)

        await rig.settled(received=1, handled=1)

        assert counted == [1]


async def test_with_a_single_attempt_nobody_is_buried_with_a_neighbor(tmp_path: Path) -> None:
    handler = Scripted()
    once = {"r": {"mode": "journaled", "max_attempts": 1}}
    async with stages(tmp_path, {"r": handler}, once, started=False) as rig:
        rig.send(1, 2, 3)
        rig.start()

        await rig.settled(received=3, handled=3)

        assert handler.batches == [[1], [2], [3]]


async def test_a_passing_failure_is_retried_and_then_buried(tmp_path: Path) -> None:
    handler = Scripted(failing(*[TransientError("busy")] * 3))
    async with stages(tmp_path, {"r": handler}, JOURNALED) as rig:
        rig.send(1)
        for n_calls in (1, 2):
            await until(lambda n=n_calls: len(handler.batches) >= n)  # type: ignore[misc]
            await settle()
            await rig.clock.advance(10)

        await rig.settled(received=1, dead=1)
        rig.send(2)
        await rig.settled(received=2, dead=1, handled=1)

        assert rig.dead() == [("attempts", b"1")]


async def test_while_the_box_has_no_room_for_the_call_the_message_waits_however_often(tmp_path: Path) -> None:
    handler = Scripted(failing(*[GivesWay("hot", reason="hot")] * 9))
    async with stages(tmp_path, {"r": handler}, JOURNALED) as rig:
        rig.send(1)
        for n_calls in range(1, 10):
            await until(lambda n=n_calls: len(handler.batches) >= n)  # type: ignore[misc]
            await settle()
            await rig.clock.advance(10)

        await rig.settled(received=1, handled=1)

        assert rig.dead() == []


async def test_a_bug_and_a_bad_payload_disturb_no_neighbor(tmp_path: Path) -> None:
    handler = Scripted(raising_on(lambda message: message.value == "bad", KeyError()))
    json_only = {"r": {"mode": "journaled", "payload": {"format": "json"}}}
    async with stages(tmp_path, {"r": handler}, json_only) as rig:
        rig.send(1, "bad")
        rig.source.offer("t/a", b"{")
        rig.send(2)

        await rig.settled(received=4, handled=2, dead=2)

        assert sorted(reason for reason, _ in rig.dead()) == ["decode", "handler_error"]
        assert [data["value"] for data in await rig.data()] == [1, 2]


async def test_a_direct_route_works_off_what_is_left_in_its_journal(tmp_path: Path) -> None:
    async with stages(tmp_path, {"r": Scripted()}, JOURNALED, started=False) as rig:
        never(rig)
        rig.start()
        rig.send(1, 2)
        await rig.acked(2)

    async with stages(tmp_path, {"r": Scripted()}) as rig:
        rig.send(3)

        await rig.settled(received=3, handled=3)

        assert sorted(data["value"] for data in await rig.data()) == [1, 2, 3]


async def test_a_direct_route_without_its_model_journals_and_catches_up_when_the_model_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatewayd.daemon.full_jitter_s", lambda *_, **__: -1.0)  # no second to wait in a test
    handler = Scripted()
    handler.starts = [ModelError("not there"), KeyError("a bug")]
    async with stages(tmp_path, {"r": handler}) as rig:
        rig.send(1, 2)

        await rig.settled(received=2, handled=2)

        assert handler.n_starts == 3
        assert rig.part().state == "running"
        assert len(rig.source.acked) == 2


async def test_windows_close_by_the_clock(tmp_path: Path) -> None:
    clock = ManualClock(now=1000.0)
    async with stages(tmp_path, {"r": Scripted(summarize)}, windowed(every_s=10.0), clock=clock) as rig:
        rig.send(1, 2)
        await rig.acked(2)
        await settle()
        assert await rig.data() == []
        assert await rig.message_book() == {"received": 2, "journaled": 2}

        await clock.advance(10.0)
        rig.part().wake.arrived.set()  # its timer runs on the machine's clock

        await rig.settled(received=2, handled=2)
        (data,) = await rig.data()
        assert data["values"] == [1, 2]
        assert (data["window_start"], data["window_end"], data["messages"]) == (1000.0, 1010.0, 2)


async def test_windows_close_by_count_and_are_kept_by_key(tmp_path: Path) -> None:
    limits = windowed(max_messages=2, key="device")
    async with stages(tmp_path, {"r": Scripted(summarize)}, limits) as rig:
        rig.send({"device": "a", "n": 1}, {"device": "b", "n": 2}, {"device": "a", "n": 3}, {"n": 4})

        await rig.settled(received=4, handled=2, journaled=1, dead=1)

        (stored,) = await rig.stored()
        assert stored.subject == "a"
        assert [value["n"] for value in json.loads(stored.data)["values"]] == [1, 3]
        assert rig.dead() == [("missing_field", b'{"n": 4}')]


@pytest.mark.parametrize(("late", "line"), [("drop", "dropped"), ("bury", "dead")])
async def test_late_messages_are_dropped_or_buried_as_configured(tmp_path: Path, late: str, line: str) -> None:
    clock = ManualClock(now=1000.0)
    routes = {"r": {"window": {"every_s": 10.0, "late": late}, "mode": "auto", "payload": {"time": "at"}}}
    async with stages(tmp_path, {"r": Scripted(summarize)}, routes, clock=clock) as rig:
        rig.send({"at": 985.0}, {"at": 999.0}, {"at": 986.0})

        await rig.settled(received=3, handled=1, journaled=1, **{line: 1})


async def test_open_windows_are_rebuilt_after_a_crash_and_give_the_same_result(tmp_path: Path) -> None:
    clock = ManualClock(now=1000.0)
    limits = windowed(max_messages=3)
    async with stages(tmp_path, {"r": Scripted(summarize)}, limits, clock=clock) as rig:
        rig.send(1, 2)
        await rig.acked(2)

    async with stages(tmp_path, {"r": Scripted(summarize)}, limits, clock=clock) as rig:
        rig.send(3)
        await rig.settled(received=3, handled=3)

        assert [data["values"] for data in await rig.data()] == [[1, 2, 3]]


async def test_a_window_whose_commit_was_lost_is_answered_again_under_the_same_key(tmp_path: Path) -> None:
    limits = windowed(max_messages=2)
    async with stages(tmp_path, {"r": Scripted(summarize)}, limits) as rig:
        held = rig.hold()
        held.open.set()
        rig.part().context.runner.handler.function = lambda batch: (held.open.clear(), summarize(batch))[1]  # type: ignore[attr-defined]
        rig.send(1, 2)
        await until(lambda: any(work.results for work in held.works))
        (lost,) = next(work.results for work in held.works if work.results)

    async with stages(tmp_path, {"r": Scripted(summarize)}, limits) as rig:
        await rig.settled(received=2, handled=2)

        assert [result.key for result in await rig.stored()] == [lost.key]


async def test_the_clock_closes_no_window_while_messages_are_on_their_way_into_the_journal(tmp_path: Path) -> None:
    clock = ManualClock(now=1000.0)
    async with stages(tmp_path, {"r": Scripted(summarize)}, windowed(every_s=10.0), clock=clock) as rig:
        rig.send(1)
        await rig.acked(1)
        held = rig.hold()
        rig.send(2)
        await until(lambda: len(held.works) == 1)

        await clock.advance(30.0)  # its commit takes longer than the window lasts
        rig.part().wake.arrived.set()
        await until(lambda: not rig.part().wake.arrived.is_set())
        await settle()
        assert not any(work.done for work in held.works)
        held.open.set()

        await rig.settled(received=2, handled=2)
        assert [data["values"] for data in await rig.data()] == [[1, 2]]


async def test_what_is_journaled_just_after_the_last_look_still_finds_its_window_open(tmp_path: Path) -> None:
    clock = ManualClock(now=1000.0)
    async with stages(tmp_path, {"r": Scripted(summarize)}, windowed(every_s=10.0), clock=clock) as rig:
        rig.send(1)
        await rig.acked(1)
        await until(lambda: not rig.part().wake.arrived.is_set())
        spool, wake = rig.parts.spool, rig.part().wake
        look, late = spool.journal, [RawMessage(topic="t/a", payload=b"2", time=1001.0, key="late", qos=1)]

        async def journal(route: str, *, after: int, limit: int) -> Sequence[JournalEntry]:
            entries = await look(route, after=after, limit=limit)
            if not entries and late:
                await spool.commit(Work(route="r", received=1, journal=[late.pop()]))
                wake.arrived.set()
            return entries

        spool.journal = journal  # type: ignore[method-assign]
        await clock.advance(10.0)
        wake.arrived.set()

        await rig.settled(received=2, handled=2)
        assert [data["values"] for data in await rig.data()] == [[1, 2]]


async def test_what_is_left_in_open_windows_is_answered_at_the_end_when_asked_for(tmp_path: Path) -> None:
    handler = Scripted(summarize)
    async with stages(tmp_path, {"r": handler}, windowed(max_messages=100), started=False) as rig:
        rig.start(flush=True)
        rig.send(1, 2)
        await rig.acked(2)

        await rig.stop()

    assert handler.batches == [[1, 2]]
    assert handler.is_stopped


def test_the_key_of_a_window_is_the_whole_route_the_topic_or_a_field() -> None:
    message = Message(topic="t/a", value={"device": 7}, time=0.0, key="k")

    assert window_key_of(WindowLimits(), message) == ""
    assert window_key_of(WindowLimits(key="topic"), message) == "t/a"
    assert window_key_of(WindowLimits(key="device"), message) == "7"
    with pytest.raises(RejectedError):
        window_key_of(WindowLimits(key="absent"), message)
