"""`gatewayd spool fsck`: one table, one verdict; and what can be read of a damaged spool into a new file."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import typer
from rich.console import Console
from rich.status import Status

from gatewayd.cli.output import human_bytes, print_json, print_table
from gatewayd.cli.spool import spool_of
from gatewayd.config.load import load
from gatewayd.errors import GatewaydError
from gatewayd.spool.cap import wal_pages_for
from gatewayd.spool.database import PAGE_BYTES
from gatewayd.spool.fsck import Report
from gatewayd.spool.fsck import check_spool as look
from gatewayd.spool.migrations import MIGRATIONS
from gatewayd.spool.reader import is_in_use
from gatewayd.spool.salvage import Salvaged, salvage


def check_spool(config: Path, path: Path | None, *, full: bool, salvage_to: Path | None, as_json: bool) -> bool:
    """True when nothing is damaged."""
    spool = spool_of(config) if path is None else path
    with Status("checking", console=Console(stderr=True)) as status:
        report = look(spool, full=full, progress=lambda what: status.update(f"checking {what}"))
        found = None if salvage_to is None else _salvage(config, spool, salvage_to)
    if as_json:
        print_json(_as_object(report, found))
    else:
        _print(report)
        if found is not None:
            typer.echo(_salvaged_in_words(found, salvage_to))
    return report.is_clean


def _as_object(report: Report, found: Salvaged | None) -> dict[str, Any]:
    shown = {**msgspec.to_builtins(report), "clean": report.is_clean, "readable": report.n_readable}
    if found is not None:
        shown["salvaged"] = {"rows": found.n_salvaged, "unknown": found.n_unknown, "bad": found.n_bad}
    return shown


def _print(report: Report) -> None:
    typer.echo(report.path)
    print_table(
        "What was looked at",
        ["what", "looked at", "damaged", "without checksum"],
        [(check.name, check.n, check.n_bad, check.n_unchecked) for check in report.checks],
    )
    free = human_bytes(report.n_free_pages * PAGE_BYTES)
    typer.echo(f"{human_bytes(report.file_bytes)}, {free} of it free, and a log of {human_bytes(report.wal_bytes)}.")
    for check in report.checks:
        for problem in check.problems:
            typer.echo(f"{check.name}: {problem}")
        if check.n_bad > len(check.problems):
            typer.echo(f"{check.name}: and {check.n_bad - len(check.problems)} more")
    typer.echo(_verdict(report))


def _verdict(report: Report) -> str:
    if not report.is_clean:
        return (
            f"DAMAGED. {report.n_readable} rows can be read as they were written. The daemon puts a damaged spool "
            "aside when it starts and goes on with what can be read of it; --salvage-to FILE does that here."
        )
    if report.version is not None and report.version < len(MIGRATIONS):
        return f"The pages are clean. It is of version {report.version}: start the daemon once to upgrade it."
    if report.version is not None and report.version > len(MIGRATIONS):
        return f"The pages are clean. It is of version {report.version}: use the gatewayd that wrote it for more."
    return "Clean."


def _salvage(config: Path, spool: Path, target: Path) -> Salvaged:
    """Out of a copy. Raises GatewaydError when `target` is there already, or a daemon still changes the spool."""
    if target.exists():
        raise GatewaydError(f"{target} is there already: name a new file")
    if is_in_use(spool):
        error = GatewaydError(f"{spool} is in use: what is copied of it now would not fit together")
        error.hint = "stop the daemon first; to get rows out of a spool in use: gatewayd spool export"
        raise error
    loaded = load(config)
    routes: Mapping[str, Sequence[str]] = {name: route.sinks for name, route in loaded.routes.items()}
    with tempfile.TemporaryDirectory(prefix=".gatewayd-salvage-", dir=target.absolute().parent) as folder:
        for suffix in ("", "-wal"):
            part = spool.with_name(spool.name + suffix)
            if part.exists():
                shutil.copyfile(part, Path(folder) / f"damaged{suffix}")
        fresh = Path(folder) / "fresh"
        found = salvage(Path(folder) / "damaged", fresh, routes=routes, wal_pages=wal_pages_for(loaded.spool.max_bytes))
        fresh.rename(target)
    return found


def _salvaged_in_words(found: Salvaged, target: Path | None) -> str:
    missing = f"{found.n_unknown} are missing by the books" if found.has_books else "what is missing is not known"
    return f"{found.n_salvaged} rows are in {target}; {missing}, {found.n_bad} were not what was written."
