"""The daemon's life: start right to left, run, stop left to right with a deadline.

Everything runs in one TaskGroup: a bug of ours ends the process, systemd starts a clean one, and nothing durable is
lost, because cancellation here is no different from losing power.
"""

import asyncio
import random
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from gatewayd.answer import HANDLER_STOP_S
from gatewayd.errors import ConfigError, ModelError, SpoolFull
from gatewayd.intake import run_intake
from gatewayd.journal import run_from_journal
from gatewayd.ports import Work
from gatewayd.retry import full_jitter_s
from gatewayd.route import run_direct, run_journaling
from gatewayd.uplink import UplinkConfig, run_uplink
from gatewayd.wiring import Parts, RoutePart

log = structlog.get_logger(__name__)

_LOSSES_EVERY_S = 1.0  # how often QoS 0 losses go into the books
_MODEL_RETRY_MAX_S = 60.0


@dataclass(slots=True)
class Life:
    """What asks a running daemon for something."""

    stop: asyncio.Event
    reload: asyncio.Event

    @classmethod
    def begin(cls) -> "Life":
        """Nothing asked for yet."""
        return cls(asyncio.Event(), asyncio.Event())

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """SIGTERM and SIGINT drain, SIGHUP reloads."""
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop.set)
        loop.add_signal_handler(signal.SIGHUP, self.reload.set)


async def run_parts(
    parts: Parts,
    life: Life,
    *,
    started: Callable[[], None] = lambda: None,
    stopping: Callable[[], None] = lambda: None,
    flush: bool = False,
) -> None:
    """Start the parts, run until `life.stop`, drain, stop. `flush`: close windows at the end, do not keep them."""
    async with asyncio.TaskGroup() as tasks:
        running = [
            *_start_uplinks(parts, tasks),
            *[tasks.create_task(run_route(parts, part), name=f"route[{name}]") for name, part in parts.routes.items()],
            tasks.create_task(_book_losses(parts), name="losses"),
        ]
        inward = [
            tasks.create_task(parts.source.run(), name="source"),
            tasks.create_task(
                run_intake(parts.source, parts.router, parts.spool.was_seen, parts.losses, parts.ground.telemetry),
                name="intake",
            ),
        ]
        started()
        await life.stop.wait()
        stopping()
        await drain(parts, flush=flush)
        for task in [*inward, *running]:
            task.cancel()


def _start_uplinks(parts: Parts, tasks: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
    uplinks = []
    for name, sink in parts.sinks.items():
        routes = parts.sink_routes(name)
        if routes:
            config = _uplink_config(parts, name)
            uplink = run_uplink(
                name,
                routes,
                parts.spool,
                sink,
                config,
                draw=random.random,
                clock=parts.ground.clock,
                report=parts.ground.telemetry,
                throttle=parts.throttles[name],
                crash=parts.ground.crash,
            )
            uplinks.append(tasks.create_task(uplink, name=f"uplink[{name}]"))
    return uplinks


def _uplink_config(parts: Parts, sink: str) -> UplinkConfig:
    config = parts.ground.config
    live_first = [name for name, route in config.routes.items() if sink in route.sinks and route.drain == "live_first"]
    return UplinkConfig.of(
        config.sinks[sink], repeat_s=config.log.repeat_s, lease_s=config.spool.lease_s, live_first=live_first
    )


async def run_route(parts: Parts, part: RoutePart) -> None:
    """One route until cancelled. A direct route whose model does not load journals until it does."""
    context = part.context
    direct = not part.journaled and await _start_handler(parts, part)
    async with asyncio.TaskGroup() as tasks:
        if direct:
            tasks.create_task(run_direct(context, part.queue), name=f"direct[{context.name}]")
        else:
            part.journaled = True  # also one that was to be direct: it stays so until the next start
            journaling = run_journaling(context, part.queue, part.wake.arrived)
            tasks.create_task(journaling, name=f"journaling[{context.name}]")
            await _start_handler_patiently(parts, part)
        # A direct route works here on what an earlier config or a missing model left in its journal.
        tasks.create_task(run_from_journal(context, part.queue, part.wake, part.idle), name=f"journal[{context.name}]")
        if (cascade := parts.cascades.parts.get(context.name)) is not None:
            from gatewayd.cascade.escalation import run_cascade  # not at the top: a gateway without tiers starts faster

            tasks.create_task(run_cascade(cascade.escalations), name=f"cascade[{context.name}]")
        part.state, part.problem = "running", ""


async def _start_handler(parts: Parts, part: RoutePart) -> bool:
    context, runner = part.context, part.context.runner
    try:
        await runner.start(parts.models_of(context.name))
    except (ModelError, ConfigError) as error:
        part.state, part.problem = "waiting for its model", str(error)
        log.error(
            "route waits for its model, messages are journaled",
            route=context.name,
            cause=str(error),
            hint=error.hint or "see `gatewayd models ls`",
        )
        return False
    if runner is not context.runner:  # a reload has put another in its place meanwhile
        await runner.stop(HANDLER_STOP_S)
        return await _start_handler(parts, part)
    return True


async def _start_handler_patiently(parts: Parts, part: RoutePart) -> None:
    attempt = 1
    while not await _start_handler(parts, part):
        delay_s = 1.0 + full_jitter_s(attempt, draw=random.random(), cap_s=_MODEL_RETRY_MAX_S)
        await asyncio.sleep(delay_s)
        attempt += 1


async def _book_losses(parts: Parts) -> None:
    """QoS 0 messages dropped under overload go into the books once a second, not one by one."""
    while True:
        await asyncio.sleep(_LOSSES_EVERY_S)
        await book_losses(parts)


async def book_losses(parts: Parts) -> None:
    """Put what was dropped since the last call into the books. What a full disk does not take waits for the next."""
    while (loss := parts.losses.take()) is not None:
        route, reason, n_dropped = loss
        try:
            await parts.spool.commit(Work(route=route, received=n_dropped, dropped={reason: n_dropped}))
        except SpoolFull:
            parts.losses.add(route, reason, n_dropped)
            return


async def drain(parts: Parts, *, flush: bool) -> None:
    """Let the stages finish what they hold, left to right, within `gateway.drain_s`."""
    await parts.source.pause()
    try:
        async with asyncio.timeout(parts.ground.config.gateway.drain_s):
            await _until(lambda: all(part.queue.is_idle for part in parts.routes.values()))
            if flush:
                await flush_windows(parts)
            await _finish_calls(parts)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_drain_uplinks(parts), name="drain uplinks")
                tasks.create_task(_finish_questions(parts), name="finish questions")
    except TimeoutError:
        waiting = [name for name, part in parts.routes.items() if not part.queue.is_idle]
        log.warning(
            "drain deadline reached", routes=waiting, hint="unacknowledged messages come again at the next start"
        )
    await book_losses(parts)


