"""`gatewayd check --changes`: what a new config would change in the daemon that runs. Nothing is touched.

What a reload takes over is asked of gatewayd.reload, the code that does it.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import typer

from gatewayd.cli.options import SYSTEM_CONFIG
from gatewayd.config.environment import read_environment, resolve_paths
from gatewayd.config.load import examine, load
from gatewayd.config.schema import Config
from gatewayd.errors import ConfigError, GatewaydError
from gatewayd.running import Running, read_running

_MAX_VALUE = 48


class NothingToCompare(GatewaydError):  # noqa: N818 - says what is missing
    """There is no config to compare with: name one."""

    hint = "start the daemon once, or name the config that it has with --from FILE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One key that differs. `how`: "reload" (SIGHUP takes it over) or "restart"."""

    key: str
    kind: str  # "added", "removed" or "changed"
    before: Any = None
    after: Any = None
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What a new config would change."""

    against: str
    is_running: bool
    keys: Sequence[Change]
    routes: Mapping[str, str]  # what becomes of each route that is affected

    @property
    def needs_restart(self) -> bool:
        """Whether a reload alone does not take over everything."""
        return any(change.how == "restart" for change in self.keys)


def find_changes(new_path: Path, new: Config, old_path: Path | None) -> Changes:
    """Compare with `old_path`, or with what runs. Raises NothingToCompare, ConfigErrors (of the old one)."""
    if old_path is not None:
        old = load(old_path)
        return _compare(msgspec.to_builtins(old), new, str(old_path), is_running=False)
    running = _running(new_path, new)
    state = f"what runs (pid {running.pid}" if running.is_alive else "what ran last (no daemon runs now"
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(running.since))
    return _compare(running.config, new, f"{state}, config of {since})", is_running=running.is_alive)


def _running(new_path: Path, new: Config) -> Running:
    """Where the new config keeps its state; else where the config of the service, or the one beside it, does."""
    others = [path for path in (SYSTEM_CONFIG, new_path.parent / "config.toml") if path.exists() and path != new_path]
    found_there = [(path, examine(path)[0]) for path in others]
    places = [(new_path, new), *((path, config) for path, config in found_there if config is not None)]
    looked: list[str] = []
    for path, config in places:
        try:
            state_dir = resolve_paths(config, read_environment(), path).state_dir
            found = read_running(state_dir)
        except ConfigError as error:
            looked.append(str(error))
            continue
        except OSError as error:
            looked.append(f"{error.filename}: {error.strerror}")
            continue
        if found is not None:
            return found
        looked.append(f"no daemon has run in {state_dir}")
    raise NothingToCompare("; ".join(dict.fromkeys(looked)))


def _compare(old: Mapping[str, Any], new: Config, against: str, *, is_running: bool) -> Changes:
    from gatewayd.reload import changes, takeable  # not at the top: it brings the daemon's parts with it

    fresh: Mapping[str, Any] = msgspec.to_builtins(new)
    keys = [*changes(old, fresh)]
    reloaded = set(takeable(keys))
    found = [_change(key, old, fresh, "reload" if key in reloaded else "restart") for key in keys]
    return Changes(against=against, is_running=is_running, keys=found, routes=_routes(old, fresh, found))


def _change(key: str, old: Mapping[str, Any], new: Mapping[str, Any], how: str) -> Change:
    before, after = _value(old, key), _value(new, key)
    kind = "added" if before is None else "removed" if after is None else "changed"
    return Change(key=key, kind=kind, before=before, after=after, how=how)


def _value(tree: Any, key: str) -> Any:
    """The value under a dotted key; names may hold dots, so the longest that is there is taken."""
    if not key:
        return tree
    if not isinstance(tree, Mapping):
        return None
    for name in sorted(tree, key=len, reverse=True):
        if key == name or key.startswith(f"{name}."):
            return _value(tree[name], key[len(name) + 1 :])
    return None


def _routes(old: Mapping[str, Any], new: Mapping[str, Any], found: Sequence[Change]) -> dict[str, str]:
    """What becomes of each route that differs, in words."""
    said: dict[str, str] = {}
    before, after = old.get("routes", {}), new.get("routes", {})
    for name in sorted({*before, *after}):
        was, is_now = _is_on(before.get(name)), _is_on(after.get(name))
        hows = {change.how for change in found if change.key.startswith(f"routes.{name}.")}
        if was and not is_now:
            said[name] = "stopped at the restart; what waits for it stays in the spool"
        elif is_now and not was:
            said[name] = "started at the restart"
        elif is_now and before[name]["handler"] != after[name]["handler"]:
            words = f"{before[name]['handler'] or 'tiers'} -> {after[name]['handler'] or 'tiers'}"
            said[name] = f"handler swapped at the restart: {words}"
        elif is_now and any(change.key.startswith(f"routes.{name}.options") for change in found):
            later = ", the rest at the restart" if "restart" in hows else ""
            said[name] = f"handler renewed by a reload, between two batches{later}"
        elif is_now and hows:
            said[name] = "changed by a reload" if hows == {"reload"} else "changed at the restart"
    return said


def _is_on(route: Mapping[str, Any] | None) -> bool:
    return route is not None and bool(route.get("enabled", True))


def print_changes(found: Changes) -> None:
    """In lines, as a diff has them."""
    typer.echo(f"Against {found.against}:")
    if not found.keys:
        typer.echo("  no change")
        return
    for change in found.keys:
        typer.echo(f"  {_line(change)}")
    for name, words in found.routes.items():
        typer.echo(f"route {name}: {words}")
    n_restart = sum(change.how == "restart" for change in found.keys)
    n_reload = len(found.keys) - n_restart
    if n_reload:
        typer.echo(f"{n_reload} taken over by a reload: systemctl reload gatewayd (or SIGHUP)")
    if n_restart:
        typer.echo(f"{n_restart} at a restart: systemctl restart gatewayd (nothing is lost by it)")


def _line(change: Change) -> str:
    if change.kind == "changed":
        words = f": {_short(change.key, change.before)} -> {_short(change.key, change.after)}"
        return f"~ {change.key}{words}  [{change.how}]"
    value = change.after if change.kind == "added" else change.before
    sign = "+" if change.kind == "added" else "-"
    words = "" if isinstance(value, Mapping) else f": {_short(change.key, value)}"
    return f"{sign} {change.key}{words}  [{change.how}]"


def _short(key: str, value: Any) -> str:
    if ".headers" in key:  # secrets do not belong there, and may be there
        return "(not shown)"
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _MAX_VALUE else text[: _MAX_VALUE - 1] + "…"


def plain(found: Changes) -> dict[str, Any]:
    """For --json: without the values, but for those that can be shown."""
    keys = [
        {"key": one.key, "kind": one.kind, "how": one.how}
        | ({} if ".headers" in one.key else {"before": one.before, "after": one.after})
        for one in found.keys
    ]
    return {
        "against": found.against,
        "is_running": found.is_running,
        "needs_restart": found.needs_restart,
        "keys": keys,
        "routes": dict(found.routes),
    }
