"""A newer version of a model takes over while the daemon runs, without a message lost.

Invariant: until everything that needs the new version has started with it, everything runs on with the old one. Then
the routes change over between two of their batches, all in the same step of the event loop; the old version is closed
when the last call of an old handler is over. What fails on the way leaves the old version as it was.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from gatewayd.answer import HandlerRunner
from gatewayd.api import Handler, Model
from gatewayd.errors import ConfigError, ModelError
from gatewayd.models.store import ModelStore
from gatewayd.models.stored import StoredModel
from gatewayd.wiring import Parts, RoutePart, build_handlers

log = structlog.get_logger(__name__)

_SWEEP_S = 5.0
_HINT = "see `gatewayd models verify`; fetch or fit it again, then reload (systemctl reload gatewayd)"


@dataclass(slots=True)
class Renewals:
    """What asks for a look at the models' folders. `lock` is held by whoever changes the handlers of routes."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    again: bool = False  # also at versions that were refused before
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def ask(self, *, again: bool = False) -> None:
        """Have a look soon."""
        self.again = self.again or again
        self.asked.set()


async def run_sweeps(parts: Parts) -> None:
    """Run until cancelled: unload what is idle, or too much. A thread does it: a worker may take seconds to end."""
    config = parts.ground.config.models
    if not config.max_resident_bytes and not config.idle_unload_s:
        return
    every_s = min(_SWEEP_S, config.idle_unload_s / 4) if config.idle_unload_s else _SWEEP_S
    while True:
        await asyncio.sleep(every_s)
        await asyncio.to_thread(parts.models.residency.sweep)


async def run_renewals(parts: Parts, renewals: Renewals) -> None:
    """Run until cancelled: look for newer versions when asked (a reload, a call that found one) and every `watch_s`."""
    loop = asyncio.get_running_loop()

    def found(_model: str) -> None:
        loop.call_soon_threadsafe(renewals.ask)

    parts.models.on_replaced = found
    watch_s = parts.ground.config.models.watch_s
    while True:
        try:
            async with asyncio.timeout(watch_s or None):
                await renewals.asked.wait()
        except TimeoutError:
            pass
        again, renewals.again = renewals.again, False
        renewals.asked.clear()
        for name in await asyncio.to_thread(parts.models.replaced, again=again):
            async with renewals.lock:
                await swap(parts, name)
        async with renewals.lock:
            await renew_stale(parts)


async def swap(parts: Parts, name: str) -> bool:
    """Replace a model in use by the version that is on disk now. False: the old one stays, and the log says why."""
    store = parts.models
    try:
        fresh = await asyncio.to_thread(store.prepare, name)
    except ModelError as error:
        log.error("model keeps its old version, the new one does not load", model=name, cause=str(error), hint=_HINT)
        return False
    old = store.get(name)
    runners = await _start_all(parts, _users(parts, old), fresh)
    if runners is None:
        await asyncio.to_thread(store.refuse, fresh)
        return False
    store.promote(fresh)
    before = [put_in_place(parts.routes[route], runner) for route, runner in runners.items()]
    log.info("model swapped", model=name, version=fresh.version, before=old.version, routes=sorted(runners))
    await _stop_all(parts, before)
    await asyncio.to_thread(store.retire, old)
    return True


async def renew_stale(parts: Parts) -> None:
    """Renew the routes whose handler has a version that was replaced: they were about to start when that happened."""
    stale = [name for name, part in parts.routes.items() if part.state == "running" and _is_stale(parts, part)]
    runners = await _start_all(parts, stale, None) if stale else {}
    if runners:
        await _stop_all(parts, [put_in_place(parts.routes[route], runner) for route, runner in runners.items()])
        log.info("routes renewed for a newer version of their model", routes=sorted(runners))


def _is_stale(parts: Parts, part: RoutePart) -> bool:
    in_use = parts.models.in_use()
    return any(name in in_use and not _is_of(held, in_use[name]) for name, held in part.context.runner.held.items())


def _users(parts: Parts, model: StoredModel) -> list[str]:
    """The running routes whose handler was given this very version."""
    return [
        name
        for name, part in parts.routes.items()
        if part.state == "running" and _is_of(part.context.runner.held.get(model.name), model)
    ]


def _is_of(held: Model | None, model: StoredModel) -> bool:
    """Whether what a handler holds is this version; a route's own view of a model passes `bundle` on."""
    return held is not None and getattr(held, "bundle", None) is model.bundle


async def _start_all(parts: Parts, routes: Sequence[str], fresh: StoredModel | None) -> dict[str, HandlerRunner] | None:
    """New handlers beside the old ones. None: one does not start, and none of them is left."""
    runners: dict[str, HandlerRunner] = {}
    try:
        handlers = _build(parts)
        for route in routes:
            runners[route] = HandlerRunner(route, handlers[route])
            models = _With(parts.models, fresh) if fresh is not None else parts.models
            await runners[route].start(parts.models_of(route, models))
    except (ConfigError, ModelError) as error:
        log.error(
            "model keeps its old version, a handler does not start with the new one",
            route=next(reversed(runners), ""),
            cause=str(error),
            hint=_HINT,
        )
        await _stop_all(parts, list(runners.values()))
        return None
    return runners


def _build(parts: Parts) -> Mapping[str, Handler]:
    handlers = build_handlers(parts.running_config, parts.ground.paths.config_dir)
    parts.cascades.bind(handlers)
    return handlers


def put_in_place(part: RoutePart, runner: HandlerRunner) -> HandlerRunner:
    """The route's runner from now on, which goes on where the one before stands; that one, to be stopped."""
    before, part.context.runner = part.context.runner, runner
    runner.take_over(before, part.max_call_s)
    return before


async def _stop_all(parts: Parts, runners: Sequence[HandlerRunner]) -> None:
    """Each when its last call is over: what is under way ends with the version that it began with."""
    async with asyncio.TaskGroup() as tasks:
        for runner in runners:
            part = parts.routes[runner.route]
            tasks.create_task(runner.stop(part.max_call_s), name=f"stop[{runner.route}]")


class _With:
    """Implements api.Models: the store, with one model's new version in place of the old one."""

    def __init__(self, store: ModelStore, fresh: StoredModel) -> None:
        self._store = store
        self._fresh = fresh

    def get(self, name: str) -> StoredModel:
        return self._fresh if name == self._fresh.name else self._store.get(name)
