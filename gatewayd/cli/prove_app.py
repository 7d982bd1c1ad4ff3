"""`gatewayd audit …`, `gatewayd route …`: what was decided, what would be. Each imports what it needs when called."""

from pathlib import Path
from typing import Annotated

import typer

from gatewayd.cli import EXIT_FAILED
from gatewayd.cli.options import ConfigOption, JsonOption

route = typer.Typer(help="Routes: what would become of a message.", no_args_is_help=True)
audit = typer.Typer(help="The audit trail of decisions: verify, show, export.", no_args_is_help=True)

FolderOption = Annotated[
    Path | None,
    typer.Option("--folder", exists=True, file_okay=False, help="Of this folder: a copy, or a trail kept aside."),
]
RouteOption = Annotated[str, typer.Option("--route", help="Of this route alone.")]
SinceOption = Annotated[str, typer.Option(help="From this time on: ISO 8601 (without an offset: UTC), or seconds.")]
UntilOption = Annotated[str, typer.Option(help="Before this time.")]


@audit.command("verify")
def audit_verify(
    config: ConfigOption,
    folder: FolderOption = None,
    noted: Annotated[str, typer.Option(help="A hash that was noted earlier: the line with it must be there.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Recompute the chain over all files, tell gaps. Exit status 1, and the first line that does not fit, if any."""
    from gatewayd.cli.audit import verify

    if not verify(config, folder, noted=noted, as_json=as_json):
        raise typer.Exit(EXIT_FAILED)


@audit.command("show")
def audit_show(
    config: ConfigOption,
    folder: FolderOption = None,
    route: RouteOption = "",
    since: SinceOption = "",
    until: UntilOption = "",
    limit: Annotated[int, typer.Option(min=1, help="The last so many.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """The last decisions, the newest last."""
    from gatewayd.cli.audit import pick_of, show

    show(config, folder, pick_of(route, since, until), limit=limit, as_json=as_json)


@audit.command("export")
def audit_export(
    config: ConfigOption,
    folder: FolderOption = None,
    route: RouteOption = "",
    since: SinceOption = "",
    until: UntilOption = "",
) -> None:
    """Lines with their chain to standard output; what is left out in between as its digest, so that the chain holds."""
    from gatewayd.cli.audit import export, pick_of

    if not export(config, folder, pick_of(route, since, until)):
        raise typer.Exit(EXIT_FAILED)


@route.command("test")
def route_test(
    config: ConfigOption,
    name: Annotated[str, typer.Argument(metavar="ROUTE", help="Name of the route.")],
    samples: Annotated[
        Path | None,
        typer.Argument(
            exists=True, dir_okay=False, readable=True, help="Default: samples/ROUTE.samples.toml beside the config."
        ),
    ] = None,
    update: Annotated[bool, typer.Option("--update", help="Write what came out into the samples file.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Send golden samples through the route's payload settings, handler and options. Exit status 1 if any differs."""
    from gatewayd.cli.route_test import run_route_test

    if not run_route_test(config, name, samples, update=update, as_json=as_json):
        raise typer.Exit(EXIT_FAILED)


@route.command("explain")
def route_explain(
    config: ConfigOption,
    name: Annotated[str, typer.Argument(metavar="ROUTE", help="Name of the route.")],
    message: Annotated[str | None, typer.Argument(help="The payload; - reads it from standard input.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", exists=True, dir_okay=False, help="The payload from a file; of a recording (*.ndjson) the last."
        ),
    ] = None,
    topic: Annotated[str, typer.Option(help="Its topic. Default: one that the route's first filter matches.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Where a message would go and why: its own tiers answer for real, nothing is sent."""
    from gatewayd.cli.explain import Asked, explain_message

    explain_message(config, Asked(route=name, message=message, file=file, topic=topic), as_json=as_json)
