"""`gatewayd spool …`: reads the spool of a daemon that may be running, through a connection that cannot write."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import msgspec
import typer

from gatewayd.cli.output import human_bytes, print_json, print_table
from gatewayd.config.environment import gateway_id, read_environment, resolve_paths
from gatewayd.config.load import load
from gatewayd.errors import ConfigError, GatewaydError
from gatewayd.spool.reader import SpoolReader


def spool_of(config: Path) -> Path:
    """The spool file that this config's daemon uses. Raises GatewaydError when there is none yet."""
    path = resolve_paths(load(config), read_environment(), config).spool
    if not path.exists():
        raise GatewaydError(f"{path}: no spool yet; it is made when the daemon first runs")
    return path


def gateway_of(config: Path) -> str:
    """The gateway's name, which is part of every event."""
    return gateway_id(load(config))


@contextmanager
def open_reader(config: Path) -> Iterator[SpoolReader]:
    """The spool that this config's daemon uses, to read. Raises GatewaydError when it cannot be, now or later."""
    path = spool_of(config)
    try:
        with SpoolReader.open(path) as reader:
            yield reader
    except ConfigError as error:  # the config is right; what it names is not a spool that can be read
        raise _unreadable(error.problem) from error
    except (apsw.Error, UnicodeDecodeError, msgspec.DecodeError) as error:
        raise _unreadable(f"{path} cannot be read: {error}") from error


def _unreadable(problem: str) -> GatewaydError:
    failure = GatewaydError(problem)
    failure.hint = (
        "is it yours to read (sudo -u gatewayd)? was it written by this version? "
        "`gatewayd spool fsck` says whether it is damaged"
    )
    return failure


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
    nonzero = {place: {reason: n for reason, n in reasons.items() if n} for place, reasons in books.reasons.items()}
    all_reasons = {place: reasons for place, reasons in nonzero.items() if reasons}  # without what was taken back
    if as_json:
        print_json({**books.totals(), "routes": books.messages, "sinks": books.results, "reasons": all_reasons})
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
    for place, reasons in all_reasons.items():
        book, *names, line = place.split("/")
        counted = ", ".join(f"{reason} {n}" for reason, n in reasons.items())
        typer.echo(f"{book} {line}, {' -> '.join(names)}: {counted}")
    if books.n_purged:
        typer.echo(f"{books.n_purged} dead letters are no longer kept; the books still count them.")
    typer.echo("Both books balance." if books.balanced else "THE BOOKS DO NOT BALANCE.")
    return books.balanced
