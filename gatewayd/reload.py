"""SIGHUP: take over what can be taken over while running, and say what cannot.

Reloaded: the log level, and of each route its `options`, `batch` and the other keys of RELOADABLE_ROUTE_KEYS.
A model whose folder has a newer version is taken over too: see gatewayd.swap.
Everything else needs a restart, which loses nothing; the log names each such key. A config that does not pass the
check changes nothing.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog

from gatewayd.answer import HANDLER_STOP_S, HandlerRunner
from gatewayd.checked import load_checked
from gatewayd.config.load import ConfigErrors
from gatewayd.config.schema import Config, Route
from gatewayd.errors import ConfigError, ModelError
from gatewayd.logs import set_up
from gatewayd.running import write_running
from gatewayd.swap import Renewals, put_in_place
from gatewayd.systemd import Notifier
from gatewayd.wiring import Parts, RoutePart, build_handlers

log = structlog.get_logger(__name__)

RELOADABLE_ROUTE_KEYS = ("options", "batch", "include_input", "max_attempts", "retry_s")


async def run_reload(
    parts: Parts, asked: asyncio.Event, notifier: Notifier, path: Path, renewals: Renewals | None = None
) -> None:
    """Run until cancelled: reload each time `asked` is set, and have a look for newer versions of models."""
    renewals = renewals or Renewals()
    while True:
        await asked.wait()
        asked.clear()
        notifier.reloading()
        try:
            async with renewals.lock:
                await reload(parts, path)
                note_running(parts, path)
        except ConfigErrors as errors:
            for problem in errors.problems:
                log.error("reload refused, nothing changed", problem=str(problem))
        except ConfigError as error:
            log.error("reload refused, nothing changed", problem=str(error))
        notifier.ready()
        renewals.ask(again=True)  # not waited for: a language model may take minutes to load


def note_running(parts: Parts, path: Path) -> None:
    """Leave word of what runs now, for `gatewayd check --changes`."""
    try:
        write_running(parts.ground.paths.state_dir, parts.running_config, path)
    except OSError as error:
        log.warning("cannot note what runs, a dry run has nothing to compare with", cause=str(error))


async def reload(parts: Parts, path: Path) -> None:
    """Compare the file with what runs, and take over what can be. Raises ConfigErrors before anything changed."""
    old, new = parts.running_config, load_checked(path)
    handlers = build_handlers(new, parts.ground.paths.config_dir)
    changed = [*changes(msgspec.to_builtins(old), msgspec.to_builtins(new))]
    taken = takeable(changed)
    set_up(msgspec.structs.replace(old.log, level=new.log.level), parts.ground.environment)
    failed: list[str] = []
    for name, part in parts.routes.items():
        keys = [key for key in taken if key.startswith(f"routes.{name}.")]
        has_options = any(key.startswith(f"routes.{name}.options") for key in keys)
        if has_options and not await _renew(parts, part, HandlerRunner(name, handlers[name])):
            failed += keys
        elif keys:
            part.context.config = with_reloadable(part.context.config, new.routes[name])
            log.info("route renewed", route=name)
    taken = [key for key in taken if key not in failed]
    # What was not taken over stays as it runs, so that the next reload names it again.
    parts.running_config = merged(old, new, taken)
    left = [key for key in changed if key not in taken and key not in failed]
    log.info("reloaded", taken_over=taken, needs_restart=left, failed=failed)


def takeable(changed: Sequence[str]) -> list[str]:
    """Those of the changed keys that are taken over while running.

    A route with another handler, or switched on or off, waits for the restart as a whole: its new options are not
    for the handler that runs.
    """
    waiting = {key.rpartition(".")[0] + "." for key in changed if key.endswith((".handler", ".enabled"))}
    return [key for key in changed if is_reloadable(key) and not key.startswith(tuple(waiting))]


def is_reloadable(key: str) -> bool:
    """Whether a changed key is taken over while running."""
    levels = key.split(".")
    return key == "log.level" or (levels[0] == "routes" and len(levels) > 2 and levels[2] in RELOADABLE_ROUTE_KEYS)


def changes(old: Mapping[str, Any], new: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """The dotted keys whose values differ."""
    for name in sorted({*old, *new}):
        key = f"{above}{name}"
        before, after = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from changes(before, after, f"{key}.")
        elif before != after:
            yield key


def merged(old: Config, new: Config, taken: Sequence[str]) -> Config:
    """`old` with the keys in `taken` from `new`; of a route they are all that is reloadable, or none."""
    level = new.log.level if "log.level" in taken else old.log.level
    renewed = {key.split(".")[1] for key in taken if key.startswith("routes.")}
    routes = {
        name: with_reloadable(route, new.routes[name]) if name in renewed else route
        for name, route in old.routes.items()
    }
    return msgspec.structs.replace(old, log=msgspec.structs.replace(old.log, level=level), routes=routes)


def with_reloadable(old: Route, new: Route) -> Route:
    """`old` with the reloadable keys of `new`."""
    return msgspec.structs.replace(old, **{key: getattr(new, key) for key in RELOADABLE_ROUTE_KEYS})


async def _renew(parts: Parts, part: RoutePart, runner: HandlerRunner) -> bool:
    """The new handler is started beside the old one, and takes over between two batches; or it does not start, and
    the old one stays."""
    if part.state == "waiting for its model":
        part.context.runner = runner  # started where the old one would have been tried again
        return True
    try:
        await runner.start(parts.models_of(part.context.name))
    except (ConfigError, ModelError) as error:
        log.error("route keeps its old handler, the new one did not start", route=part.context.name, cause=str(error))
        return False
    await put_in_place(part, runner).stop(HANDLER_STOP_S)
    return True
