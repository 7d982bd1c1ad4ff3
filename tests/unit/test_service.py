"""Proof of life: what beats, what rests, and when systemd's watchdog is no longer fed."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from gatewayd.config import read_environment
from gatewayd.liveness import Liveness
from gatewayd.service import beat_loop, beat_spool, run_watchdog, watch_handlers
from gatewayd.systemd import Notifier
from tests.sim.clock import ManualClock, settle
from tests.sim.handlers import Scripted
from tests.sim.stages import stages, until


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Callable[[], list[str]]]:
    """What came over the notification socket since the last call."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)

        def heard() -> list[str]:
            messages: list[str] = []
            with suppress(BlockingIOError):
                while True:
                    messages.append(listener.recv(4096).decode())
            return messages

        yield heard


async def fed_while(liveness: Liveness, clock: ManualClock, tmp_path: Path) -> asyncio.Task[None]:
    environment = read_environment({"WATCHDOG_USEC": "2000000"})
    notifier = Notifier(str(tmp_path / "notify"))
    task = asyncio.ensure_future(run_watchdog(clock, liveness, notifier, environment))
    await settle()
    return task


async def test_the_watchdog_is_fed_at_half_its_time_and_only_while_nothing_is_stuck(
    tmp_path: Path, systemd: Callable[[], list[str]]
) -> None:
    clock, liveness = ManualClock(), Liveness()
    liveness.beat("spool", clock.monotonic(), limit_s=2.5)
    task = await fed_while(liveness, clock, tmp_path)
    assert systemd() == ["WATCHDOG=1"]
    await clock.advance(2.0)
    assert systemd() == ["WATCHDOG=1"] * 2

    await clock.advance(5.0)  # the spool's writer does not answer
    assert systemd() == []
    liveness.beat("spool", clock.monotonic(), limit_s=2.5)
    await clock.advance(1.0)

    assert systemd() == ["WATCHDOG=1"]
    task.cancel()


async def test_nobody_is_fed_where_nobody_waits(tmp_path: Path, systemd: Callable[[], list[str]]) -> None:
    await run_watchdog(ManualClock(), Liveness(), Notifier(str(tmp_path / "notify")), read_environment({}))

    assert systemd() == []


async def test_a_writer_that_does_not_answer_is_stuck_and_the_loop_beside_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatewayd.service._BEAT_S", 0.0)
    async with stages(tmp_path, {"r": Scripted()}) as rig:
        answers = asyncio.Event()

        async def hang() -> None:
            await answers.wait()

        rig.parts.spool.ping = hang  # type: ignore[method-assign]
        liveness = Liveness()
        tasks = [asyncio.ensure_future(beat(rig.parts, liveness)) for beat in (beat_spool, beat_loop)]
        await settle()

        await rig.clock.advance(59.0)
        assert liveness.stuck(rig.clock.monotonic()) is None
        await rig.clock.advance(2.0)
        assert "spool" in (liveness.stuck(rig.clock.monotonic()) or "")
        answers.set()
        await settle()
        assert liveness.stuck(rig.clock.monotonic()) is None
        for task in tasks:
            task.cancel()


@pytest.mark.parametrize(("keys", "limit_s"), [({}, 60), ({"mode": "journaled"}, 1800), ({"max_call_s": 5.0}, 5)])
async def test_a_handler_is_stuck_when_a_call_takes_longer_than_its_route_allows(
    tmp_path: Path, keys: dict[str, Any], limit_s: float
) -> None:
    async with stages(tmp_path, {"r": Scripted()}, {"r": keys}) as rig:
        runner, liveness = rig.part().context.runner, Liveness()
        runner._busy_since_s = 1000.0
        watch_handlers(rig.parts, liveness)

        assert liveness.stuck(1000.0 + limit_s - 1) is None
        assert "handler[r]" in (liveness.stuck(1000.0 + limit_s + 1) or "")
        runner._busy_since_s = None
        watch_handlers(rig.parts, liveness)
        assert liveness.stuck(1000.0 + limit_s + 1) is None


async def test_a_handler_is_busy_only_while_it_is_called(tmp_path: Path) -> None:
    async with stages(tmp_path, {"r": Scripted()}) as rig:
        rig.send(1)
        await rig.acked(1)

        await until(lambda: rig.part().context.runner.busy_since_s is None)
