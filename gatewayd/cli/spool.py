"""`gatewayd spool …`: reads the spool of a daemon that may be running, through a connection that cannot write."""

import time
from pathlib import Path
from typing import Any

import msgspec
import typer

from gatewayd.cli.output import human_bytes, print_json, print_table
from gatewayd.config.environment import read_environment, resolve_paths
from gatewayd.config.load import load
from gatewayd.errors import ConfigError, GatewaydError
from gatewayd.events import event_time
from gatewayd.spool.reader import SpoolReader


def open_reader(config: Path) -> SpoolReader:
    """The spool that this config's daemon uses. Raises GatewaydError when there is none yet."""
    path = resolve_paths(load(config), read_environment(), config).spool
    if not path.exists():
        raise GatewaydError(f"{path}: no spool yet; it is made when the daemon first runs")
    try:
        return SpoolReader.open(path)
    except ConfigError as error:  # the config is right; what it names is not a spool that can be read
        failure = GatewaydError(error.problem)
        failure.hint = (
            "is it yours to read (sudo -u gatewayd)? was it written by this version? else see `gatewayd doctor`"
        )
        raise failure from error


def print_status(config: Path, *, as_json: bool) -> None:
    """Rows, bytes, age."""
    with open_reader(config) as reader:
        status: dict[str, Any] = msgspec.to_builtins(reader.status())
    if as_json:
        print_json(status)
        return
    oldest = status.pop("oldest_time")
    for name, value in status.items():
        shown = human_bytes(value) if name.endswith("_bytes") else value
        typer.echo(f"{name.removesuffix('_bytes').replace('_', ' '):16} {shown}")
    waits = "nothing waits" if oldest is None else f"waits for {max(0.0, time.time() - oldest):.0f} s"
    typer.echo(f"{'oldest result':16} {waits}")


def print_books(config: Path, *, as_json: bool) -> bool:
    """The two books. True when they balance."""
    with open_reader(config) as reader:
        books = reader.books()
    if as_json:
        print_json({**books.totals(), "routes": books.messages, "sinks": books.results, "reasons": books.reasons})
        return books.balanced
    lines = ["received", "handled", "journaled", "dead", "dropped", "evicted", "expired"]
    rows = [(route, *(book.get(line, 0) for line in lines)) for route, book in books.messages.items()]
    print_table(
        "Messages: received = handled + journaled + dead + dropped + evicted + expired", ["route", *lines], rows
    )
    lines = ["produced", "delivered", "pending", "refused", "evicted", "expired"]
    rows = [
        (f"{route} -> {sink}", *(book.get(line, 0) for line in lines))
        for route, sinks in books.results.items()
        for sink, book in sinks.items()
    ]
    print_table(
        "Results: produced = delivered + pending + refused + evicted + expired", ["route -> sink", *lines], rows
    )
    for place, reasons in books.reasons.items():
        book, *names, line = place.split("/")
        counted = ", ".join(f"{reason} {n}" for reason, n in reasons.items())
        typer.echo(f"{book} {line}, {' -> '.join(names)}: {counted}")
    if books.n_purged:
        typer.echo(f"{books.n_purged} dead letters are no longer kept; the books still count them.")
    typer.echo("Both books balance." if books.balanced else "THE BOOKS DO NOT BALANCE.")
    return books.balanced


def print_dead(config: Path, *, limit: int, as_json: bool) -> None:
    """The newest dead letters."""
    with open_reader(config) as reader:
        letters = reader.dead_letters(limit=limit)
    if as_json:
        print_json(
            [
                {**msgspec.structs.asdict(letter), "payload": letter.payload.decode(errors="replace")}
                for letter in letters
            ]
        )
        return
    if not letters:
        typer.echo("No dead letters.")
        return
    rows = [
        (event_time(letter.time), letter.route, letter.sink or "-", letter.reason, letter.topic, letter.detail[:200])
        for letter in letters
    ]
    print_table("Dead letters, newest first", ["time", "route", "sink", "reason", "topic", "detail"], rows)
    typer.echo("Payloads: --json")
