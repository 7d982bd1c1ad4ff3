"""`gatewayd check`: the file by itself, against the broker, against what runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import typer

from gatewayd.checked import handler_problems
from gatewayd.cli import EXIT_CONFIG, EXIT_FAILED, NO_CONFIG_HINT
from gatewayd.config.load import Problem, examine


@dataclass(frozen=True, slots=True, kw_only=True)
class More:
    """What is looked at besides the file."""

    against_broker: bool = False
    look_s: float = 3.0
    changes: bool = False
    old: Path | None = None  # compare with this file instead of what runs


def run_check(path: Path, more: More, *, as_json: bool) -> int:
    """Print what was found; the exit status: 78 for a bad config, 1 when the broker refuses or nothing decodes."""
    config, problems = examine(path, handler_problems(path))
    is_sound = config is not None and all(problem.is_warning for problem in problems)
    said: dict[str, Any] = {}
    is_ok = True
    if not as_json:
        _print(path, problems, is_sound=is_sound)
    if config is not None and is_sound and (more.changes or more.old is not None):
        from gatewayd.cli import check_changes

        found = check_changes.find_changes(path, config, more.old)
        said["changes"] = check_changes.plain(found)
        if not as_json:
            check_changes.print_changes(found)
    if config is not None and is_sound and more.against_broker:
        import asyncio  # here: `gatewayd check` alone is quick

        from gatewayd.cli import check_broker

        look = asyncio.run(check_broker.look_at_broker(config, check_broker.source_password(config, path), more.look_s))
        is_ok = look.is_ok
        said["broker"] = check_broker.plain(look)
        if not as_json:
            check_broker.print_look(look)
    if as_json:
        plain = {"problems": problems, **said} if said else problems
        typer.echo(msgspec.json.encode(plain).decode())
    return EXIT_CONFIG if not is_sound else 0 if is_ok else EXIT_FAILED


def _print(path: Path, problems: list[Problem], *, is_sound: bool) -> None:
    for problem in problems:
        typer.echo(str(problem), err=not problem.is_warning)
    if is_sound:
        typer.echo(f"{path}: ok" + _count(len(problems)))
    elif not path.exists():
        typer.echo(f"hint: {NO_CONFIG_HINT}", err=True)


def _count(n_warnings: int) -> str:
    return "" if not n_warnings else ", 1 warning" if n_warnings == 1 else f", {n_warnings} warnings"
