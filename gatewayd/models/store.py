"""The models a box has: finds bundles, verifies them, loads each session once for all who ask.

Invariant: one bundle has one session, whoever asks and from whichever thread, and what was handed out goes on working
whether the session is in memory or not. A bundle that is exchanged on disk takes effect by `renew`, never by halves.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import structlog

from gatewayd.config import schema
from gatewayd.errors import ConfigError, ModelError
from gatewayd.models.bundle import Bundle, Manifest, Runtime, Verifier, check_sizes, read_bundle
from gatewayd.models.factories import FACTORIES, Factory, OnCompletion, OnEvent
from gatewayd.models.residency import Reason, Residency
from gatewayd.models.stored import Shop, StoredModel, same_manifest
from gatewayd.models.write import aside

log = structlog.get_logger(__name__)


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `gatewayd models ls`."""

    name: str
    state: Literal["ok", "problem"]  # ok: manifest read, files there with the right size; `verify` checks digests
    version: str = ""
    runtime: str = ""
    task: str = ""
    size_bytes: int = 0
    problem: str = ""


class ModelStore:
    """Implements api.Models over a folder of bundles, one folder each, named as the bundle.

    `on_event(model, event)` is called from any thread, for counters: "loaded", "load_failed", "unloaded_idle",
    "unloaded_budget", "swapped", "swap_failed", "worker_started", "worker_crashed", "worker_timed_out"; so is
    `on_completion(model, seconds)`, after each completion. `on_replaced` may be set: it is called, from any thread,
    when a call finds that its bundle has a newer version on disk.
    """

    def __init__(
        self,
        dir: Path,  # noqa: A002 - as in the config
        config: schema.Models,
        on_event: OnEvent = lambda _model, _event: None,
        *,
        factories: Mapping[Runtime, Factory] = FACTORIES,
        on_completion: OnCompletion = lambda _model, _seconds: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.on_replaced: Callable[[str], None] = lambda _model: None
        self.residency = Residency(config.max_resident_bytes, config.idle_unload_s, self._unloaded, monotonic)
        self._dir = dir
        self._shop = Shop(
            config=config,
            factories=factories,
            residency=self.residency,
            verifier=Verifier(),
            on_event=on_event,
            on_completion=on_completion,
            on_replaced=lambda name: self.on_replaced(name),  # noqa: PLW0108 - it is set later
        )
        self._models: dict[str, StoredModel] = {}
        self._unloads: dict[tuple[str, Reason], int] = {}
        self._swaps: dict[str, int] = {}
        self._refused: dict[str, Manifest] = {}  # newer versions that did not load
        self._lock = threading.Lock()
        self._counting = threading.Lock()

    def get(self, name: str) -> StoredModel:
        """The bundle of that name, verified. Raises ModelError when there is none or a digest does not match."""
        with self._lock:
            known = self._models.get(name)
            if known is not None and (known.resident.has_loaded or not known.is_replaced()):
                return known
            fresh = self._make(name)  # also in place of one that never loaded: nobody has a session of it
            if known is not None:
                known.close()
            self._models[name] = fresh
            return fresh

    def replaced(self, *, again: bool = False) -> list[str]:
        """The models in use whose folder has another version now, but for those that were refused (`again`: those
        too)."""
        with self._lock:
            models = list(self._models.values())
            if again:
                self._refused.clear()
        return [model.name for model in models if model.is_replaced() and self._is_new(model.name)]

    def prepare(self, name: str) -> StoredModel:
        """The version that is on disk now, verified, loaded beside the old one, and run once.

        Nobody gets it from `get` before `promote`. Raises ModelError, and remembers that this version does not load.
        """
        bundle = self._read(name)
        fresh = StoredModel(bundle, self._shop)
        try:
            fresh.verify()
            fresh.warm()
        except (ModelError, ConfigError) as error:
            self.refuse(fresh)
            raise ModelError(str(error)) from error
        return fresh

    def promote(self, fresh: StoredModel) -> StoredModel:
        """From now on `get` gives this one; returns the one before, to be closed when nobody uses it any more."""
        with self._lock:
            old = self._models[fresh.name]
            self._models[fresh.name] = fresh
            fresh.resident.take_over(old.resident)
        return old

    def refuse(self, fresh: StoredModel) -> None:
        """Let go of a version that is of no use, and do not try it again."""
        self._refused[fresh.name] = fresh.bundle.manifest
        self._shop.on_event(fresh.name, "swap_failed")
        fresh.close()

    def retire(self, old: StoredModel) -> None:
        """Close the version before: its memory comes back."""
        self.in_use()[old.name].resident.take_over(old.resident)
        old.close("swapped")
        with self._counting:
            self._swaps[old.name] = self._swaps.get(old.name, 0) + 1
        self._shop.on_event(old.name, "swapped")

    def ls(self) -> Sequence[Listed]:
        """Every bundle in the folder, by name, the damaged ones with their problem. Reads manifests, not weights."""
        return [self._listed(name) for name in self._names()]

    def verify(self, name: str) -> None:
        """Check the bundle's files against its manifest afresh. Raises ModelError naming file and problem."""
        Verifier().verify(self._read(name))

    def stats(self) -> Mapping[str, Mapping[str, float]]:
        """Of each model that was loaded: the figures of its sessions (see `stats` of the runtimes), `loads`,
        `swaps`, `unloads_idle`, `unloads_budget`, `loaded` (0 or 1) and `memory_bytes` as of now."""
        with self._lock:
            models = list(self._models.values())
        return {model.name: self._figures(model) for model in models if model.resident.has_loaded}

    def in_use(self) -> Mapping[str, StoredModel]:
        """The models that were asked for, each in the version that `get` gives."""
        with self._lock:
            return dict(self._models)

    def close(self) -> None:
        """End every session and worker. The store may be used again; sessions are then loaded anew."""
        with self._lock:
            models = list(self._models.values())
            self._models.clear()
        for model in models:
            model.close()

    def _make(self, name: str) -> StoredModel:
        model = StoredModel(self._read(name), self._shop)
        try:
            model.verify()
        except ModelError:
            model.close()
            raise
        return model

    def _is_new(self, name: str) -> bool:
        try:
            found = self._read(name).manifest
        except ModelError:
            return False  # being written, or taken away: what is loaded goes on
        refused = self._refused.get(name)
        return refused is None or not same_manifest(refused, found)

    def _unloaded(self, name: str, reason: Reason) -> None:
        if reason in ("idle", "budget"):
            with self._counting:
                self._unloads[name, reason] = self._unloads.get((name, reason), 0) + 1
            self._shop.on_event(name, f"unloaded_{reason}")

    def _figures(self, model: StoredModel) -> dict[str, float]:
        resident = model.resident
        return resident.stats() | {
            "loaded": float(resident.is_loaded),
            "memory_bytes": float(resident.memory_bytes()),
            "unloads_idle": float(self._unloads.get((model.name, "idle"), 0)),
            "swaps": float(self._swaps.get(model.name, 0)),
            "unloads_budget": float(self._unloads.get((model.name, "budget"), 0)),
        }

    def _names(self) -> Sequence[str]:
        try:
            entries = sorted(self._dir.iterdir())
        except OSError:
            return []
        return [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]

    def _read(self, name: str) -> Bundle:
        if not name or name.startswith(".") or "/" in name or "\0" in name:
            raise ModelError(f'"{name}" is not the name of a model')
        folder = self._dir / name
        if not folder.exists():
            older = aside(folder)
            if not older.exists():
                raise ModelError(
                    f'there is no model "{name}" in {self._dir}; it has: {", ".join(self._names()) or "none"}'
                )
            # The power went while a newer version took its place: the older one is whole.
            log.warning("model was being replaced, its older version is used", model=name)
            folder = older
        return read_bundle(folder, name=name)

    def _listed(self, name: str) -> Listed:
        try:
            bundle = self._read(name)
            check_sizes(bundle)
        except ModelError as exc:
            return Listed(name=name, state="problem", problem=str(exc))
        manifest = bundle.manifest
        return Listed(
            name=name,
            state="ok",
            version=manifest.version,
            runtime=manifest.runtime,
            task=manifest.task,
            size_bytes=bundle.size_bytes,
        )
