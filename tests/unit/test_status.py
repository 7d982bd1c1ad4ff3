"""What a running daemon says of itself: /status and the gauges, from memory and from looks beside the writer."""

import asyncio
from pathlib import Path

import apsw
import msgspec
import pytest

from gatewayd.config import schema
from gatewayd.errors import ModelError
from gatewayd.quota import Tally
from gatewayd.status import Depths, observe, run_depths, status
from gatewayd.throttle import Throttle
from tests.sim.clock import ManualClock, settle
from tests.sim.handlers import Scripted
from tests.sim.sink import MemorySink
from tests.sim.stages import stages, until


async def test_the_status_says_what_runs_and_how_much_waits(tmp_path: Path) -> None:
    async with stages(tmp_path, {"r": Scripted(), "j": Scripted()}, {"j": {"mode": "journaled"}}) as rig:
        rig.send(1, 2)
        await rig.acked(2)
        await rig.settled("j", received=2, handled=2)
        depths = Depths()
        look = asyncio.ensure_future(run_depths(depths, rig.parts.ground.paths.spool))
        await until(lambda: depths.pending == {"cloud": 4})

        said = msgspec.json.decode(msgspec.json.encode(status(rig.parts, depths)))

        assert said["gateway"] == "gw"
        assert said["broker"]["connected"] is True
        assert said["broker"]["subscribed"] is True
        assert {name: route["durable_point"] for name, route in said["routes"].items()} == {
            "r": "results",
            "j": "journal",
        }
        assert said["routes"]["r"] | {"waiting": 0} == said["routes"]["r"]
        assert said["sinks"] == {}
        assert said["spool"]["pending"] == {"cloud": 4}
        assert said["spool"]["used_bytes"] > 0
        look.cancel()


async def test_a_route_that_waits_for_its_model_says_so(tmp_path: Path) -> None:
    handler = Scripted()
    handler.starts = [ModelError("not there")] * 10
    async with stages(tmp_path, {"r": handler}) as rig:
        await until(lambda: rig.part().state == "waiting for its model")

        assert status(rig.parts, Depths())["routes"]["r"]["state"] == "waiting for its model"


async def test_the_gauges_are_those_numbers(tmp_path: Path) -> None:
    async with stages(tmp_path, {"r": Scripted()}) as rig:
        depths = Depths(pending={"cloud": 3}, journaled={"r": 2}, dead_letters=1, oldest_age_s=5.0, wal_bytes=9)
        observe(rig.parts, depths)

        page = (await asyncio.to_thread(rig.telemetry.prometheus)).decode()

        for line in (
            'gatewayd_spool_pending{sink="cloud"} 3.0',
            'gatewayd_journal_messages{route="r"} 2.0',
            "gatewayd_dead_letters_kept 1.0",
            "gatewayd_spool_oldest_age_seconds 5.0",
            "gatewayd_spool_wal_bytes 9.0",
            'gatewayd_queue_messages{route="r"} 0.0',
        ):
            assert line in page
        memory = next(line for line in page.splitlines() if line.startswith("gatewayd_process_memory_bytes "))
        assert float(memory.split()[1]) > 10e6


@pytest.mark.parametrize("failure", [apsw.BusyError("locked"), apsw.FullError("no room")])
async def test_a_look_that_fails_keeps_the_old_figures_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: apsw.Error
) -> None:
    monkeypatch.setattr("gatewayd.status._LOOK_S", 0.0)
    looks: list[int] = []

    def look(depths: Depths, _: Path) -> None:
        looks.append(1)
        if len(looks) < 3:
            raise failure
        depths.dead_letters = 7

    monkeypatch.setattr("gatewayd.status._look", look)
    depths = Depths(dead_letters=4)
    task = asyncio.ensure_future(run_depths(depths, tmp_path / "absent"))

    await until(lambda: depths.dead_letters == 7)

    await settle()
    assert not task.done()
    task.cancel()


async def test_a_sink_says_what_it_has_sent_and_that_its_month_is_used_up(tmp_path: Path) -> None:
    async with stages(tmp_path, {"r": Scripted()}) as rig:
        clock = ManualClock()
        sink = MemorySink(clock)
        config = schema.HttpSink(url="http://x/", max_bytes_per_month=1000)
        throttle = Throttle.of("cloud", sink, config, book=Tally(), priorities={}, clock=clock, report=rig.telemetry)
        rig.parts.sinks["cloud"], rig.parts.throttles["cloud"] = sink, throttle
        observe(rig.parts, Depths())
        fare = await throttle.enter("r", (), is_live=False, until_s=clock.monotonic() + 1)
        assert fare is not None
        sink.sent_bytes += 1500
        throttle.leave(fare)
        waiting = asyncio.ensure_future(throttle.wait())
        await settle()

        said = status(rig.parts, Depths())["sinks"]["cloud"]
        page = (await asyncio.to_thread(rig.telemetry.prometheus)).decode()
        waiting.cancel()

    assert said["state"] == "over its monthly cap"
    assert (said["today_bytes"], said["month_bytes"], said["max_bytes_per_month"]) == (1500, 1500, 1000)
    assert 'gatewayd_uplink_wire_bytes_total{sink="cloud"} 1500.0' in page
    assert 'gatewayd_uplink_month_bytes{sink="cloud"} 1500.0' in page
    assert 'gatewayd_uplink_quota_bytes{sink="cloud"} 1000.0' in page
    assert 'gatewayd_sink_outages_total{reason="quota",sink="cloud"} 1.0' in page


async def test_what_is_written_is_counted(tmp_path: Path) -> None:
    async with stages(tmp_path, {"r": Scripted()}) as rig:
        observe(rig.parts, Depths())
        rig.send(1, 2)
        await rig.acked(2)

        page = (await asyncio.to_thread(rig.telemetry.prometheus)).decode()
        figures = dict(line.split() for line in page.splitlines() if line.startswith("gatewayd_") and "{" not in line)

    assert float(figures["gatewayd_spool_written_bytes_total"]) > 4096
    assert "gatewayd_process_written_bytes_total" in figures
