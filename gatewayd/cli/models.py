"""`gatewayd models …`."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from gatewayd.cli.output import human_bytes, print_json, print_table, quiet_logs
from gatewayd.cli.status import running_models
from gatewayd.config.environment import read_environment, resolve_paths
from gatewayd.config.load import load
from gatewayd.errors import ModelError
from gatewayd.models.offers import list_offers
from gatewayd.models.store import ModelStore


def open_store(config: Path) -> ModelStore:
    """The models folder of this config."""
    quiet_logs()
    loaded = load(config)
    return ModelStore(resolve_paths(loaded, read_environment(), config).models, loaded.models)


def print_bundles(config: Path, *, as_json: bool) -> None:
    """One line a bundle; with what a running daemon has of it in memory."""
    bundles = open_store(config).ls()
    running = asyncio.run(running_models(config))
    if as_json:
        print_json([msgspec.to_builtins(one) | {"running": running.get(one.name)} for one in bundles])
        return
    rows = [
        (
            one.name,
            one.version,
            one.runtime,
            one.task,
            human_bytes(one.size_bytes),
            one.problem or "ok",
            _in_memory(running.get(one.name)),
        )
        for one in bundles
    ]
    if not rows:
        typer.echo("No model bundles. `gatewayd models fetch` gets ready-made ones, `gatewayd models fit` makes them.")
        return
    print_table("Model bundles", ["name", "version", "runtime", "task", "size", "state", "in memory"], rows)
    for name in list_offers(resolve_paths(load(config), read_environment(), config).models):
        typer.echo(f"offered: {name}; `gatewayd models adopt {name}` takes it")


def _in_memory(running: Mapping[str, Any] | None) -> str:
    """In words what /status says of a model; empty when no daemon has asked for it."""
    if running is None or "loads" not in running:
        return ""
    loads = f"{running['loads']:.0f} loads" if running["loads"] > 1 else "1 load"
    reasons = [f"{running[f'unloads_{one}']:.0f} {one}" for one in ("idle", "budget") if running[f"unloads_{one}"]]
    away = f", unloaded: {', '.join(reasons)}" if reasons else ""
    now = human_bytes(running["memory_bytes"]) if running["loaded"] else "not now"
    return f"version {running['version']}, {now}, {loads}{away}"


def verify_bundles(config: Path, names: Sequence[str]) -> bool:
    """Check digests. True when all are as their manifests say."""
    store = open_store(config)
    n_problems = 0
    named = names or [one.name for one in store.ls()]
    if not named:
        typer.echo("No model bundles to verify.")
    for name in named:
        try:
            store.verify(name)
            typer.echo(f"{name}: ok")
        except ModelError as error:
            n_problems += 1
            typer.echo(f"{name}: {error}")
    return n_problems == 0


def fetch_bundles(config: Path, names: Sequence[str]) -> None:
    """Download ready-made bundles into the models folder."""
    from gatewayd.models.recipes import RECIPES

    unknown = sorted(set(names) - set(RECIPES))
    if unknown:
        raise typer.BadParameter(f"cannot fetch {', '.join(unknown)}; can be fetched: {', '.join(RECIPES)}")
    folder = resolve_paths(load(config), read_environment(), config).models
    for path in fetch_with_progress(names, folder):
        typer.echo(f"{path}")


def cache_dir() -> Path:
    """Where downloads are kept, so that nothing is downloaded twice."""
    environment = read_environment()
    base = environment.variables.get("XDG_CACHE_HOME") or f"{environment.home or '/var/tmp'}/.cache"  # noqa: S108
    return Path(base) / "gatewayd"


def fetch_with_progress(names: Sequence[str], folder: Path) -> list[Path]:
    """Fetch with a bar on the terminal (standard error, so that output can be piped)."""
    from gatewayd.models.fetch import fetch
    from gatewayd.models.recipes import RECIPES

    quiet_logs()
    columns = [TextColumn("{task.description:28}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done_bytes: int, total_bytes: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total_bytes)
            progress.update(tasks[what], completed=done_bytes, total=total_bytes)

        return fetch(list(names) or list(RECIPES), folder, cache=cache_dir() / "fetch", progress=report)