async def _finish_calls(parts: Parts) -> None:
    """Wait for the handler calls that journaled routes are in; none is begun after that."""
    async with asyncio.TaskGroup() as tasks:
        for name, part in parts.routes.items():
            tasks.create_task(part.context.in_call.acquire(), name=f"finish[{name}]")
        for name, cascade in parts.cascades.parts.items():
            for tier in cascade.slow:
                tasks.create_task(cascade.ladder.calls[tier.name].acquire(), name=f"finish[{name}.{tier.name}]")


async def _finish_questions(parts: Parts) -> None:
    """Give tiers outside of this box a moment to answer what they were asked. What is cut short is asked again: it was
    no attempt, and may have to be paid for twice."""
    calls = [cascade.ladder.calls[name] for cascade in parts.cascades.parts.values() for name in cascade.far]
    with suppress(TimeoutError):
        async with asyncio.timeout(_UPLINK_PATIENCE_S):
            await _until(lambda: not any(call.locked() for call in calls))


async def flush_windows(parts: Parts) -> None:
    """Close every open window and wait until each is answered."""
    for part in parts.routes.values():
        part.idle.clear()
        part.wake.flush.set()
        part.wake.arrived.set()
    for part in parts.routes.values():
        if part.state == "running":
            await part.idle.wait()
    await _until(lambda: parts.cascades.is_settled)


async def close_windows(parts: Parts) -> None:
    """Close every window that is open now and wait until each is answered; then windows go on as they were."""
    try:
        await flush_windows(parts)
    finally:
        for part in parts.routes.values():
            part.wake.flush.clear()


_UPLINK_LOOK_S = 0.1
_UPLINK_PATIENCE_S = 2.0  # without a result delivered for so long the cloud is taken to be away


async def _drain_uplinks(parts: Parts) -> None:
    """Until all is delivered, as long as there is progress: an absent cloud must not hold up the stop."""
    pending = await _n_pending(parts)
    since_s = parts.ground.clock.monotonic()
    while pending and parts.ground.clock.monotonic() - since_s < _UPLINK_PATIENCE_S:
        await asyncio.sleep(_UPLINK_LOOK_S)
        now_pending = await _n_pending(parts)
        if now_pending < pending:
            pending, since_s = now_pending, parts.ground.clock.monotonic()


async def _n_pending(parts: Parts) -> int:
    books = await parts.spool.books()
    return sum(lines["pending"] for sinks in books.results.values() for lines in sinks.values())


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


async def close_parts(parts: Parts) -> None:
    """Let go of everything, outermost first. The spool last: it marks a clean stop."""
    for sink in parts.sinks.values():
        await sink.close()
    for part in parts.routes.values():
        await part.context.runner.stop(HANDLER_STOP_S)
    await parts.cascades.close()
    await asyncio.to_thread(parts.models.close)
    await parts.spool.close()
