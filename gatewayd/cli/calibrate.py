"""`gatewayd models calibrate`: how sure a model may be, learned from the user's own labeled recordings."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import typer

from gatewayd.api import Handler
from gatewayd.cli.fit import progress_bar
from gatewayd.cli.output import print_json, quiet_logs
from gatewayd.config.environment import read_environment, resolve_paths
from gatewayd.config.load import load
from gatewayd.config.schema import Config
from gatewayd.config.tiers import HandlerTier
from gatewayd.errors import ConfigError, ModelError
from gatewayd.models.bundle import Manifest, read_bundle
from gatewayd.models.calibrate import Calibrated, CalibrationReport, Goal, calibrate
from gatewayd.models.calibrate_picture import reliability_svg
from gatewayd.models.calibrate_run import Labeled, read_labeled_series, read_labeled_texts
from gatewayd.models.store import ModelStore
from gatewayd.registry import find_handlers, load_handler, make_handler

Options = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The command line."""

    name: str
    files: Sequence[Path]
    route: str | None
    handler: str | None
    options: str | None  # a JSON object
    accuracy: float | None
    escalation_rate: float | None
    repeats_once: bool
    label: str | None
    column: str
    time: str | None
    device: str | None
    picture: Path | None


def calibrate_model(config_path: Path, asked: Asked, *, as_json: bool) -> None:
    """Calibrate one bundle and say what came of it. Raises ConfigError, ModelError."""
    quiet_logs()
    config = load(config_path)
    folder = resolve_paths(config, read_environment(), config_path).models
    goal = _goal(asked)
    if not (folder / asked.name).exists():
        ModelStore(folder, config.models).get(asked.name)  # raises, and names the models there are
    manifest = read_bundle(folder / asked.name, name=asked.name).manifest
    handler_name, options = _answering(config, manifest, asked)
    labeled = _read(manifest, options, asked)
    store, bar = ModelStore(folder, config.models), progress_bar()
    try:
        done = calibrate(
            store,
            folder,
            asked.name,
            handler=_handler(config, handler_name, options),
            labeled=labeled,
            goal=goal,
            progress=lambda n, total: bar("samples", n, total),
        )
    finally:
        store.close()
    if asked.picture is not None:
        _draw(asked.picture, done)
    _show(done.report, as_json=as_json)


def _goal(asked: Asked) -> Goal:
    if asked.accuracy is not None and asked.escalation_rate is not None:
        raise typer.BadParameter("give --accuracy or --escalation-rate, not both")
    if asked.escalation_rate is not None:
        return Goal(escalation_rate=asked.escalation_rate, repeats_once=asked.repeats_once)
    return Goal(accuracy=0.95 if asked.accuracy is None else asked.accuracy)


def _answering(config: Config, manifest: Manifest, asked: Asked) -> tuple[str, Options]:
    """The handler that answers with the model, and its options."""
    if asked.route is not None:
        name, options = _of_route(config, asked.route, manifest.name)
    elif asked.handler is not None:
        name, options = asked.handler, _json_object(asked.options)
    else:
        name, options = _usual(manifest)
    # What is not answered again cannot be judged: of a handler that tells changes alone, all answers are wanted.
    return name, {**options, "emit": "always"} if "emit" in options else options


def _of_route(config: Config, route: str, model: str) -> tuple[str, Options]:
    found = config.routes.get(route)
    if found is None:
        raise ConfigError("routes", f"there is no route {route!r}; there are: {', '.join(config.routes) or 'none'}")
    if found.handler:
        return found.handler, found.options
    tiers = [tier for name in found.tiers if isinstance(tier := config.tiers.get(name), HandlerTier)]
    named = [tier for tier in tiers if model in tier.options.values()]
    if not named:
        raise ConfigError(f"routes.{route}.tiers", f"none of its handlers has the model {model!r} in its options")
    # A head's tier names the encoder, too: the tier that is about this model alone comes first.
    best = min(named, key=lambda tier: tier.options.get("head", model) != model)
    return best.handler, best.options


