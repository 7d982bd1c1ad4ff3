"""One run of the service: config, parts, signals, systemd, the local endpoints.

`run_service` is what `gatewayd run` does. It returns the exit status: 0 after a clean stop, 78 for a bad config
(systemd does not restart then). Anything else leaves as an exception, and systemd starts a clean process.
"""

import asyncio
import random
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from gatewayd import __version__
from gatewayd.board.watch import run_board
from gatewayd.checked import load_checked
from gatewayd.config.environment import Environment, gateway_id, resolve_paths
from gatewayd.daemon import Life, close_parts, close_windows, run_parts
from gatewayd.flow.watch import FlowWatch
from gatewayd.listening import HOME_ASSISTANT, run_listener
from gatewayd.liveness import Liveness
from gatewayd.logs import LogTail, set_up, tell_left_out
from gatewayd.memory import keep_for_good, share_one_arena
from gatewayd.ports import Clock
from gatewayd.reload import note_running, run_reload
from gatewayd.status import Depths, observe, run_depths, status
from gatewayd.swap import Renewals, run_renewals, run_sweeps
from gatewayd.systemd import Notifier, watchdog_interval_s
from gatewayd.telemetry import Telemetry
from gatewayd.web.server import Views, WebServer
from gatewayd.web.views import Switch
from gatewayd.wiring import JOURNALED_CALL_S, Parts, build, lay_ground

log = structlog.get_logger(__name__)

Switches = Mapping[str, Switch]
_NO_SWITCHES: Switches = {}
_BEAT_S = 1.0
_LOOP_LIMIT_S = 15.0  # a loop that does not turn for so long is stuck
_SPOOL_LIMIT_S = 60.0  # a flash card that erases may stall a commit for seconds, not for a minute


async def run_service(path: Path, environment: Environment, switches: Switches = _NO_SWITCHES) -> None:
    """Run until SIGTERM. Raises ConfigErrors before anything was changed. `switches`: for the page of the demo."""
    share_one_arena()
    config = load_checked(path)
    set_up(config.log, environment)
    paths = resolve_paths(config, environment, path)
    telemetry = Telemetry.build(config.telemetry, environment, gateway=gateway_id(config), version=__version__)
    notifier = Notifier(environment.notify_socket)
    parts = await build(lay_ground(config, paths, environment, telemetry))
    life = Life.begin()
    life.listen(asyncio.get_running_loop())
    note_running(parts, path)
    try:
        await _run(parts, life, notifier, environment, path, switches)
    finally:
        await close_parts(parts)
        await asyncio.to_thread(telemetry.shutdown)
    log.info("stopped", clean=True)


async def _run(
    parts: Parts, life: Life, notifier: Notifier, environment: Environment, path: Path, switches: Switches
) -> None:
    liveness = Liveness()
    depths = Depths()
    renewals = Renewals()
    observe(parts, depths)
    flow = FlowWatch(parts, depths, parts.ground.config.web, partial(_switches_shown, switches))
    web = await start_web(parts, liveness, depths, flow, switches)
    try:
        async with asyncio.TaskGroup() as tasks:
            helpers = [
                tasks.create_task(beat_loop(parts, liveness), name="beat"),
                tasks.create_task(beat_spool(parts, liveness), name="beat[spool]"),
                tasks.create_task(run_watchdog(parts.ground.clock, liveness, notifier, environment), name="watchdog"),
                tasks.create_task(run_depths(depths, parts.ground.paths.spool), name="depths"),
                tasks.create_task(run_reload(parts, life.reload, notifier, path, renewals), name="reload"),
                tasks.create_task(run_renewals(parts, renewals), name="renewals"),
                tasks.create_task(run_sweeps(parts), name="sweeps"),
                tasks.create_task(run_board(parts.board, parts.models.stats), name="board"),
                tasks.create_task(tell_left_out(parts.ground.config.log.repeat_s), name="log lines left out"),
                tasks.create_task(run_home_assistant(parts, depths, life), name="home assistant"),
            ]
            if web is not None:
                helpers.append(tasks.create_task(flow.run(), name="flow"))
            await run_parts(parts, life, started=lambda: _started(parts, notifier), stopping=notifier.stopping)
            for task in helpers:
                task.cancel()
    finally:
        if web is not None:
            await web.stop()


