"""`gatewayd doctor`: each thing a gateway needs, looked at in turn, with what to do where it is not right."""

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from gatewayd.board.watch import in_words
from gatewayd.checked import handler_problems
from gatewayd.cli.output import cause, human_bytes, print_json, quiet_logs
from gatewayd.clock import RELEASED, ask_system
from gatewayd.config.environment import Paths, read_environment, resolve_paths
from gatewayd.config.load import examine as examine_config
from gatewayd.config.schema import Config
from gatewayd.errors import ConfigError, ModelError
from gatewayd.models.store import ModelStore

_BROKER_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    what: str
    ok: bool
    words: str
    hint: str = ""


async def examine(config_path: Path, *, as_json: bool) -> bool:
    """Print what was found. True when nothing is wrong."""
    quiet_logs()
    findings = [finding async for finding in _findings(config_path)]
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            typer.echo(f"{'ok   ' if finding.ok else 'WRONG'} {finding.what}: {finding.words}")
            if finding.hint:
                typer.echo(f"      -> {finding.hint}")
    return all(finding.ok for finding in findings)


async def _findings(config_path: Path) -> AsyncIterator[Finding]:
    config, problems = examine_config(config_path, handler_problems(config_path))
    errors = [str(problem) for problem in problems if not problem.is_warning]
    yield Finding(
        "config",
        not errors,
        "; ".join(errors) or str(config_path),
        "run `gatewayd check`" if errors else "",
    )
    yield _clock(config_path, config)
    if config is None or errors:
        return
    environment = read_environment()
    paths = resolve_paths(config, environment, config_path)
    yield await _broker(config)
    for finding in _models(config, paths):
        yield finding
    words, hint = in_words(config.board)
    yield Finding("board", ok=True, words=words, hint=hint)
    yield _disk(config, paths)
    yield _spool(paths)


def _clock(config_path: Path, config: Config | None) -> Finding:
    name = "" if config is None else config.gateway.clock_sync_file
    sync_file = config_path.absolute().parent / name if name else None
    if time.time() < RELEASED:
        hint = "set up time synchronization (systemd-timesyncd, chrony); TLS fails until then, order is kept regardless"
        return Finding("clock", ok=False, words=f"it is {time.ctime()} here", hint=hint)
    words = time.strftime("%Y-%m-%d %H:%M:%S %z")
    hint = ""
    if ask_system(sync_file) is False:
        words += ", not synchronized"
        hint = "results are marked `unsynced` until it is: see gateway.clock_sync_file, systemd-timesyncd, chrony"
    return Finding("clock", ok=True, words=words, hint=hint)


async def _broker(config: Config) -> Finding:
    source = config.source
    where = source.unix_socket or f"{source.host}:{source.port}"
    try:
        async with asyncio.timeout(_BROKER_WAIT_S):
            if source.unix_socket:
                _, writer = await asyncio.open_unix_connection(source.unix_socket)
            else:
                _, writer = await asyncio.open_connection(source.host, source.port)
    except (OSError, TimeoutError) as error:
        hint = "is Mosquitto running? does it listen there?"
        return Finding("broker", ok=False, words=f"{where}: {cause(error)}", hint=hint)
    writer.close()
    return Finding("broker", ok=True, words=f"{where} accepts connections")


def _models(config: Config, paths: Paths) -> list[Finding]:
    named = sorted({str(route.options["model"]) for route in config.routes.values() if "model" in route.options})
    store = ModelStore(paths.models, config.models)
    findings = []
    for name in named:
        problem = _model_problem(store, name)
        hint = "" if problem is None else "see `gatewayd models ls`; `gatewayd models fetch` and `fit` make bundles"
        findings.append(Finding(f"model {name}", problem is None, problem or "verified", hint))
    return findings


def _model_problem(store: ModelStore, name: str) -> str | None:
    try:
        store.verify(name)
    except ModelError as error:
        return str(error)
    return None


def _disk(config: Config, paths: Paths) -> Finding:
    folder = next(parent for parent in (paths.state_dir, *paths.state_dir.parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    words = (
        f"{human_bytes(free)} free for a spool of at most {human_bytes(config.spool.max_bytes)} in {paths.state_dir}"
    )
    if not os.access(folder, os.W_OK):
        hint = "run this as the daemon's user, or give the folder to that user; see gateway.state_dir"
        return Finding("disk", ok=False, words=f"{folder} cannot be written to", hint=hint)
    hint = "" if free > config.spool.max_bytes else "free some space, or lower spool.max_bytes"
    return Finding("disk", free > config.spool.max_bytes, words, hint)


def _spool(paths: Paths) -> Finding:
    from gatewayd.spool.reader import SpoolReader

    if not paths.spool.exists():
        return Finding("spool", ok=True, words="none yet; it is made when the daemon first runs")
    try:
        with SpoolReader.open(paths.spool) as reader:
            books = reader.books()
    except ConfigError as error:
        hint = "if it is damaged, move it aside: the daemon makes a new one; what it held can be looked at with sqlite3"
        return Finding("spool", ok=False, words=error.problem, hint=hint)
    words = "both books balance" if books.balanced else "the books do not balance"
    return Finding("spool", books.balanced, words, "" if books.balanced else "run `gatewayd spool audit`")
