"""`gatewayd handlers`."""

import inspect
import textwrap
from collections.abc import Sequence
from pathlib import Path

import typer

from gatewayd.cli.output import print_json, print_table
from gatewayd.config.load import load
from gatewayd.errors import ConfigError
from gatewayd.registry import describe_handler, find_handlers, load_handler

_INDENT = " " * 26


def print_handlers(name: str | None, config: Path | None, *, as_json: bool) -> None:
    """All handlers, or the options of one."""
    found = find_handlers(_paths(config))
    if name is not None:
        if name not in found:
            raise typer.BadParameter(f"there is no handler '{name}' (there are: {', '.join(sorted(found))})")
        _print_one(name, load_handler(name, found, key="handler"), as_json=as_json)
        return
    rows = [(one.name, one.origin) for one in found.values()]
    if as_json:
        print_json([{"name": name, "origin": origin} for name, origin in rows])
    else:
        print_table("Handlers", ["name", "from"], rows)
        typer.echo("`gatewayd handlers NAME` shows a handler's options.")


def _paths(config: Path | None) -> Sequence[Path]:
    if config is None:
        return []
    try:
        return [config.absolute().parent / path for path in load(config).handlers.paths]
    except ConfigError as error:
        raise ConfigError("handlers.paths", f"{config} cannot be used: {error}") from error


def _print_one(name: str, handler: type, *, as_json: bool) -> None:
    options = describe_handler(handler)
    if as_json:
        print_json({"name": name, "journaled": handler.journaled, "inline": handler.inline, "options": options})  # type: ignore[attr-defined]
        return
    typer.echo(f"{name}: {_about(handler).removeprefix(name).removeprefix(':').strip()}\n")
    for one in options:
        typer.echo(f"  {one.name:24}{one.type}; {_default(one.default)}")
        typer.echo(textwrap.fill(one.description, 100, initial_indent=_INDENT, subsequent_indent=_INDENT))


def _about(handler: type) -> str:
    """The first paragraph of the handler's module, which says what it does; of the class where there is none."""
    text = inspect.getdoc(inspect.getmodule(handler)) or inspect.getdoc(handler) or ""
    return " ".join(text.split("\n\n")[0].split())


def _default(shown: str) -> str:
    return shown if shown in ("required", "unset") else f"default {shown}"
