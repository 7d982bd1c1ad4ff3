"""`gatewayd init|tail|top`: their options. Each imports what it needs when it is called."""

from pathlib import Path
from typing import Annotated

import typer

from gatewayd.cli import EXIT_FAILED, EXIT_UNAVAILABLE
from gatewayd.cli.options import ConfigOption


def add_terminal(app: typer.Typer) -> None:
    """To `gatewayd`."""
    app.command("init")(init)
    app.command("tail")(tail)
    app.command("top")(top)


def init(
    config: Annotated[Path, typer.Option("--config", "-c", help="File to write.")] = Path("config.toml"),
    gateway: Annotated[str | None, typer.Option(help="Name of this gateway. Default: the host's name.")] = None,
    broker: Annotated[
        str | None, typer.Option(help="mqtt://[user@]host[:port], mqtts:// for TLS, or the path of a Unix socket.")
    ] = None,
    results: Annotated[
        str | None, typer.Option(help="file[:PATH], http(s)://…, mqtt(s)://…, or none (they stay on the local bus).")
    ] = None,
    topics: Annotated[
        list[str] | None, typer.Option("--topics", help="Topic filter; may be given again. Default: all that is seen.")
    ] = None,
    handler: Annotated[str | None, typer.Option(help="This handler for all of them. Default: as proposed.")] = None,
    password_file: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, readable=True, help="File with the user's password.")
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, readable=True, help="With TLS: authorities to trust.")
    ] = None,
    state_dir: Annotated[str, typer.Option(help="Folder of the spool, where it is not to be the usual one.")] = "",
    look_s: Annotated[
        float, typer.Option("--look", min=0.1, max=600, help="How long to listen to the broker, in seconds.")
    ] = 5.0,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Ask nothing: what no option says stands at its default.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a config; the old one is kept as FILE.old.")] = False,
) -> None:
    """Ask five questions, look at the broker's topics, and write a config that works."""
    from gatewayd.cli.setup.answers import AnswerError
    from gatewayd.cli.setup.run import Asked, write_config

    asked = Asked(
        config=config,
        gateway=gateway,
        broker=broker,
        results=results,
        topics=topics or [],
        handler=handler,
        password_file=password_file,
        ca_file=ca_file,
        state_dir=state_dir,
        look_s=look_s,
        yes=yes,
        force=force,
    )
    try:
        is_sound = write_config(asked)
    except AnswerError as error:
        raise typer.BadParameter(str(error)) from error
    if not is_sound:
        raise typer.Exit(EXIT_FAILED)


def tail(
    config: ConfigOption,
    route: Annotated[str, typer.Argument(metavar="[ROUTE]", help="This route alone.")] = "",
    n_latest: Annotated[int, typer.Option("--lines", "-n", min=0, max=1000, help="Latest results to begin with.")] = 10,
    with_log: Annotated[bool, typer.Option("--log", help="The daemon's log lines as well.")] = False,
    stay: Annotated[bool, typer.Option("--follow/--no-follow", help="Go on with what comes, until Ctrl-C.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line, for scripts.")] = False,
) -> None:
    """Results as they come, a line each. Exit status 69 when no daemon answers."""
    from gatewayd.cli.tail import Tail, run_tail

    tail_of = Tail(route=route, as_json=as_json, with_log=with_log)
    if not run_tail(config, tail_of, n_latest=n_latest, stay=stay):
        raise typer.Exit(EXIT_UNAVAILABLE)


def top(
    config: ConfigOption,
    once: Annotated[bool, typer.Option("--once", help="Print one picture as plain text, and end.")] = False,
) -> None:
    """The flow in this terminal, each second: q ends it, arrows choose a route, tab changes what is shown below.

    Without a terminal it prints a line a second. Exit status 69 when no daemon answers.
    """
    from gatewayd.cli.top.screen import run_top

    if not run_top(config, once=once):
        raise typer.Exit(EXIT_UNAVAILABLE)
