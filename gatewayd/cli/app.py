"""All commands. Each imports what it needs when it is called, so that `--help` and tab completion stay quick."""

import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from gatewayd.cli import EXIT_FAILED, EXIT_UNAVAILABLE
from gatewayd.cli.learn_app import add_commands
from gatewayd.cli.options import ConfigOption, JsonOption
from gatewayd.cli.prove_app import audit, route
from gatewayd.cli.spool_app import spool
from gatewayd.cli.terminal_app import add_terminal

app = typer.Typer(
    name="gatewayd",
    help="The inference daemon of an IoT gateway.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
models = typer.Typer(help="Model bundles: list, verify, fetch, fit.", no_args_is_help=True)
app.add_typer(spool, name="spool")
app.add_typer(models, name="models")
add_commands(models)
app.add_typer(audit, name="audit")
app.add_typer(route, name="route")
add_terminal(app)


def _run(coroutine: Coroutine[Any, Any, bool | None]) -> bool:
    """Run it on a loop of its own; asyncio takes a fifth of a second to load on a small box, so it is loaded here."""
    import asyncio

    return bool(asyncio.run(coroutine))


def _version(wanted: bool) -> None:
    if wanted:
        from gatewayd import __version__

        typer.echo(f"gatewayd {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Classify and summarize on the gateway, lose nothing, sync when there is a cloud."""


@app.command()
def run(config: ConfigOption) -> None:
    """Run the daemon until SIGTERM (it drains first); SIGHUP reloads the config."""
    from gatewayd.config.environment import read_environment, spare_cores
    from gatewayd.service import run_service

    spare_cores()
    _run(run_service(config, read_environment()))


@app.command()
def check(
    config: ConfigOption,
    against_broker: Annotated[
        bool,
        typer.Option("--against-broker", help="Subscribe as a guest: is it granted, do messages come, do they decode?"),
    ] = False,
    look_s: Annotated[
        float, typer.Option("--look", min=0.1, max=600, help="With --against-broker: how long to listen, in seconds.")
    ] = 3.0,
    changes: Annotated[
        bool, typer.Option("--changes", help="Dry run: what it would change in the daemon that runs, and how.")
    ] = False,
    old: Annotated[
        Path | None, typer.Option("--from", exists=True, dir_okay=False, help="The same, against this config.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print everything that is wrong with a config: file, line, key, what is allowed. Exit status 78 if anything is."""
    from gatewayd.cli.check import More, run_check

    more = More(against_broker=against_broker, look_s=look_s, changes=changes, old=old)
    if status := run_check(config, more, as_json=as_json):
        raise typer.Exit(status)


@app.command()
def demo(
    seconds: Annotated[float, typer.Option(min=8, max=86400, help="How long the devices publish, in seconds.")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the two books alone, as JSON.")] = False,
    keep: Annotated[Path | None, typer.Option(help="Keep spool, config and logs in this folder.")] = None,
    models_dir: Annotated[
        Path | None, typer.Option("--models", help="Where the demo's model bundles are kept.")
    ] = None,
) -> None:
    """The main job before your eyes: broker, devices, models, spool, a cloud that is cut and restored."""
    from gatewayd.cli.demo.show import run_demo

    if not run_demo(seconds=seconds, as_json=as_json, keep=keep, models_dir=models_dir):
        raise typer.Exit(EXIT_FAILED)


@app.command()
def replay(
    recording: Annotated[
        Path,
        typer.Argument(
            exists=True,
            dir_okay=False,
            readable=True,
            help='NDJSON, a line a message: {"topic": "a/b", "payload": 4, "time": 1763700000}; or a *.samples.toml.',
        ),
    ],
    config: ConfigOption,
    update: Annotated[bool, typer.Option("--update", help="Write what came out into the samples file.")] = False,
) -> None:
    """Send a recording through the real parts, without a broker; results go to standard output as CloudEvents."""
    from gatewayd.cli.replay import replay_file

    if not _run(replay_file(recording, config, update=update)):
        raise typer.Exit(EXIT_FAILED)


@app.command()
def status(config: ConfigOption, as_json: JsonOption = False) -> None:
    """What the running daemon says of itself."""
    from gatewayd.cli.status import print_status

    if not _run(print_status(config, as_json=as_json)):
        raise typer.Exit(EXIT_UNAVAILABLE)


@app.command()
def asyncapi(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Print what the config makes the gateway hear and say, as an AsyncAPI 3 document (YAML)."""
    from gatewayd.cli.asyncapi import print_document

    print_document(config, as_json=as_json)


@app.command()
def handlers(
    name: Annotated[str | None, typer.Argument(help="Show this handler's options.")] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Look into its [handlers] paths too.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List handlers, or one handler's options."""
    from gatewayd.cli.handlers import print_handlers

    print_handlers(name, config, as_json=as_json)


@app.command()
def doctor(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Check config, broker, TLS, clock, disk, flash, models, rights, sandbox: ok, warning or failed, and what to do.

    Exit status 1 when anything has failed, 0 otherwise.
    """
    from gatewayd.cli.doctor.examine import examine

    if not _run(examine(config, as_json=as_json)):
        raise typer.Exit(EXIT_FAILED)


@models.command("ls")
def models_ls(config: ConfigOption, as_json: JsonOption = False) -> None:
    """The bundles in the models folder, and what is wrong with those that cannot be used."""
    from gatewayd.cli.models import print_bundles

    print_bundles(config, as_json=as_json)


@models.command("verify")
def models_verify(
    config: ConfigOption, names: Annotated[list[str] | None, typer.Argument(help="Bundles; all if none.")] = None
) -> None:
    """Check every file of the bundles against its sha256."""
    from gatewayd.cli.models import verify_bundles

    if not verify_bundles(config, names or []):
        raise typer.Exit(EXIT_FAILED)


@models.command("fetch")
def models_fetch(
    config: ConfigOption,
    names: Annotated[list[str] | None, typer.Argument(help="minilm-int8, gemma3-270m; both if none.")] = None,
) -> None:
    """Download ready-made bundles into the models folder."""
    from gatewayd.cli.models import fetch_bundles

    fetch_bundles(config, names or [])


@models.command("fit")
def models_fit(
    config: ConfigOption,
    files: Annotated[
        list[Path], typer.Argument(exists=True, help="CSV recordings; with --text CSV or NDJSON of texts.")
    ],
    name: Annotated[str, typer.Option(help="Name of the bundle that is written into the models folder.")],
    version: Annotated[str, typer.Option(help="Version of the bundle.")] = "1",
    text: Annotated[bool, typer.Option("--text", help="Fit a head for classify_text on labeled texts.")] = False,
    label: Annotated[str | None, typer.Option(help="Column of the labels. None: an anomaly detector.")] = None,
    fields: Annotated[
        list[str] | None, typer.Option("--field", help="Column to use; all numeric ones if none.")
    ] = None,
    time: Annotated[str | None, typer.Option(help="Column of the time.")] = None,
    device: Annotated[str | None, typer.Option(help="Column that tells devices apart.")] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="Column never to use; may be given again.")] = None,
    window: Annotated[int, typer.Option(min=2, help="Samples the model looks at.")] = 60,
    false_alarms: Annotated[
        float | None, typer.Option(min=0, max=0.5, help="Share of normal samples that may raise an alarm, e.g. 0.01.")
    ] = None,
    column: Annotated[str, typer.Option(help="With --text: column of the texts.")] = "text",
    encoder: Annotated[str, typer.Option(help="With --text: the encoder's bundle.")] = "minilm-int8",
    as_json: JsonOption = False,
) -> None:
    """Make a model from your own recordings (needs the extra `fit`, which the gateway does not)."""
    from gatewayd.cli import fit

    if text:
        columns = {"text_column": column, "label_column": label or "label"}
        fit.fit_from_texts(config, files, encoder=encoder, as_json=as_json, name=name, version=version, **columns)
        return
    fit.fit_from_recordings(
        config,
        files,
        as_json=as_json,
        name=name,
        version=version,
        fields=fields or None,
        ignore=ignore or (),
        false_alarm_rate=false_alarms,
        label_column=label,
        time_column=time,
        device_column=device,
        window=window,
    )


@models.command("calibrate")
def models_calibrate(
    config: ConfigOption,
    name: Annotated[str, typer.Argument(help="Bundle to calibrate: a head, or a model for series.")],
    files: Annotated[
        list[Path],
        typer.Argument(exists=True, help="Labeled recordings, oldest first, in the form that `models fit` takes."),
    ],
    route: Annotated[str | None, typer.Option(help="Route whose handler and options answer.")] = None,
    handler: Annotated[
        str | None, typer.Option(help="Handler that answers, without a route. Default: what the model was fitted for.")
    ] = None,
    options: Annotated[str | None, typer.Option(help="With --handler: its options, as a JSON object.")] = None,
    accuracy: Annotated[
        float | None,
        typer.Option(min=0.5, max=0.9999, help="Accuracy that the answers which are taken must have: 0.95 if unset."),
    ] = None,
    escalation_rate: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Instead: share of the answers that may be handed on to the next tier."),
    ] = None,
    repeats_once: Annotated[
        bool,
        typer.Option(
            "--repeats-once", help="With --escalation-rate: what repeats counts once; the tier above has `recall`."
        ),
    ] = False,
    label: Annotated[str | None, typer.Option(help="Column of the labels; of texts `label` if unset.")] = None,
    column: Annotated[str, typer.Option(help="Column of the texts.")] = "text",
    time: Annotated[str | None, typer.Option(help="Column of the time.")] = None,
    device: Annotated[str | None, typer.Option(help="Column that tells devices apart.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Write the reliability curve here, as SVG.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Learn how sure a model may be, and from when on its answer is taken (needs the extra `fit`)."""
    from gatewayd.cli.calibrate import Asked, calibrate_model

    asked = Asked(
        name=name,
        files=files,
        route=route,
        handler=handler,
        options=options,
        accuracy=accuracy,
        escalation_rate=escalation_rate,
        repeats_once=repeats_once,
        label=label,
        column=column,
        time=time,
        device=device,
        picture=picture,
    )
    calibrate_model(config, asked, as_json=as_json)


if __name__ == "__main__":
    sys.exit(app())
