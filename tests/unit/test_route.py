"""A direct route: acknowledged after the commit, retried, buried, and never the wrong message."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gatewayd.api import Batch, Rejection, Result
from gatewayd.errors import GivesWay, RejectedError, TransientError
from tests.sim.clock import ManualClock, settle
from tests.sim.handlers import Scripted, echo, failing, raising_on, summarize
from tests.sim.stages import stages, until


async def test_a_message_is_acknowledged_after_its_result_is_on_disk_and_not_before(tmp_path: Path) -> None:
    async with stages(tmp_path, {"r": Scripted()}) as rig:
        held = rig.hold()
        sent = rig.send(1, 2)
        await until(lambda: sum(work.received for work in held.works) == 2)
        await settle()
        assert rig.source.acked == []

        held.open.set()

        assert await rig.acked(2) == sent
        assert [data["value"] for data in await rig.data()] == [1, 2]
        assert await rig.message_book() == {"received": 2, "handled": 2}


async def test_what_waits_for_its_commit_is_bounded(tmp_path: Path) -> None:
    batch = {"batch": {"max_messages": 1}}
    async with stages(tmp_path, {"r": Scripted(inline=True)}, {"r": batch}) as rig:
        held = rig.hold()
        rig.send(*range(50))
        await until(lambda: len(held.works) == 1)
        await settle()

        n_handled = len(rig.part().context.runner.handler.batches)  # type: ignore[attr-defined]

        held.open.set()
        assert n_handled <= 10  # one group under way, one waiting, one in hand
        assert len(await rig.acked(50)) == 50


async def test_a_payload_that_does_not_decode_is_buried_and_its_neighbors_are_answered(tmp_path: Path) -> None:
    json_only = {"payload": {"format": "json"}}
    async with stages(tmp_path, {"r": Scripted()}, {"r": json_only}) as rig:
        rig.send(1)
        rig.source.offer("t/a", b"{not json")
        rig.send(2)

        await rig.acked(3)

        assert [data["value"] for data in await rig.data()] == [1, 2]
        assert rig.dead() == [("decode", b"{not json")]
        assert await rig.message_book() == {"received": 3, "handled": 2, "dead": 1}
        await rig.counted("gatewayd.messages.buried", "r", "decode", n=1)


@pytest.mark.parametrize("mode", ["direct", "journaled"])
async def test_a_payload_above_the_limit_is_buried_undecoded(tmp_path: Path, mode: str) -> None:
    limit = {"max_payload_bytes": 1024}
    async with stages(tmp_path, {"r": Scripted()}, {"r": {"mode": mode}}, source=limit) as rig:
        rig.source.offer("t/a", b"9" * 1025)
        rig.send(1)

        await rig.acked(2)
        await rig.settled(received=2, handled=1, dead=1)

        assert rig.dead() == [("too_large", b"9" * 1025)]


async def test_a_bug_of_the_handler_buries_the_message_it_trips_over_alone(tmp_path: Path) -> None:
    handler = Scripted(raising_on(lambda message: message.value == "bad", KeyError("bad")))
    async with stages(tmp_path, {"r": handler}) as rig:
        rig.send(1, "bad", 2)

        await rig.acked(3)

        assert [data["value"] for data in await rig.data()] == [1, 2]
        assert rig.dead() == [("handler_error", b'"bad"')]
        assert await rig.message_book() == {"received": 3, "handled": 2, "dead": 1}


def nonsense(batch: Batch) -> list[Any]:
    """Answers that no spool could store, by what the message says."""
    message = batch.messages[0]
    stranger = type(message)(topic="x", value=1, time=0.0, key="x")
    return {
        "kind": [Result(kind=5, data={}, message=message)],  # type: ignore[arg-type]
        "data": [Result(kind="k", data=[1], message=message)],  # type: ignore[arg-type]
        "message": [Result(kind="k", data={}, message="m")],  # type: ignore[arg-type]
        "stranger": [Rejection(message=stranger, reason="r")],
        "reason": [Rejection(message=message, reason=7)],  # type: ignore[arg-type]
        "exit": [message],
    }[message.value]


@pytest.mark.parametrize("what", ["kind", "data", "message", "stranger", "reason", "exit"])
async def test_an_answer_that_no_spool_could_store_is_a_bug_of_the_handler_and_not_ours(
    tmp_path: Path, what: str
) -> None:
    handler = Scripted(lambda batch: echo(batch) if batch.messages[0].value == 1 else nonsense(batch))
    async with stages(tmp_path, {"r": handler}, {"r": {"batch": {"max_messages": 1}}}) as rig:
        rig.send(what, 1)

        await rig.acked(2)

        assert [reason for reason, _ in rig.dead()] == ["handler_error"]
        assert [data["value"] for data in await rig.data()] == [1]


async def test_a_handler_that_exits_buries_the_message_and_not_the_daemon(tmp_path: Path) -> None:
    def leave(batch: Batch) -> list[Result]:
        raise SystemExit(1)

    async with stages(tmp_path, {"r": Scripted(leave)}) as rig:
        rig.send(1)

        await rig.acked(1)

        assert [reason for reason, _ in rig.dead()] == ["handler_error"]


async def test_a_passing_failure_is_retried_with_backoff_and_then_answered(tmp_path: Path) -> None:
    handler = Scripted(failing(TransientError("busy"), TransientError("busy")))
    async with stages(tmp_path, {"r": handler}) as rig:
        rig.part().context.draw = lambda: 0.5
        rig.send(1)
        await until(lambda: len(handler.batches) == 1)
        await settle()

        await rig.clock.advance(0.49)
        assert len(handler.batches) == 1
        await rig.clock.advance(0.02)
        await until(lambda: len(handler.batches) == 2)
        await rig.clock.advance(1.01)

        await rig.acked(1)
        assert len(handler.batches) == 3
        assert await rig.message_book() == {"received": 1, "handled": 1}


async def test_while_the_box_has_no_room_for_the_call_the_message_waits_however_often(tmp_path: Path) -> None:
    handler = Scripted(failing(*[GivesWay("hot", reason="hot")] * 9))
    async with stages(tmp_path, {"r": handler}) as rig:
        rig.send(1)
        for n_calls in range(1, 10):
            await until(lambda n=n_calls: len(handler.batches) >= n)  # type: ignore[misc]
            await settle()
            await rig.clock.advance(10)

        await rig.acked(1)

        assert await rig.message_book() == {"received": 1, "handled": 1}


async def test_a_failure_that_does_not_pass_ends_in_a_dead_letter_without_another_wait(tmp_path: Path) -> None:
    handler = Scripted(failing(*[TransientError("busy")] * 9))
    async with stages(tmp_path, {"r": handler}, {"r": {"max_attempts": 1}}) as rig:
        rig.send(1)

        await rig.acked(1)

        assert rig.dead() == [("attempts", b"1")]
        assert len(handler.batches) == 1


async def test_a_batch_that_is_rejected_is_tried_one_by_one(tmp_path: Path) -> None:
    handler = Scripted(raising_on(lambda message: message.value == 2, RejectedError("no", reason="odd")))
    async with stages(tmp_path, {"r": handler}) as rig:
        rig.send(1, 2, 3)

        await rig.acked(3)

        assert rig.dead() == [("odd", b"2")]
        assert [data["value"] for data in await rig.data()] == [1, 3]


async def test_suspects_are_handled_together_the_first_time_and_counted_before(tmp_path: Path) -> None:
    handler = Scripted()
    async with stages(tmp_path, {"r": handler}, started=False) as rig:
        counted: list[Sequence[bool]] = []
        spool = rig.parts.spool
        first_attempts = spool.first_attempts

        async def count(identities: Sequence[bytes]) -> Sequence[bool]:
            assert ["one", "two"] not in handler.batches
            counted.append(await first_attempts(identities))
            return counted[-1]

        spool.first_attempts = count  # type: ignore[method-assign]
        fresh = rig.source.offer("t/a", b"1")
        suspects = [rig.source.offer("t/b", payload, dup=True) for payload in (b'"one"', b'"two"')]
        rig.start()

        await rig.acked(3)

        assert [1] in handler.batches
        assert ["one", "two"] in handler.batches
        assert counted == [[True, True]]
        assert {fresh.key, *(suspect.key for suspect in suspects)} <= set(rig.source.acked)


async def test_a_suspect_that_was_tried_before_is_handled_alone(tmp_path: Path) -> None:
    handler = Scripted()
    async with stages(tmp_path, {"r": handler}, started=False) as rig:
        tried = rig.source.offer("t/b", b'"tried"', dup=True)
        for payload in (b'"new"', b'"newer"'):
            rig.source.offer("t/b", payload, dup=True)
        tag = rig.part().context.tag
        await rig.parts.spool.attempt(tried.identity + tag)
        rig.start()

        await rig.acked(3)

        assert handler.batches == [["tried"], ["new", "newer"]]
        assert await rig.parts.spool.attempt(tried.identity + tag) == 1  # forgotten once it was answered


async def test_a_suspect_whose_attempts_are_used_up_is_buried_untried(tmp_path: Path) -> None:
    async with stages(tmp_path, {"r": Scripted()}, started=False) as rig:
        poison = rig.source.offer("t/a", b'"poison"', dup=True)
        for _ in range(3):  # three processes that died of it
            await rig.parts.spool.attempt(poison.identity + rig.part().context.tag)
        rig.send(1)
        rig.start()

        await rig.acked(2)

        assert rig.dead() == [("attempts", b'"poison"')]
        assert rig.part().context.runner.handler.batches == [[1]]  # type: ignore[attr-defined]
        assert await rig.message_book() == {"received": 2, "handled": 1, "dead": 1}


async def test_a_full_spool_holds_messages_back_and_later_goes_on(tmp_path: Path) -> None:
    block, small = {"when_full": "block", "include_input": True}, {"max_bytes": 4 << 20}
    async with stages(tmp_path, {"r": Scripted()}, {"r": {**block, "batch": {"max_messages": 1}}}, spool=small) as rig:
        payload = json.dumps("x" * 100_000).encode()
        sent = [rig.source.offer("t/a", payload) for _ in range(60)]
        await until(lambda: rig.source.n_waiting == 0)
        await until(lambda: len(rig.part().context.runner.handler.batches) >= len(rig.source.acked) + 1)  # type: ignore[attr-defined]
        while rig.clock._sleepers == []:  # until a commit waits for room
            await settle()
        n_before = len(rig.source.acked)
        assert 0 < n_before < len(sent)

        while len(rig.source.acked) < len(sent):
            while (lease := await rig.parts.spool.try_lease("cloud", "r", limit=1000, max_bytes=1 << 30)) is not None:
                await rig.parts.spool.ack(lease, refused={})
            await rig.clock.advance(0.5)

        assert rig.source.acked == [message.key for message in sent]
        assert await rig.message_book() == {"received": 60, "handled": 60}


async def test_live_results_go_out_before_the_commit(tmp_path: Path) -> None:
    async with stages(tmp_path, {"r": Scripted()}, {"r": {"live": True}}) as rig:
        held = rig.hold()
        rig.send(1)

        await until(lambda: len(rig.source.published) == 1)

        topic, payload, _ = rig.source.published[0]
        assert topic == "gatewayd/gw/results/r"
        assert json.loads(payload)["value"] == 1
        assert rig.source.acked == []
        held.open.set()
        await rig.acked(1)


async def test_a_live_result_that_finds_no_bus_is_counted_and_delivered_all_the_same(tmp_path: Path) -> None:
    async with stages(tmp_path, {"r": Scripted()}, {"r": {"live": True}}) as rig:
        rig.source.takes_publishes = False
        rig.send(1, 2)

        await rig.acked(2)

        await rig.counted("gatewayd.live.failed", "r", n=2)
        assert rig.telemetry.total("gatewayd.live.published", "r") == 0
        assert len(await rig.stored()) == 2


async def test_results_about_a_batch_and_counts_come_once_a_batch(tmp_path: Path) -> None:
    handler = Scripted(summarize)
    async with stages(tmp_path, {"r": handler}, started=False) as rig:
        rig.send(1, 2, 3)
        rig.start()

        await rig.acked(3)

        assert [data["values"] for data in await rig.data()] == [[1, 2, 3]]
        await rig.counted("gatewayd.messages.received", "r", n=3)
        await rig.counted("gatewayd.messages.handled", "r", n=3)
        await rig.counted("gatewayd.results.spooled", "r", n=1)


async def test_a_handler_that_is_called_from_its_route_and_its_journal_is_never_called_twice_at_once(
    tmp_path: Path,
) -> None:
    async with stages(tmp_path, {"r": Scripted()}, {"r": {"mode": "journaled"}}, started=False) as before:
        before.send(*range(20))
        await journal_only(before)
    async with stages(tmp_path, {"r": Scripted()}, {"r": {"batch": {"max_messages": 2}}}, clock=ManualClock()) as rig:
        rig.send(*range(20, 40))

        await rig.settled(received=40, handled=40)

        assert sorted(data["value"] for data in await rig.data()) == list(range(40))


async def journal_only(rig: Any) -> None:
    """Journal everything and lose power before any of it is handled."""
    held = Scripted()
    held.starts = [TransientError("not yet")] * 1000
    from gatewayd.answer import HandlerRunner

    rig.part().context.runner = HandlerRunner("r", held)
    rig.start()
    await rig.acked(20)


async def test_without_spans_of_our_own_a_result_keeps_the_context_its_message_came_with(tmp_path: Path) -> None:
    theirs = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with stages(tmp_path, {"r": Scripted()}) as rig:
        rig.send(1, properties=(("traceparent", theirs),))
        rig.send(2)

        await rig.acked(2)

        assert [result.traceparent for result in await rig.stored()] == [theirs, ""]


async def test_a_batch_whose_first_message_is_answered_after_its_budget_is_counted(tmp_path: Path) -> None:
    clock = ManualClock()

    def slow(batch: Batch) -> list[Result]:
        clock._time += 2.0  # while it is called: nobody else runs
        return echo(batch)

    keys = {"late": {"batch": {"budget_ms": 1000.0}}, "none": {}, "ample": {"batch": {"budget_ms": 60_000.0}}}
    handlers = {name: Scripted(slow, inline=True) for name in keys}
    async with stages(tmp_path, handlers, keys, clock=clock) as rig:
        rig.send(1)
        await rig.acked(1)

        late = {name: rig.telemetry.total("gatewayd.batches.late", name) for name in keys}

    assert late == {"late": 1.0, "none": 0.0, "ample": 0.0}
