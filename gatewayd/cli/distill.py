"""`gatewayd models lessons|distill|adopt`: what was learned from higher tiers, and the student made of it."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import typer

from gatewayd.cascade.lesson_files import FOLDER, Shelf, look, purge, read_lessons
from gatewayd.cli.output import human_bytes, print_json, print_table, quiet_logs
from gatewayd.config.environment import Paths, read_environment, resolve_paths
from gatewayd.config.load import load
from gatewayd.config.schema import Config
from gatewayd.config.tiers import HandlerTier
from gatewayd.errors import ConfigError, ModelError
from gatewayd.events import event_time
from gatewayd.models.bundle import Manifest, read_bundle
from gatewayd.models.offers import adopt, discard, list_offers, read_report
from gatewayd.models.store import ModelStore
from gatewayd.registry import find_handlers, load_handler, make_handler


def list_lessons(config_path: Path, *, as_json: bool) -> None:
    """One line a route."""
    _, paths = _loaded(config_path)
    shelves = look(paths.state_dir / FOLDER)
    if as_json:
        print_json(shelves)
        return
    if not shelves:
        typer.echo("No lessons. A route keeps them where escalation.lessons = true and a higher tier has answered.")
        return
    columns = ["route", "lessons", "rehearsals", "size", "from", "to", "labels"]
    print_table("Lessons", columns, [_row(shelf) for shelf in shelves])


def purge_lessons(config_path: Path, route: str, *, yes: bool) -> None:
    """Remove a route's lessons."""
    _, paths = _loaded(config_path)
    root = paths.state_dir / FOLDER
    if route not in {shelf.route for shelf in look(root)}:
        typer.echo(f"No lessons of route {route}.")
        return
    if not yes:
        typer.confirm(f"Remove all lessons of route {route}?", abort=True)
    typer.echo(f"{human_bytes(purge(root, [route]))} removed.")


def distill_route(
    config_path: Path, route: str, also: Sequence[Path], *, label: str, accuracy: float, as_json: bool
) -> None:
    """Fit, judge and offer the next student of a route. Raises ConfigError, ModelError."""
    from gatewayd.models.distill import distill
    from gatewayd.models.fit_head import require_sklearn

    require_sklearn()
    config, paths = _loaded(config_path)
    store = ModelStore(paths.models, config.models)
    lessons = (each for each in read_lessons(paths.state_dir / FOLDER / route) if each is not None)
    try:
        student = student_of(config, route, paths, store)
        report = distill(
            route,
            student,
            lessons,
            store,
            paths.models,
            config.models,
            also=also,
            label_column=label,
            accuracy=accuracy,
        )
    finally:
        store.close()
    if as_json:
        print_json(msgspec.to_builtins(report, enc_hook=str))
    else:
        _show(report)
        _tell_next(report.name, has_head=student.manifest is not None)


def adopt_offer(config_path: Path, name: str, *, remove: bool) -> None:
    """Take an offer, or remove it; `name` is the bundle's, or the route's it was made for."""
    config, paths = _loaded(config_path)
    name = _offered_name(config, name, paths)
    if remove:
        discard(paths.models, name)
        typer.echo(f"The offer {name} is removed; nothing else has changed.")
        return
    report = read_report(paths.models, name)
    folder = adopt(paths.models, name)
    version = read_bundle(folder, name=name).manifest.version
    typer.echo(f"{folder} is now version {version}.")
    if config.models.watch_s:
        typer.echo(f"A running daemon takes it over within {config.models.watch_s:g} s, without a message lost.")
    else:
        typer.echo("A running daemon takes it over when it reloads: systemctl reload gatewayd")
    if report.get("notes"):
        typer.echo("When it was made: " + "; ".join(report["notes"]))


