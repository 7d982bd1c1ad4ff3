"""How commands print: plain tables for people, JSON for scripts."""

import os
from collections.abc import Sequence
from typing import Any

import msgspec
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from gatewayd.spool.books import Books


def quiet_logs() -> None:
    """Only warnings, on standard error: a command's output is its own words."""
    from gatewayd.config.environment import read_environment
    from gatewayd.config.schema import Log
    from gatewayd.logs import set_up

    set_up(Log(level="warning", format="console"), read_environment())


def print_json(value: object) -> None:
    """One JSON document on standard output."""
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, whole: Sequence[str] = ()
) -> None:
    """A table on standard output; numbers to the right, the columns in `whole` on one line however narrow it is."""
    table = Table(
        title=title, title_justify="left", title_style="bold", header_style="dim", box=SIMPLE_HEAD, pad_edge=False
    )
    for position, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[position], int | float) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold", no_wrap=column in whole)
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    Console().print(table)


def book_lines(books: Books) -> list[str]:
    """Both books in a line each, summed over routes and sinks."""
    lines = []
    for name, entered in (("messages", "received"), ("results", "produced")):
        book: Any = books.totals()[name]
        rest = "  ".join(f"{line} {n}" for line, n in book.items() if line != entered)
        lines.append(f"[bold]{name}[/bold]: {entered} {book[entered]} = {rest}")
    return lines


def cause(error: BaseException) -> str:
    """Why something on the network did not work, in words alone: the callers name host and port."""
    inner = getattr(error, "os_error", error)  # aiohttp wraps it
    if isinstance(inner, OSError) and (inner.errno or 0) > 0:
        return os.strerror(inner.errno or 0)
    if isinstance(inner, OSError) and inner.strerror:  # a name that does not resolve: negative numbers, their own words
        return inner.strerror
    return str(inner) or "no answer in time"


def human_bytes(size: float) -> str:
    """1536 -> "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")
