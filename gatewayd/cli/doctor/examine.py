"""All findings, in the order in which a gateway needs them. Exit status: 0 when nothing has failed, 1 otherwise."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict
from pathlib import Path

import typer

from gatewayd.checked import handler_problems
from gatewayd.cli.doctor import box, service
from gatewayd.cli.doctor.broker import examine_broker, own_certificates
from gatewayd.cli.doctor.finding import Finding, failed, good, warning
from gatewayd.cli.output import print_json, quiet_logs
from gatewayd.config.environment import Paths, read_environment, resolve_paths
from gatewayd.config.load import examine as examine_config
from gatewayd.config.schema import Config
from gatewayd.errors import ConfigError, ModelError
from gatewayd.models.store import ModelStore


async def examine(config_path: Path, *, as_json: bool) -> bool:
    """Print what was found. True when nothing has failed."""
    quiet_logs()
    findings: list[Finding] = []
    async for finding in _findings(config_path):
        findings.append(finding)
        if not as_json:
            typer.echo(f"{finding.state:7} {finding.what}: {finding.words}")
            if finding.hint:
                typer.echo(f"        -> {finding.hint}")
    if as_json:
        print_json([asdict(finding) | {"ok": finding.ok} for finding in findings])
    return all(finding.ok for finding in findings)


async def _findings(config_path: Path) -> AsyncIterator[Finding]:
    config, problems = examine_config(config_path, handler_problems(config_path))
    errors = [str(problem) for problem in problems if not problem.is_warning]
    yield _config(config_path, errors, [str(problem) for problem in problems if problem.is_warning])
    yield box.clock(config_path, config)
    if config is None or errors:
        return
    paths = resolve_paths(config, read_environment(), config_path)
    async for finding in examine_broker(config, config_path):
        yield finding
    for finding in _at_home(config, paths, config_path):
        yield finding


def _at_home(config: Config, paths: Paths, config_path: Path) -> Iterator[Finding]:
    """What lies on this box."""
    yield from own_certificates(config)
    yield from _models(config, paths)
    yield box.board(config)
    yield from box.disk(config, paths)
    yield from box.flash()
    yield _spool(paths)
    yield from service.rights(config, paths, config_path)
    yield service.web(config)
    yield from service.sandbox()
    yield service.user()


def _config(path: Path, errors: list[str], warnings: list[str]) -> Finding:
    if errors:
        return failed("config", "; ".join(errors), "run `gatewayd check`")
    if warnings:
        return warning("config", "; ".join(warnings), "change it, or leave it knowingly")
    return good("config", str(path))


def _models(config: Config, paths: Paths) -> Iterator[Finding]:
    options = [route.options for route in config.routes.values() if route.enabled]
    options += [getattr(tier, "options", {}) for tier in config.tiers.values()]
    named = {str(each[key]) for each in options for key in ("model", "head") if isinstance(each.get(key), str)}
    store = ModelStore(paths.models, config.models)
    for name in sorted(named - {""}):
        try:
            store.verify(name)
        except ModelError as error:
            yield failed(
                f"model {name}", str(error), "see `gatewayd models ls`; `gatewayd models fetch` and `fit` make bundles"
            )
        else:
            yield good(f"model {name}", "verified")


def _spool(paths: Paths) -> Finding:
    from gatewayd.spool.reader import SpoolReader

    if not paths.spool.exists():
        return good("spool", "none yet; it is made when the daemon first runs")
    try:
        with SpoolReader.open(paths.spool) as reader:
            books = reader.books()
    except ConfigError as error:
        hint = "if it is damaged, move it aside: the daemon makes a new one; what it held can be looked at with sqlite3"
        return failed("spool", error.problem, hint)
    if not books.balanced:
        return failed("spool", "the books do not balance", "run `gatewayd spool audit`")
    return good("spool", "both books balance")
