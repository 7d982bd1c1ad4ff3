"""Intake: every message once into each route that wants it, and its receipt back when the last has passed."""

from pathlib import Path

from gatewayd.daemon import book_losses
from gatewayd.errors import SpoolFull
from gatewayd.ports import Work
from tests.sim.clock import settle
from tests.sim.handlers import Scripted
from tests.sim.stages import stages, until


async def test_a_message_on_two_routes_is_acknowledged_once_and_after_the_slower(tmp_path: Path) -> None:
    async with stages(tmp_path, {"fast": Scripted(), "slow": Scripted()}) as rig:
        held = rig.hold("slow")
        sent = rig.send(1)
        await rig.settled("fast", received=1, handled=1)
        await until(lambda: len(held.works) == 1)
        await settle()
        assert rig.source.acked == []

        held.open.set()

        assert await rig.acked(1) == sent
        await rig.settled("slow", received=1, handled=1)
        assert rig.source.acked == sent


async def test_a_redelivered_message_goes_only_to_the_route_that_has_not_passed_it(tmp_path: Path) -> None:
    async with stages(tmp_path, {"fast": Scripted(), "slow": Scripted()}) as rig:
        rig.hold("slow")
        message = rig.source.offer("t/a", b"1")
        await rig.settled("fast", received=1, handled=1)

    async with stages(tmp_path, {"fast": Scripted(), "slow": Scripted()}) as rig:
        again = rig.source.again(message)

        assert await rig.acked(1) == [again.key]

        await rig.settled("slow", received=1, handled=1)
        await rig.settled("fast", received=1, handled=1)
        assert len(await rig.stored("fast")) == 1


async def test_a_redelivered_message_that_every_route_has_passed_is_acknowledged_and_counted(tmp_path: Path) -> None:
    handler = Scripted()
    async with stages(tmp_path, {"r": handler}) as rig:
        message = rig.source.offer("t/a", b"1")
        await rig.acked(1)

        again = rig.source.again(message)

        assert await rig.acked(2) == [message.key, again.key]
        await rig.counted("gatewayd.messages.duplicates", n=1)
        assert await rig.message_book() == {"received": 1, "handled": 1}
        assert handler.batches == [[1]]


async def test_a_journaled_route_recognises_what_it_has_journaled(tmp_path: Path) -> None:
    async with stages(tmp_path, {"r": Scripted()}, {"r": {"mode": "journaled"}}) as rig:
        message = rig.source.offer("t/a", b"1")
        await rig.acked(1)

        rig.source.again(message)

        await rig.acked(2)
        await rig.settled(received=1, handled=1)


async def test_a_message_that_no_route_wants_is_acknowledged_and_stands_in_the_books(tmp_path: Path) -> None:
    async with stages(tmp_path, {"r": Scripted()}) as rig:
        sent = rig.send(1, topic="elsewhere")
        rig.send(2, topic="elsewhere", qos=0)

        assert await rig.acked(1) == sent
        await until(lambda: rig.source.n_waiting == 0)
        await settle()
        await book_losses(rig.parts)

        assert await rig.message_book("unrouted") == {"received": 2, "dropped": 2}
        await rig.counted("gatewayd.messages.dropped", "unrouted", "no_route", n=2)


async def test_a_redelivered_message_that_no_route_wants_is_no_duplicate(tmp_path: Path) -> None:
    async with stages(tmp_path, {"r": Scripted()}) as rig:
        rig.send(1, topic="elsewhere", dup=True)

        await rig.acked(1)

        await rig.counted("gatewayd.messages.dropped", "unrouted", "no_route", n=1)
        assert rig.telemetry.total("gatewayd.messages.duplicates") == 0


async def test_qos_0_that_does_not_fit_is_dropped_oldest_first_and_stands_in_the_books(tmp_path: Path) -> None:
    handler = Scripted()
    async with stages(tmp_path, {"r": handler}, {"r": {"max_queue": 4}}, started=False) as rig:
        held = rig.hold()
        held.open.set()
        rig.send(*range(10), qos=0)

        rig.start()

        await rig.settled(received=4, handled=4)
        await book_losses(rig.parts)
        assert [data["value"] for data in await rig.data()] == [6, 7, 8, 9]
        assert await rig.message_book() == {"received": 10, "handled": 4, "dropped": 6}
        await rig.counted("gatewayd.messages.received", "r", n=10)
        assert rig.source.acked == []


async def test_qos_1_that_does_not_fit_is_left_with_the_source(tmp_path: Path) -> None:
    limits = {"max_queue": 4, "batch": {"max_messages": 1}}
    async with stages(tmp_path, {"r": Scripted(inline=True)}, {"r": limits}) as rig:
        held = rig.hold()
        sent = rig.send(*range(100))
        await until(lambda: len(held.works) == 1)
        await settle()
        assert rig.source.n_waiting > 75

        held.open.set()

        assert await rig.acked(100) == sent
        assert await rig.message_book() == {"received": 100, "handled": 100}


async def test_losses_that_a_full_disk_does_not_take_are_kept_for_the_next_time(tmp_path: Path) -> None:
    async with stages(tmp_path, {"r": Scripted()}) as rig:
        spool, commit = rig.parts.spool, rig.parts.spool.commit
        rig.parts.losses.add("r", "queue_full", 3)

        async def full(work: Work) -> list[int]:
            raise SpoolFull("the file system takes no more")

        spool.commit = full  # type: ignore[method-assign,assignment]
        await book_losses(rig.parts)
        rig.parts.losses.add("r", "queue_full")
        spool.commit = commit  # type: ignore[method-assign]
        await book_losses(rig.parts)

        assert await rig.message_book() == {"received": 4, "dropped": 4}