async def run_home_assistant(parts: Parts, depths: Depths, life: Life) -> None:
    """Announce the gateway where the config says so; where it no longer does, take back what was announced."""
    path = parts.ground.paths.state_dir / "homeassistant.json"  # what was announced last
    if not parts.ground.config.homeassistant.enabled and not path.exists():
        return
    from gatewayd.homeassistant.announcer import Announcer, withdraw  # not at the top: most gateways have none
    from gatewayd.homeassistant.health import health
    from gatewayd.homeassistant.remembered import AnnouncedFile

    file = AnnouncedFile(path)
    if not parts.ground.config.homeassistant.enabled:
        await withdraw(parts, file)
        return
    announcer = Announcer(
        parts=parts,
        health=lambda: health(parts, depths),
        reload=life.reload.set,
        close_windows=partial(close_windows, parts),
        file=file,
        draw=random.random,
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(announcer.run(), name="announcer")
        for listener in parts.listeners:
            if listener.name == HOME_ASSISTANT:
                tasks.create_task(run_listener(listener, parts.source, announcer.hear), name=f"listen[{listener.name}]")


async def start_web(
    parts: Parts, liveness: Liveness, depths: Depths, flow: FlowWatch, switches: Switches
) -> WebServer | None:
    """The page and the local endpoints, unless switched off."""
    config = parts.ground.config
    if not config.web.enabled:
        return None
    tail = LogTail(config.web.max_log_lines, config.log.repeat_s)
    tail.begin()

    async def books() -> dict[str, Any]:
        return (await parts.spool.books()).totals()

    views = Views(
        metrics=parts.ground.telemetry.prometheus,
        stuck=lambda: liveness.stuck(parts.ground.clock.monotonic()),
        ready=lambda: _missing(parts),
        status=lambda: status(parts, depths),
        books=books,
        flow=flow,
        log=tail,
        spool=parts.ground.paths.spool,
        shows_input=lambda route: route in parts.routes and parts.routes[route].context.config.include_input,
        denied=parts.ground.telemetry.web_denied,
        changed=parts.ground.telemetry.web_changed,
        switches=switches,
    )
    secret = config.web.token
    token = None if secret is None else parts.ground.secret(secret, "web.token")
    server = WebServer(config.web, views, token=token, beside=parts.ground.paths.config_dir)
    await server.start()
    return server


def _switches_shown(switches: Switches) -> dict[str, Any]:
    """What they add to /flow: nothing, where there are none."""
    return {"switches": {name: switch.shown() for name, switch in switches.items()}} if switches else {}


def _missing(parts: Parts) -> str | None:
    waiting = [name for name, part in parts.routes.items() if part.state == "starting"]
    return f"routes not started: {', '.join(waiting)}" if waiting else None


def _started(parts: Parts, notifier: Notifier) -> None:
    source = parts.ground.config.source
    keep_for_good()
    notifier.ready()
    notifier.status(f"{len(parts.routes)} routes, broker {source.unix_socket or f'{source.host}:{source.port}'}")
    log.info(
        "started",
        version=__version__,
        gateway=parts.ground.gateway,
        routes=sorted(parts.routes),
        sinks=sorted(parts.sinks),
        spool=str(parts.ground.paths.spool),
    )


async def beat_loop(parts: Parts, liveness: Liveness) -> None:
    """Proof of life from inside: the loop turns, and no handler hangs in a call."""
    while True:
        before_s = parts.ground.clock.monotonic()
        await asyncio.sleep(_BEAT_S)
        now_s = parts.ground.clock.monotonic()
        parts.ground.telemetry.loop_lagged(max(0.0, now_s - before_s - _BEAT_S))
        liveness.beat("loop", now_s, limit_s=_LOOP_LIMIT_S)
        watch_handlers(parts, liveness)


def watch_handlers(parts: Parts, liveness: Liveness) -> None:
    """A call that is under way has `max_call_s`; a handler that waits for work rests."""
    limits_s = {name: part.max_call_s for name, part in parts.routes.items()}
    runners = [(name, part.context.runner, limits_s[name]) for name, part in parts.routes.items()]
    # A slow tier has as long as a journaled route, where the config says nothing.
    runners += [
        (runner.route, runner, parts.routes[name].context.config.max_call_s or JOURNALED_CALL_S)
        for name, runner in parts.cascades.slow_runners()
    ]
    for name, runner, limit_s in runners:
        if runner.busy_since_s is None:
            liveness.rest(f"handler[{name}]")
        else:
            liveness.beat(f"handler[{name}]", runner.busy_since_s, limit_s=limit_s)


async def beat_spool(parts: Parts, liveness: Liveness) -> None:
    """Proof of life from inside: the spool's writer answers. A task of its own, for a commit may take its time."""
    clock = parts.ground.clock
    liveness.beat("spool", clock.monotonic(), limit_s=_SPOOL_LIMIT_S)
    while True:
        await parts.spool.ping()
        liveness.beat("spool", clock.monotonic(), limit_s=_SPOOL_LIMIT_S)
        await asyncio.sleep(_BEAT_S)


async def run_watchdog(clock: Clock, liveness: Liveness, notifier: Notifier, environment: Environment) -> None:
    """Feed systemd's watchdog while the daemon is alive, and only then."""
    interval_s = watchdog_interval_s(environment)
    if interval_s is None:
        return
    while True:
        stuck = liveness.stuck(clock.monotonic())
        if stuck is None:
            notifier.watchdog()
        else:
            log.error("not alive, the watchdog will end the process", stuck=stuck)
        await clock.sleep(interval_s)
