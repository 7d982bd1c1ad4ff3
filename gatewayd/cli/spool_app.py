"""`gatewayd spool …`: its commands and their options. Each imports what it needs when it is called."""

from pathlib import Path
from typing import Annotated

import typer

from gatewayd.cli import EXIT_FAILED
from gatewayd.cli.options import ConfigOption, JsonOption

spool = typer.Typer(help="Look into the spool, beside a running daemon, and mend what is in it.", no_args_is_help=True)

RouteOption = Annotated[str, typer.Option("--route", help="Of this route alone.")]
SinkOption = Annotated[
    str, typer.Option("--sink", help="Results this sink waits for; with --dead, those it has refused.")
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Dead letters that were buried for this reason alone.")]
DeadOption = Annotated[bool, typer.Option("--dead", help="Dead letters.")]
ResultsOption = Annotated[bool, typer.Option("--results", help="Results that are not delivered to every sink yet.")]
JournalOption = Annotated[bool, typer.Option("--journal", help="Messages that wait to be handled.")]
IdsArgument = Annotated[list[str] | None, typer.Argument(help="Ids as `ls` prints them: r:12, j:12, d:12.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
WaitOption = Annotated[
    float, typer.Option("--wait", min=0, help="How long the running daemon may make no progress, in seconds.")
]


@spool.command("status")
def status(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Rows, bytes, oldest age."""
    from gatewayd.cli.spool import print_status

    print_status(config, as_json=as_json)


@spool.command("audit")
def audit(config: ConfigOption, as_json: JsonOption = False) -> None:
    """The two books: what came in, what came of it, and where it is. Exit status 1 if they do not balance."""
    from gatewayd.cli.spool import print_books

    if not print_books(config, as_json=as_json):
        raise typer.Exit(EXIT_FAILED)


@spool.command("ls")
def ls(
    config: ConfigOption,
    dead: DeadOption = False,
    journal: JournalOption = False,
    route: RouteOption = "",
    sink: SinkOption = "",
    reason: ReasonOption = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """What is in the spool: results on their way, the oldest first; messages with --journal, dead letters with --dead.

    Dead letters come newest first. Each row has an id, by which `show`, `requeue` and `purge` know it.
    """
    from gatewayd.cli.spool_rows import pick_of, print_rows

    pick = pick_of(dead=dead, journal=journal, route=route, sink=sink, reason=reason)
    print_rows(config, pick, limit=limit, as_json=as_json)


@spool.command("dead")
def list_dead(
    config: ConfigOption,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Dead letters: what was put aside, and why. The same as `ls --dead`."""
    from gatewayd.cli.spool_rows import pick_of, print_rows

    print_rows(config, pick_of(dead=True), limit=limit, as_json=as_json)


@spool.command("show")
def show(
    config: ConfigOption,
    row: Annotated[str, typer.Argument(help="An id as `ls` prints it: r:12, j:12, d:12.")],
    as_json: JsonOption = False,
) -> None:
    """One row whole: all that is known of it, and its payload as text, or in hexadecimal when it is none."""
    from gatewayd.cli.spool_rows import print_row

    print_row(config, row, as_json=as_json)


@spool.command("export")
def export(
    config: ConfigOption,
    ids: IdsArgument = None,
    dead: DeadOption = False,
    results: ResultsOption = False,
    journal: JournalOption = False,
    route: RouteOption = "",
    sink: SinkOption = "",
    reason: ReasonOption = "",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File; standard output if none.")] = None,
) -> None:
    """Write rows as CloudEvents, one a line: results as sinks send them, messages so that `gatewayd replay` reads them.

    Nothing leaves the spool by it. Exit status 1 when a row is damaged and was left out.
    """
    from gatewayd.cli.spool_export import export_rows
    from gatewayd.cli.spool_rows import picks_of_ids_or

    picks = picks_of_ids_or(
        ids or [], dead=dead, results=results, journal=journal, route=route, sink=sink, reason=reason
    )
    if not export_rows(config, picks, output):
        raise typer.Exit(EXIT_FAILED)


@spool.command("requeue")
def requeue(
    config: ConfigOption,
    ids: IdsArgument = None,
    dead: DeadOption = False,
    route: RouteOption = "",
    sink: Annotated[str, typer.Option("--sink", help="What this sink has refused alone.")] = "",
    reason: ReasonOption = "",
    yes: YesOption = False,
    wait_s: WaitOption = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Bring dead letters back: messages to their route, refused results to the sink that refused them.

    The running daemon does it; without one the command does. Exit status 1 when some could not be brought back.
    """
    from gatewayd.cli.spool_orders import give_orders
    from gatewayd.cli.spool_rows import picks_of_ids_or

    picks = picks_of_ids_or(ids or [], dead=dead, route=route, sink=sink, reason=reason)
    if not give_orders(config, "requeue", picks, yes=yes, wait_s=wait_s, as_json=as_json):
        raise typer.Exit(EXIT_FAILED)


@spool.command("purge")
def purge(
    config: ConfigOption,
    ids: IdsArgument = None,
    dead: DeadOption = False,
    results: ResultsOption = False,
    journal: Annotated[
        bool, typer.Option("--journal", help="Messages that wait to be handled; with --route alone.")
    ] = False,
    route: RouteOption = "",
    sink: Annotated[
        str,
        typer.Option("--sink", help="Results this sink waits for, for it alone; with --dead, those it has refused."),
    ] = "",
    reason: ReasonOption = "",
    older_than: Annotated[
        str, typer.Option("--older-than", help="Dead letters of before that alone: 90s, 30m, 12h, 7d.")
    ] = "",
    yes: YesOption = False,
    wait_s: WaitOption = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Give rows up for good. It says what would go and asks; the books count what went, under `purged`.

    The running daemon does it; without one the command does. Exit status 1 when some had to stay.
    """
    from gatewayd.cli.spool_orders import give_orders
    from gatewayd.cli.spool_rows import picks_of_ids_or

    picks = picks_of_ids_or(
        ids or [],
        dead=dead,
        results=results,
        journal=journal,
        route=route,
        sink=sink,
        reason=reason,
        older_than=older_than,
    )
    if not give_orders(config, "purge", picks, yes=yes, wait_s=wait_s, as_json=as_json):
        raise typer.Exit(EXIT_FAILED)


@spool.command("fsck")
def fsck(
    config: ConfigOption,
    path: Annotated[
        Path | None,
        typer.Argument(exists=True, dir_okay=False, help="A spool file, of a copy too; this config's if none."),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="SQLite's integrity_check in place of its quick_check.")] = False,
    salvage_to: Annotated[
        Path | None, typer.Option("--salvage-to", help="Write what can be read into this new file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a spool, one in use or a damaged copy; it only reads. Exit status 1 when something is damaged."""
    from gatewayd.cli.spool_fsck import check_spool

    if not check_spool(config, path, full=full, salvage_to=salvage_to, as_json=as_json):
        raise typer.Exit(EXIT_FAILED)
