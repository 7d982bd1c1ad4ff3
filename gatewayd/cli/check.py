"""`gatewayd check`."""

from pathlib import Path

import msgspec
import typer

from gatewayd.checked import handler_problems
from gatewayd.cli import NO_CONFIG_HINT
from gatewayd.config.load import check


def print_problems(config: Path, *, as_json: bool) -> bool:
    """Print every problem of the file. True when the daemon would start with it."""
    problems = check(config, handler_problems(config))
    errors = [problem for problem in problems if not problem.is_warning]
    if as_json:
        typer.echo(msgspec.json.encode(problems).decode())
    else:
        for problem in problems:
            typer.echo(str(problem), err=not problem.is_warning)
        if not errors:
            typer.echo(f"{config}: ok" + _count(len(problems)))
        elif not config.exists():
            typer.echo(f"hint: {NO_CONFIG_HINT}", err=True)
    return not errors


def _count(n_warnings: int) -> str:
    return "" if not n_warnings else ", 1 warning" if n_warnings == 1 else f", {n_warnings} warnings"
