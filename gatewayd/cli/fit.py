"""`gatewayd models fit`: a bundle out of the user's own recordings or labeled texts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from gatewayd.cli.models import open_store
from gatewayd.cli.output import print_json, print_table, quiet_logs
from gatewayd.config.environment import read_environment, resolve_paths
from gatewayd.config.load import load
from gatewayd.registry import find_handlers, load_handler


def fit_from_recordings(config: Path, files: Sequence[Path], *, as_json: bool, **options: Any) -> None:
    """Fit a classifier (labels given) or an anomaly detector (none given) on CSV recordings."""
    from gatewayd.models.fit_series import fit_series

    quiet_logs()
    _show(fit_series(files, _models_dir(config), progress=progress_bar(), **options), as_json=as_json)


def fit_from_texts(config: Path, files: Sequence[Path], *, encoder: str, as_json: bool, **options: Any) -> None:
    """Fit a head for `classify_text` on labeled texts."""
    from gatewayd.models.fit_text import fit_text

    store = open_store(config)
    # The encoder that will run on the gateway, taken from the handler itself, so that the two cannot disagree.
    classify_text: Any = load_handler("classify_text", find_handlers([]), key="handler")
    folder = _models_dir(config)
    encode = classify_text.encoder(store, encoder)
    bar = progress_bar()

    def progress(done: int, total: int) -> None:
        bar("texts", done, total)

    report = fit_text(files, folder, encoder=folder / encoder, encode=encode, progress=progress, **options)
    store.close()
    _show(report, as_json=as_json)


def _models_dir(config: Path) -> Path:
    return resolve_paths(load(config), read_environment(), config).models


def progress_bar() -> Any:
    """A progress callback (what, done, total) that draws on standard error."""
    columns = [TextColumn("{task.description:28}"), BarColumn(), TextColumn("{task.completed:.0f} of {task.total:.0f}")]
    progress = Progress(*columns, console=Console(stderr=True))
    tasks: dict[str, Any] = {}

    def report(what: str, done: int, total: int) -> None:
        if not tasks:
            progress.start()
        if what not in tasks:
            tasks[what] = progress.add_task(what, total=total)
        progress.update(tasks[what], completed=done, total=total)
        if all(task.finished for task in progress.tasks):
            progress.refresh()

    return report


def _show(report: Any, *, as_json: bool) -> None:
    rows: dict[str, Any] = msgspec.to_builtins(report, enc_hook=str)
    if as_json:
        print_json(rows)
        return
    tables = {name: rows.pop(name) for name in ("files", "figures") if name in rows}
    for name, value in rows.items():
        typer.echo(f"{name:20} {_shown(value)}")
    for name, table in tables.items():
        lines = [{"label": key, **each} for key, each in table.items()] if isinstance(table, dict) else list(table)
        if lines:
            print_table(f"Held out, by {name}", list(lines[0]), [[_shown(v) for v in line.values()] for line in lines])


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)
