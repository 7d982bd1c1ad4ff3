"""`gatewayd spool export`: rows as CloudEvents, one a line."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import typer
from rich.console import Console
from rich.progress import Progress

from gatewayd.cli.spool import gateway_of, open_reader
from gatewayd.events import event_json
from gatewayd.export import letter_event, message_event
from gatewayd.ports import DeadLetter, StoredResult
from gatewayd.spool.browse import Browser, Pick, Row

_EVERY_ROWS = 100  # the progress bar moves


def export_rows(config: Path, picks: Sequence[Pick], output: Path | None) -> bool:
    """Write the rows to a file or to standard output. False when damaged ones had to be left out."""
    gateway = gateway_of(config)
    n, damaged = 0, []
    console = Console(stderr=True)
    is_shown = console.is_terminal and (output is not None or not sys.stdout.isatty())
    with (
        open_reader(config) as reader,
        _target(output) as file,
        Progress(console=console, transient=True, disable=not is_shown) as progress,
    ):
        browser = Browser(reader.connection)
        total = sum(browser.count(pick)[0] for pick in picks) if is_shown else None
        task = progress.add_task("export", total=total)
        for pick in picks:
            for row in browser.rows(pick):
                line = _line(row, gateway)
                if line is None:
                    damaged.append(row.id)
                    continue
                file.write(line + b"\n")
                n += 1
                if n % _EVERY_ROWS == 0:
                    progress.update(task, completed=n)
    where = "" if output is None else f" in {output}"
    typer.echo(f"{n} {'row' if n == 1 else 'rows'} exported{where}.", err=True)
    if damaged:
        typer.echo(f"{len(damaged)} damaged, left out: {', '.join(damaged[:10])} …", err=True)
    return not damaged


def _line(row: Row, gateway: str) -> bytes | None:
    value = row.value
    if value is None:
        return None
    if isinstance(value, StoredResult):
        return event_json(value, gateway)
    if isinstance(value, DeadLetter):
        return letter_event(value, gateway=gateway)
    return message_event(value.message, gateway=gateway, route=row.route)


@contextmanager
def _target(output: Path | None) -> Iterator[BinaryIO]:
    """The file, which has its name once it is complete, and which nobody else may read: it holds payloads."""
    if output is None or str(output) == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    part = output.with_name(output.name + ".part")
    try:
        with open(part, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            yield file
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)
