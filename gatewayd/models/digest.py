"""Which bundle answered: the SHA-256 of its `model.toml`, which holds the SHA-256 of every file of the bundle.

Invariant: a digest is given for the version that was asked for, or none; a bundle that was exchanged meanwhile is not
taken for the one that answered.
"""

import hashlib
from pathlib import Path

from gatewayd.errors import ModelError
from gatewayd.models.bundle import MANIFEST, read_bundle
from gatewayd.models.write import aside

_MAX_KNOWN = 256


class ManifestDigests:
    """Digests by model and version, each read once. For one thread."""

    def __init__(self, models_dir: Path) -> None:
        self._dir = models_dir
        self._known: dict[tuple[str, str], str] = {}

    def __call__(self, model: str, version: str) -> str:
        """The digest in hexadecimal; "" where the folder has no such bundle in that version (a tier elsewhere)."""
        if (found := self._known.get((model, version))) is not None:
            return found
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        digest = self._known[model, version] = self._read(model, version)
        return digest

    def _read(self, model: str, version: str) -> str:
        if not model or model.startswith(".") or "/" in model or "\0" in model:
            return ""
        for folder in (self._dir / model, aside(self._dir / model)):
            try:
                if read_bundle(folder, name=model).manifest.version == version:
                    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
            except (ModelError, OSError):
                continue
        return ""
