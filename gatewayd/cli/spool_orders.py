"""`gatewayd spool requeue` and `purge`: an order to the running daemon, or, where none runs, carried out here."""

import os
import pwd
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw
import msgspec
import typer
from rich.console import Console
from rich.status import Status

from gatewayd.cli.output import human_bytes, print_json, quiet_logs
from gatewayd.cli.spool import open_reader, spool_of
from gatewayd.clock import SystemClock
from gatewayd.config.load import load
from gatewayd.config.schema import Config
from gatewayd.errors import ConfigError, GatewaydError
from gatewayd.ports import DeadLetter
from gatewayd.spool import purge, requeue
from gatewayd.spool.browse import Browser, Pick, Row, payload_bytes
from gatewayd.spool.opening import Opened, open_store
from gatewayd.spool.orders import Answer, Desk, What, carry_out
from gatewayd.spool.policy import RoutePolicy
from gatewayd.spool.reader import is_in_use

_STEPS = {"requeue": requeue.step, "purge": purge.step}
_VERBS = {"requeue": ("brought back", "would be brought back"), "purge": ("given up", "would be given up for good")}
_NOUNS = {"results": "result", "journal": "message", "dead": "dead letter"}


def give_orders(config: Path, what: What, picks: Sequence[Pick], *, yes: bool, wait_s: float, as_json: bool) -> bool:
    """Ask, do it, and say what came of it. True when all of it was done."""
    _check(what, picks)
    if not yes and not _ask(config, what, picks):
        typer.echo("Nothing was done.")
        return False
    quiet_logs()
    answers = [(pick, _give(config, what, pick, wait_s)) for pick in picks]
    if as_json:
        print_json([_as_object(pick, answer) for pick, answer in answers])
    else:
        for pick, answer in answers:
            _print(what, pick, answer)
    return all(not answer.error and not answer.left and _n_missing(pick, answer) == 0 for pick, answer in answers)


def _check(what: What, picks: Sequence[Pick]) -> None:
    if what == "requeue" and any(pick.table != "dead" for pick in picks):
        raise typer.BadParameter("only dead letters (d:…) can be brought back: the others are on their way")
    if what == "purge" and any(pick.table == "journal" and not (pick.ids or pick.route) for pick in picks):
        raise typer.BadParameter("the messages of which route? They are about to be handled: say --route")


def _ask(config: Path, what: What, picks: Sequence[Pick]) -> bool:
    """Say what would happen; what the person at the terminal says to that."""
    if what == "requeue" and all(pick.ids for pick in picks):
        return True  # named one by one, and it takes nothing away
    with open_reader(config) as reader:
        browser = Browser(reader.connection)
        for pick in picks:
            typer.echo(_in_words(what, pick, browser), err=True)
    if not sys.stdin.isatty():
        raise typer.BadParameter("there is no terminal to ask on: say --yes")
    if what == "purge":
        typer.echo("To keep a copy: gatewayd spool export … -o FILE first.", err=True)
    return typer.confirm("Go on?", err=True)


def _in_words(what: What, pick: Pick, browser: Browser) -> str:
    counts: Counter[str] = Counter()
    n_bytes = 0
    for row in browser.rows(pick):
        counts.update(_about(row, pick))
        n_bytes += payload_bytes(row)
    each = ", ".join(f"{about} {n_each}" for about, n_each in sorted(counts.items()))
    return f"{_count(counts.total(), pick)} ({human_bytes(n_bytes)}) {_VERBS[what][1]}: {each or 'nothing'}."


def _about(row: Row, pick: Pick) -> list[str]:
    """What the row is counted as."""
    if isinstance(row.value, DeadLetter):
        return [f"{row.route}{' -> ' * bool(row.value.sink)}{row.value.sink} {row.value.reason}"]
    if pick.table == "results" and not pick.ids:
        return [f"{row.route} -> {sink}" for sink in row.waiting if pick.sink in ("", sink)]
    return [row.route]


def _count(n: int, pick: Pick) -> str:
    each = ", counted for each sink," if pick.table == "results" and not (pick.ids or pick.sink) else ""
    return f"{n} {_NOUNS[pick.table]}{'' if n == 1 else 's'}{each}"


def _give(config_path: Path, what: What, pick: Pick, wait_s: float) -> Answer:
    config = load(config_path)
    path = spool_of(config_path)
    if _is_in_use(path):
        return _give_to_daemon(path, what, pick, wait_s)
    _check_owner(path)
    try:
        opened = _open(path, config)
    except ConfigError:
        if _is_in_use(path):  # started meanwhile
            return _give_to_daemon(path, what, pick, wait_s)
        raise
    is_done = False
    try:
        routes = list(config.routes)
        answer = carry_out(opened.store, what, pick, routes, _STEPS)
        is_done = True
    finally:
        opened.close(is_clean=is_done)
    return answer


def _open(path: Path, config: Config) -> Opened:
    return open_store(
        path,
        routes={name: route.sinks for name, route in config.routes.items()},
        sinks=config.sinks,
        policies={name: RoutePolicy.of(route) for name, route in config.routes.items()},
        config=config.spool,
        clock=SystemClock(),
    )


def _is_in_use(path: Path) -> bool:
    try:
        return is_in_use(path)
    except PermissionError as error:
        raise _not_ours(path) from error


def _give_to_daemon(path: Path, what: What, pick: Pick, wait_s: float) -> Answer:
    try:
        desk = Desk(path)
    except apsw.Error as error:
        raise _not_ours(path) from error
    console = Console(stderr=True)
    with Status("the daemon was asked", console=console) as status:
        try:
            return desk.give(what, pick, wait_s=wait_s, progress=lambda n: status.update(f"{_count(n, pick)} so far"))
        except (apsw.ReadOnlyError, apsw.CantOpenError, apsw.PermissionsError) as error:
            raise _not_ours(path) from error
        finally:
            desk.close()


def _check_owner(path: Path) -> None:
    """What another user's command makes beside the spool, the daemon could not write."""
    if path.stat().st_uid != os.geteuid():
        raise _not_ours(path)


def _not_ours(path: Path) -> GatewaydError:
    error = GatewaydError(f"{path} belongs to another user, and is not yours to write")
    try:
        owner = pwd.getpwuid(path.stat().st_uid).pw_name
    except (KeyError, OSError):
        owner = "gatewayd"
    error.hint = f"run it as that user: sudo -u {owner} gatewayd spool …"
    return error


def _as_object(pick: Pick, answer: Answer) -> dict[str, Any]:
    return {"table": pick.table, **msgspec.structs.asdict(answer), "missing": _n_missing(pick, answer)}


def _print(what: What, pick: Pick, answer: Answer) -> None:
    typer.echo(f"{_count(answer.n, pick)} {_VERBS[what][0]}.")
    for why, n in answer.left.items():
        example = f" ({answer.examples[why]})" if why in answer.examples else ""
        typer.echo(f"{n} left: {why}{example}.")
    if n_missing := _n_missing(pick, answer):
        typer.echo(f"{n_missing} not there any more.")
    if answer.error:
        typer.echo(f"It ended there: {answer.error}.")


def _n_missing(pick: Pick, answer: Answer) -> int:
    """How many of the ids that were named are not in the spool."""
    return 0 if answer.error else max(0, len(pick.ids) - answer.n - sum(answer.left.values()))
