"""Offers: a bundle that was made to take the place of another, and waits for a person to say so.

Invariant: an offer is never used by a route; it lies in `<models>/.offers/`, where no model is looked for. Taking it is
one exchange of folders (see `write`), so the present bundle is there until the new one is, whole.
"""

import shutil
from pathlib import Path
from typing import Any

import msgspec

from gatewayd.api import Model
from gatewayd.disk import sync
from gatewayd.errors import ModelError
from gatewayd.models.bundle import Verifier, read_bundle
from gatewayd.models.store import ModelStore
from gatewayd.models.write import write_bundle

FOLDER = ".offers"


class Offered:
    """Implements api.Models: the offer under its name, all others as they are."""

    def __init__(self, offers: ModelStore, present: ModelStore, name: str) -> None:
        self._offers, self._present, self._name = offers, present, name

    def get(self, name: str) -> Model:
        """See api.Models."""
        return (self._offers if name == self._name else self._present).get(name)


def offers_dir(models_dir: Path) -> Path:
    """Where the offers for the bundles in `models_dir` lie."""
    return models_dir / FOLDER


def list_offers(models_dir: Path) -> list[str]:
    """Names of the offers there are."""
    folder = offers_dir(models_dir)
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def keep_report(models_dir: Path, name: str, report: object) -> None:
    """Put what was found out about an offer beside it."""
    path = offers_dir(models_dir) / f"{name}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    sync(path)


def read_report(models_dir: Path, name: str) -> dict[str, Any]:
    """What was found out about an offer; nothing where that is gone."""
    try:
        return msgspec.json.decode((offers_dir(models_dir) / f"{name}.json").read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError):
        return {}


def adopt(models_dir: Path, name: str) -> Path:
    """Put the offer into its place; the folder. Raises ModelError when there is none, or it was changed since."""
    place = _offer(models_dir, name)
    bundle = read_bundle(place, name=name)
    manifest = bundle.manifest
    folder = write_bundle(
        models_dir,
        name=manifest.name,
        version=manifest.version,
        runtime=manifest.runtime,
        task=manifest.task,
        files=dict(Verifier().verify(bundle)),
        licence=manifest.licence,
        description=manifest.description,
        labels=manifest.labels,
        input=manifest.input,
        calibration=manifest.calibration,
        session=manifest.session,
    )
    discard(models_dir, name)
    return folder


def discard(models_dir: Path, name: str) -> None:
    """Remove an offer. Raises ModelError when there is none."""
    shutil.rmtree(_offer(models_dir, name))
    (offers_dir(models_dir) / f"{name}.json").unlink(missing_ok=True)


def _offer(models_dir: Path, name: str) -> Path:
    if name not in list_offers(models_dir):
        offered = ", ".join(list_offers(models_dir)) or "none"
        raise ModelError(
            f"there is no offer {name!r} (there are: {offered}); `gatewayd models distill ROUTE` makes one"
        )
    return offers_dir(models_dir) / name