def student_of(config: Config, route: str, paths: Paths, store: ModelStore) -> Any:
    """The first tier of the route. Raises ConfigError when it is none that can be distilled."""
    from gatewayd.models.distill_data import Student

    found = config.routes.get(route)
    if found is None:
        raise ConfigError("routes", f"there is no route {route!r}; there are: {', '.join(config.routes) or 'none'}")
    if not found.tiers:
        raise ConfigError(f"routes.{route}.tiers", "the route has no tiers: there is nobody to learn from")
    tier = config.tiers[found.tiers[0]]
    assert isinstance(tier, HandlerTier), "checked with the config"
    named = {name: tier.options.get(name) for name in ("head", "model")}
    bundle = str(named["head"] or ("" if tier.options.get("labels") else named["model"] or ""))
    manifest: Manifest | None = None
    if bundle:
        store.get(bundle)  # raises, and names the models there are
        manifest = read_bundle(paths.models / bundle, name=bundle).manifest
    is_text = manifest is None or manifest.task == "text-classification-head"
    if manifest is not None and not is_text and not manifest.task.startswith("series-"):
        problem = f"{bundle} has the task {manifest.task!r}: heads for texts and models for series can be distilled"
        raise ConfigError(f"tiers.{found.tiers[0]}", problem)
    handlers = find_handlers([paths.config_dir / path for path in config.handlers.paths])
    handler: Any = load_handler(tier.handler, handlers, key=f"tiers.{found.tiers[0]}.handler")
    if is_text and not hasattr(handler, "encoder"):
        raise ConfigError(f"tiers.{found.tiers[0]}.handler", f"{tier.handler} has no encoder a head could be fitted on")

    def make(options: Any) -> Any:
        wanted = {**options, "emit": "always"} if "emit" in options else options  # all answers are judged
        return make_handler(handler, wanted, key=f"tiers.{found.tiers[0]}.options")

    def encode(encoder: str, max_tokens: int, mask: bool) -> Any:
        return handler.encoder(store, encoder, max_tokens=max_tokens, mask_numbers=mask)

    return Student(
        tier=found.tiers[0],
        config=tier,
        kind="text" if is_text else "series",
        name=bundle or f"{route}-student",
        manifest=manifest,
        make=make,
        encode=encode,
    )


def _offered_name(config: Config, name: str, paths: Paths) -> str:
    offers = list_offers(paths.models)
    if name in offers or name not in config.routes:
        return name
    made_for = [offer for offer in offers if read_report(paths.models, offer).get("route") == name]
    if not made_for:
        raise ModelError(f"there is no offer for route {name!r}: `gatewayd models distill {name}` makes one")
    return made_for[0]


def _loaded(config_path: Path) -> tuple[Config, Paths]:
    quiet_logs()
    config = load(config_path)
    return config, resolve_paths(config, read_environment(), config_path)


def _row(shelf: Shelf) -> list[object]:
    labels = ", ".join(f"{label} {n}" for label, n in shelf.labels.items())
    size = human_bytes(shelf.n_bytes)
    return [
        shelf.route,
        shelf.n_taught,
        shelf.n_rehearsals,
        size,
        event_time(shelf.first),
        event_time(shelf.last),
        labels,
    ]


def _show(report: Any) -> None:
    old, new = report.present, report.offered
    typer.echo(
        f"fitted on {report.n_fitted} lessons and {report.n_rehearsals_fitted} answers the present student was sure of"
    )
    labels = sorted({*old.f1, *new.f1})
    f1 = [(f"F1 of {label}", old.f1.get(label, 0.0), new.f1.get(label, 0.0)) for label in labels]
    figures = [
        ("right", old.accuracy, new.accuracy),
        *f1,
        ("calibration error", old.ece, new.ece),
        (f"handed on, accept {old.accept:.4g}", old.escalation_rate, new.escalation_rate),
        ("right of those taken", old.taken_accuracy, new.taken_accuracy),
        (f"still sure, of {old.n_rehearsals}", old.still_sure, new.still_sure),
    ]
    rows = [("version", old.version, new.version), *((name, _share(one), _share(two)) for name, one, two in figures)]
    print_table(f"On the {old.n} latest lessons, which neither was fitted on", ["", "present", "offered"], rows)
    typer.echo(f"a threshold of its own: {report.offered_accept:.4g}")
    if report.is_whole:
        typer.echo("after it was judged it was fitted once more, on the latest lessons too, and answers them no worse")
    for note in report.notes:
        typer.echo(f"note: {note}")


def _share(number: float) -> str:
    return "none" if math.isnan(number) else f"{number:.3f}"


def _tell_next(name: str, *, has_head: bool) -> None:
    typer.echo(f"Nothing has changed yet. Take it: gatewayd models adopt {name}; or not: … {name} --discard")
    if not has_head:
        typer.echo(f'The tier has no head today: then set options.head = "{name}" in place of options.labels.')
