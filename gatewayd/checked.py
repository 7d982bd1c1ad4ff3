"""A config checked whole: what only the registry can say is handlers that do not exist, options they do not have."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gatewayd.config.describe import Path as KeyPath
from gatewayd.config.load import load
from gatewayd.config.schema import Config
from gatewayd.errors import ConfigError
from gatewayd.registry import Found, find_handlers, lanes_problem, load_handler, make_handler


def load_checked(path: Path) -> Config:
    """The config, its handlers and their options checked too. Raises ConfigErrors with all that is wrong."""
    return load(path, handler_problems(path))


def handler_problems(config_path: Path) -> Callable[[Config], Sequence[tuple[KeyPath, str]]]:
    """A check for `gatewayd.config.load`: every route's handler is found, and takes its options."""

    def check(config: Config) -> list[tuple[KeyPath, str]]:
        try:
            found = find_handlers([config_path.absolute().parent / path for path in config.handlers.paths])
        except ConfigError as error:
            return [(("handlers", "paths"), error.problem)]
        problems: list[tuple[KeyPath, str]] = []
        for name, route in config.routes.items():
            key = f"routes.{name}"
            if route.tiers:
                problems += _tier_problems(config, name, found)
                continue
            try:
                handler = load_handler(route.handler, found, key=f"{key}.handler")
                made = make_handler(handler, route.options, key=f"{key}.options")
            except ConfigError as error:
                problems.append((_key_path(name, error.key), error.problem))
                continue
            if problem := lanes_problem(route, made):
                problems.append((("routes", name, "parallel"), problem))
            if route.write == "when_offline" and route.mode == "auto" and made.journaled:
                problem = (
                    f"the handler {route.handler} works from the journal, which puts every message on disk at once: "
                    'there is nothing to spare, say "always"'
                )
                problems.append((("routes", name, "write"), problem))
        return problems

    return check


def _tier_problems(config: Config, name: str, found: Mapping[str, Found]) -> list[tuple[KeyPath, str]]:
    """Those of the handlers of a route's tiers, the first one found; names of tiers were checked before."""
    if any(tier not in config.tiers for tier in config.routes[name].tiers):
        return []
    from gatewayd.cascading import build_tier_handlers  # not at the top: a config without tiers is checked quickly

    try:
        build_tier_handlers(config, name, found)
    except ConfigError as error:
        return [(tuple(error.key.split(".")), error.problem)]
    return []


def _key_path(route: str, key: str) -> KeyPath:
    """`routes.<name>.options.x` as a path: the name may hold dots only in quotes, so it is taken as one step."""
    rest = key.removeprefix(f"routes.{route}").strip(".")
    return ("routes", route, *(part for part in rest.split(".") if part))
