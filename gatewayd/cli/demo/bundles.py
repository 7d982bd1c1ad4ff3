"""The demo's models: fetched once, and one fitted on recordings, as a user would."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gatewayd.cli.demo.devices import PUMP_FIELDS, record_pumps
from gatewayd.errors import ModelError

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DemoModels:
    """Which bundles there are; a route whose model is missing is left out or answers without it."""

    folder: Path
    pumps: bool
    encoder: bool
    language: bool


def prepare(folder: Path, say: Say) -> DemoModels:
    """Fetch and fit what is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    return DemoModels(
        folder=folder,
        pumps=_fitted(folder, say),
        encoder=_fetched("minilm-int8", folder, say, "Log lines stay without labels"),
        language=_fetched("gemma3-270m", folder, say, "Summaries are extractive"),
    )


def _fetched(name: str, folder: Path, say: Say, without: str) -> bool:
    from gatewayd.cli.models import fetch_with_progress

    if (folder / name / "model.toml").exists():
        return True
    say(f"Fetching {name}, once ...")
    try:
        fetch_with_progress([name], folder)
    except ModelError as error:
        say(f"{without}, for {name} cannot be had: {error}")
        return False
    return True


def _fitted(folder: Path, say: Say) -> bool:
    if (folder / "pumps" / "model.toml").exists():
        return True
    say("Fitting a model on recordings of four other pumps, once ...")
    from gatewayd.models.fit_series import fit_series

    try:
        with tempfile.TemporaryDirectory() as recordings:
            report = fit_series(
                record_pumps(Path(recordings)),
                folder,
                name="pumps",
                fields=list(PUMP_FIELDS),
                label_column="label",
                time_column="time",
                device_column="device",
                window=16,
            )
    except ModelError as error:
        say(f"Pumps are not watched, for no model can be fitted: {error}")
        return False
    say(f"  {report.windows} windows, F1 {report.f1:.3f} on a pump it was not fitted on")
    return True
