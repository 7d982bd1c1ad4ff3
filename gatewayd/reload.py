"""SIGHUP: take over what can be taken over while running, and say what cannot.

Reloaded: the log level, and of each route its `options`, `batch` and the other keys of RELOADABLE_ROUTE_KEYS.
Everything else needs a restart, which loses nothing; the log names each such key. A config that does not pass the
check changes nothing.
"""

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog

from gatewayd.answer import HandlerRunner
from gatewayd.checked import load_checked
from gatewayd.config.load import ConfigErrors
from gatewayd.config.schema import Config, Route
from gatewayd.errors import ConfigError, ModelError
from gatewayd.logs import set_up
from gatewayd.systemd import Notifier
from gatewayd.wiring import Parts, RoutePart, build_handlers

log = structlog.get_logger(__name__)

RELOADABLE_ROUTE_KEYS = ("options", "batch", "include_input", "max_attempts", "retry_s")


async def run_reload(parts: Parts, asked: asyncio.Event, notifier: Notifier, path: Path) -> None:
    """Run until cancelled: reload each time `asked` is set."""
    while True:
        await asked.wait()
        asked.clear()
        notifier.reloading()
        try:
            await reload(parts, path)
        except ConfigErrors as errors:
            for problem in errors.problems:
                log.error("reload refused, nothing changed", problem=str(problem))
        except (ConfigError, ModelError) as error:
            log.error("reload failed half way", cause=str(error), hint="the routes named before are on the new config")
        notifier.ready()


async def reload(parts: Parts, path: Path) -> None:
    """Compare the file with what runs, and take over what can be. Raises ConfigErrors before anything changed."""
    old, new = parts.running_config, load_checked(path)
    changed = [*changes(msgspec.to_builtins(old), msgspec.to_builtins(new))]
    taken = [key for key in changed if is_reloadable(key)]
    set_up(msgspec.structs.replace(old.log, level=new.log.level), parts.ground.environment)
    # What was not taken over stays as it runs, so that the next reload names it again.
    parts.running_config = merged(parts.running_config, new, taken)
    handlers = build_handlers(new, parts.ground.paths.config_dir)
    for name, part in parts.routes.items():
        if any(key.startswith(f"routes.{name}.") for key in taken):
            await _renew(parts, part, new.routes[name], HandlerRunner(name, handlers[name]))
            log.info("route renewed", route=name)
    left = [key for key in changed if key not in taken]
    log.info("reloaded", taken_over=taken, needs_restart=left)


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


def merged(old: Config, new: Config, taken: list[str]) -> Config:
    """`old` with the keys in `taken` from `new`."""
    level = new.log.level if "log.level" in taken else old.log.level
    routes = {
        name: _with_reloadable(route, new.routes[name]) if name in new.routes else route
        for name, route in old.routes.items()
    }
    return msgspec.structs.replace(old, log=msgspec.structs.replace(old.log, level=level), routes=routes)


def _with_reloadable(old: Route, new: Route) -> Route:
    return msgspec.structs.replace(old, **{key: getattr(new, key) for key in RELOADABLE_ROUTE_KEYS})


async def _renew(parts: Parts, part: RoutePart, config: Route, runner: HandlerRunner) -> None:
    """The new handler is started beside the old one, and takes over between two batches."""
    await runner.start(parts.models)
    before, part.context.runner = part.context.runner, runner
    part.context.config = _with_reloadable(part.context.config, config)
    await before.run(before.handler.stop)
    before.close()
