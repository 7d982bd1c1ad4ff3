"""The daemon's life: a drain that finishes what was begun and has an end, handlers that do not start or stop."""

import asyncio
import threading
import time
from pathlib import Path

import pytest

from gatewayd.api import Batch, Result
from gatewayd.errors import ModelError
from gatewayd.spool.reader import SpoolReader
from tests.sim.clock import settle
from tests.sim.handlers import Scripted, echo, summarize
from tests.sim.stages import stages, until


async def test_a_stop_finishes_what_was_taken_and_acknowledges_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatewayd.daemon._UPLINK_PATIENCE_S", 0.0)
    handler = Scripted()
    async with stages(tmp_path, {"r": handler}) as rig:
        sent = rig.send(*range(100))
        await until(lambda: rig.source.n_waiting == 0)

        await rig.stop()

        assert rig.source.acked == sent
        assert rig.source.is_paused
        assert handler.is_stopped


async def test_a_stop_has_an_end_though_a_handler_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatewayd.daemon.HANDLER_STOP_S", 0.05)
    free = threading.Event()

    def hang(batch: Batch) -> list[Result]:
        free.wait()
        return []

    async with stages(tmp_path, {"r": Scripted(hang)}, gateway={"id": "gw", "drain_s": 0.1}) as rig:
        rig.send(1)
        await until(lambda: rig.part().context.runner.busy_since_s is not None)
        began_s = time.monotonic()

        await rig.stop()

        assert time.monotonic() - began_s < 5
        assert rig.source.acked == []
        free.set()


async def test_windows_stay_in_the_journal_over_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatewayd.daemon._UPLINK_PATIENCE_S", 0.0)
    routes = {"r": {"window": {"max_messages": 3}, "mode": "auto"}}
    async with stages(tmp_path, {"r": Scripted(summarize)}, routes) as rig:
        rig.send(1, 2)
        await rig.acked(2)
        await rig.stop()

    async with stages(tmp_path, {"r": Scripted(summarize)}, routes) as rig:
        rig.send(3)
        await rig.settled(received=3, handled=3)


async def test_what_was_dropped_last_is_in_the_books_after_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatewayd.daemon._UPLINK_PATIENCE_S", 0.0)
    async with stages(tmp_path, {"r": Scripted()}) as rig:
        rig.parts.losses.add("r", "queue_full", 5)

        await rig.stop()

        with SpoolReader.open(rig.parts.ground.paths.spool) as reader:
            book = reader.books().messages["r"]
        assert (book["received"], book["dropped"]) == (5, 5)


async def test_a_handler_whose_start_raises_anything_makes_its_route_wait_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatewayd.daemon.full_jitter_s", lambda *_, **__: 3600.0)
    bad = Scripted()
    bad.starts = [ZeroDivisionError("a bug")] * 10
    async with stages(tmp_path, {"bad": bad, "good": Scripted(inline=True)}) as rig:
        rig.send(1)

        await rig.acked(1)
        await rig.settled("good", received=1, handled=1)

        assert await rig.message_book("bad") == {"received": 1, "journaled": 1}
        assert rig.part("bad").state == "waiting for its model"


async def test_a_handler_whose_stop_raises_does_not_keep_the_spool_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatewayd.daemon._UPLINK_PATIENCE_S", 0.0)
    handler = Scripted()

    def stop() -> None:
        raise RuntimeError("a bug")

    handler.stop = stop  # type: ignore[method-assign]
    async with stages(tmp_path, {"r": handler}) as rig:
        await until(lambda: rig.part().state == "running")
        await rig.stop()

    async with stages(tmp_path, {"r": Scripted()}) as rig:  # its lock is free
        rig.send(1)
        await rig.acked(1)


async def test_a_handler_that_was_never_started_is_never_stopped(tmp_path: Path) -> None:
    handler = Scripted()
    handler.starts = [ModelError("not there")] * 10
    async with stages(tmp_path, {"r": handler}) as rig:
        await until(lambda: rig.part().state == "waiting for its model")

    assert not handler.is_stopped


async def test_an_inline_handler_is_started_off_the_loop(tmp_path: Path) -> None:
    where: list[int] = []
    handler = Scripted(echo, inline=True)
    handler.start = lambda models: (where.append(threading.get_ident()), setattr(handler, "is_started", True))  # type: ignore[assignment,method-assign]
    async with stages(tmp_path, {"r": handler}) as rig:
        rig.send(1)
        await rig.acked(1)
        await settle()

    assert where != [threading.get_ident()]
    assert asyncio.get_running_loop().is_running()
