"""What comes again after a crash came before what is new, and is stored before it."""

from pathlib import Path

from gatewayd.ports import RawMessage, Work
from tests.sim.handlers import Scripted
from tests.sim.stages import stages


async def test_a_redelivered_message_is_stored_before_the_new_ones_behind_it(tmp_path: Path) -> None:
    async with stages(tmp_path, {"r": Scripted()}, started=False) as rig:
        rig.send(1, 2, dup=True)
        rig.send(3)
        rig.start()

        await rig.acked(3)

        assert [data["value"] for data in await rig.data()] == [1, 2, 3]


async def test_a_journal_entry_that_was_tried_before_is_handled_before_the_fresh_ones_behind_it(tmp_path: Path) -> None:
    journaled = {"mode": "journaled"}
    async with stages(tmp_path, {"r": Scripted()}, {"r": journaled}, started=False) as rig:
        raws = [RawMessage(topic="t/a", payload=b"%d" % n, time=1.0, key=f"k{n}") for n in (1, 2, 3)]
        ids = await rig.parts.spool.commit(Work(route="r", received=3, journal=raws))
        await rig.parts.spool.begin("r", ids[:2])  # as a life that was killed left it
        rig.start()

        await rig.settled(received=3, handled=3)

        assert [data["value"] for data in await rig.data()] == [1, 2, 3]
