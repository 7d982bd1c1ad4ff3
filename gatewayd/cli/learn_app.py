"""`gatewayd models lessons|distill|adopt`: their options. Each imports what it needs when it is called."""

from pathlib import Path
from typing import Annotated

import typer

from gatewayd.cli.options import ConfigOption, JsonOption


def add_commands(models: typer.Typer) -> None:
    """To `gatewayd models`."""
    models.command("lessons")(models_lessons)
    models.command("distill")(models_distill)
    models.command("adopt")(models_adopt)


def models_lessons(
    config: ConfigOption,
    purge: Annotated[str, typer.Option(metavar="ROUTE", help="Remove the lessons of this route.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """What higher tiers have answered and was kept, by route. Lessons hold payloads, and stay on this box."""
    from gatewayd.cli.distill import list_lessons, purge_lessons

    if purge:
        purge_lessons(config, purge, yes=yes)
        return
    list_lessons(config, as_json=as_json)


def models_distill(
    config: ConfigOption,
    route: Annotated[str, typer.Argument(help="Route whose first tier learns.")],
    also: Annotated[
        list[Path] | None,
        typer.Option("--also", exists=True, help="Labeled texts to fit on as well, e.g. those it was fitted on first."),
    ] = None,
    label: Annotated[str, typer.Option(help="With --also: column of the labels.")] = "label",
    accuracy: Annotated[
        float, typer.Option(min=0.5, max=0.9999, help="Accuracy its taken answers must have: chooses its threshold.")
    ] = 0.95,
    as_json: JsonOption = False,
) -> None:
    """Make the next student of what higher tiers have answered, judge both, and offer it (needs the extra `fit`)."""
    from gatewayd.cli.distill import distill_route

    distill_route(config, route, also or [], label=label, accuracy=accuracy, as_json=as_json)


def models_adopt(
    config: ConfigOption,
    name: Annotated[str, typer.Argument(metavar="ROUTE|NAME", help="Whose offer: the route's, or the bundle's name.")],
    discard: Annotated[bool, typer.Option("--discard", help="Remove the offer instead.")] = False,
) -> None:
    """Put an offered student into its place."""
    from gatewayd.cli.distill import adopt_offer

    adopt_offer(config, name, remove=discard)