def _json_object(text: str | None) -> Options:
    try:
        return msgspec.json.decode(text or "{}", type=dict[str, Any])
    except msgspec.MsgspecError as exc:
        raise typer.BadParameter(f"--options takes a JSON object: {exc}") from exc


def _usual(manifest: Manifest) -> tuple[str, Options]:
    """What `gatewayd models fit` made it for."""
    if manifest.task.startswith("series-"):
        return "classify_series", {"model": manifest.name}
    if manifest.task == "text-classification-head":
        return "classify_text", {"model": str(manifest.input.get("encoder", "minilm-int8")), "head": manifest.name}
    raise ModelError(
        f"{manifest.name} has the task {manifest.task!r}: say which handler answers with it, with --route or --handler"
    )


def _handler(config: Config, name: str, options: Options) -> Handler:
    found = find_handlers([Path(path) for path in config.handlers.paths])
    return make_handler(load_handler(name, found), options, key="options")


def _read(manifest: Manifest, options: Options, asked: Asked) -> Labeled:
    """Rows where the model looks at windows of fields, else texts."""
    window, fields = manifest.input.get("window"), options.get("fields") or manifest.input.get("fields")
    if not isinstance(window, int) or not isinstance(fields, list):
        path = str(options.get("field", ""))
        return read_labeled_texts(asked.files, text_column=asked.column, label_column=asked.label or "label", path=path)
    if asked.label is None:
        raise typer.BadParameter("give --label: the column that says what each row is")
    return read_labeled_series(
        asked.files,
        fields=fields,
        label_column=asked.label,
        window=window,
        interval_s=float(manifest.input.get("interval_s", 0.0)),
        time_column=asked.time,
        device_column=asked.device,
        device_field=str(options.get("device", "topic")),
    )


def _draw(path: Path, done: Calibrated) -> None:
    report = done.report
    said = (
        f"{report.judged_on} answers, later half",
        f"ECE {report.ece_before:.3f} before",
        f"ECE {report.ece:.3f} after ({report.method})",
        f"taken from {report.accept:.3f} on",
    )
    picture = reliability_svg(f"{report.folder.name} {report.version}", done.before, done.after, said=said)
    try:
        path.write_text(picture)
    except OSError as exc:
        raise ConfigError("--picture", f"{path} cannot be written: {exc.strerror}") from exc


def _show(report: CalibrationReport, *, as_json: bool) -> None:
    if as_json:
        rows: dict[str, Any] = msgspec.to_builtins(report, enc_hook=str)
        print_json({key: None if isinstance(row, float) and math.isnan(row) else row for key, row in rows.items()})
        return
    for line in _lines(report):
        typer.echo(line)
    for warning in report.warnings:
        typer.echo(f"warning: {warning}", err=True)


def _lines(report: CalibrationReport) -> list[str]:
    tried = ", ".join(f"{name} {error:.3f}" for name, error in report.eces.items())
    taken = "none is taken"
    if report.taken:
        taken = f"right in {report.taken_accuracy:.3f} (at least {report.taken_accuracy_low:.3f})"
    guard = "none"
    if report.novelty_prototypes:
        guard = f"{report.novelty_prototypes} prototypes, radius {report.novelty_radius:.4g}"
    return [
        f"{report.folder} is now version {report.version}",
        f"samples              {report.samples}, {report.without_answer} without an answer, {report.rejected} rejected",
        f"fitted on            the {report.fitted_on} earlier answers",
        f"judged on            the {report.judged_on} later ones, {report.independent} that do not repeat each other",
        f"right                {report.accuracy:.3f} of those",
        f"method               {report.method}",
        f"calibration error    {report.ece_before:.3f} before, {report.ece:.3f} after (tried: {tried})",
        f"accept               {report.accept:.6g}, for {report.goal}",
        f"taken                {report.taken} of {report.judged_on}, {taken}",
        f"handed on            {report.escalation_rate:.3f}",
        f"novelty guard        {guard}",
    ]
