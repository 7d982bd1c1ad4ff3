"""The models a box has: finds bundles, verifies them, loads each session once for all who ask.

Invariant: a session is loaded only from files whose digests were checked just before, and one bundle has one session,
whoever asks and from whichever thread. A bundle that is exchanged on disk takes effect at the next start.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, cast, runtime_checkable

import msgspec
import structlog

from gatewayd.api import TensorSession, TextSession
from gatewayd.config import schema
from gatewayd.errors import ConfigError, ModelError
from gatewayd.models.bundle import Bundle, Runtime, Verifier, check_sizes, read_bundle
from gatewayd.models.write import aside

log = structlog.get_logger(__name__)

OnEvent = Callable[[str, str], None]  # (model, event); events: see ModelStore
OnCompletion = Callable[[str, float], None]  # (model, seconds)
Files = Mapping[str, Path]


class Session(Protocol):
    """What the store needs of any session; the rest is api.TensorSession or api.TextSession."""

    def close(self) -> None: ...

    def stats(self) -> Mapping[str, float]: ...


@runtime_checkable
class Timed(Protocol):
    """A language model's session: it tells how long each completion took, in seconds."""

    on_completion: Callable[[float], None]


# The files are verified by calling: once by a session that loads once, before every start by one that restarts.
Verify = Callable[[], Files]
Factory = Callable[[Bundle, Verify, schema.Models, OnEvent], Session]


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `gatewayd models ls`."""

    name: str
    state: Literal["ok", "problem"]  # ok: manifest read, files there with the right size; `verify` checks digests
    version: str = ""
    runtime: str = ""
    task: str = ""
    size_bytes: int = 0
    problem: str = ""


def _load_onnx(bundle: Bundle, verify: Verify, config: schema.Models, _on_event: OnEvent) -> Session:
    from gatewayd.runtimes.onnx import load

    return load(bundle, verify(), config)


def _load_worker(bundle: Bundle, verify: Verify, config: schema.Models, on_event: OnEvent) -> Session:
    from gatewayd.runtimes.worker import load

    return load(bundle, verify, config, on_event)


FACTORIES: Mapping[Runtime, Factory] = {"onnx": _load_onnx, "xllamacpp": _load_worker, "llama_cpp": _load_worker}


class ModelStore:
    """Implements api.Models over a folder of bundles, one folder each, named as the bundle.

    `on_event(model, event)` is called from any thread, for counters: "loaded", "load_failed", "worker_started",
    "worker_crashed", "worker_timed_out"; so is `on_completion(model, seconds)`, after each completion.
    """

    def __init__(
        self,
        dir: Path,  # noqa: A002 - as in the config
        config: schema.Models,
        on_event: OnEvent = lambda _model, _event: None,
        *,
        factories: Mapping[Runtime, Factory] = FACTORIES,
        on_completion: OnCompletion = lambda _model, _seconds: None,
    ) -> None:
        self._dir = dir
        self._config = config
        self._on_event = on_event
        self._factories = factories
        self._on_completion = on_completion
        self._verifier = Verifier()
        self._models: dict[str, _StoredModel] = {}
        self._lock = threading.Lock()

    def get(self, name: str) -> "_StoredModel":
        """The bundle of that name, verified. Raises ModelError when there is none or a digest does not match."""
        with self._lock:
            known = self._models.get(name)
            if known is None:
                bundle = self._read(name)
                known = _StoredModel(
                    bundle, self._verifier, self._config, self._factories, self._on_event, self._on_completion
                )
                known.verify()
                self._models[name] = known
            return known

    def ls(self) -> Sequence[Listed]:
        """Every bundle in the folder, by name, the damaged ones with their problem. Reads manifests, not weights."""
        return [self._listed(name) for name in self._names()]

    def verify(self, name: str) -> None:
        """Check the bundle's files against its manifest afresh. Raises ModelError naming file and problem."""
        Verifier().verify(self._read(name))

    def stats(self) -> Mapping[str, Mapping[str, float]]:
        """Counters of each loaded session by model: see `stats` of the runtimes."""
        with self._lock:
            models = list(self._models.values())
        return {model.name: stats for model in models if (stats := model.stats()) is not None}

    def close(self) -> None:
        """End every session and worker. The store may be used again; sessions are then loaded anew."""
        with self._lock:
            models = list(self._models.values())
            self._models.clear()
        for model in models:
            model.close()

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


class _StoredModel:
    """Implements api.Model. Its session is loaded on demand, once."""

    def __init__(
        self,
        bundle: Bundle,
        verifier: Verifier,
        config: schema.Models,
        factories: Mapping[Runtime, Factory],
        on_event: OnEvent,
        on_completion: OnCompletion,
    ) -> None:
        manifest = bundle.manifest
        self.name = manifest.name
        self.version = manifest.version
        self.labels: Sequence[str] = tuple(manifest.labels)
        self.input: Mapping[str, Any] = manifest.input
        self.calibration: Mapping[str, Any] = manifest.calibration
        self._bundle = bundle
        self._verifier = verifier
        self._config = config
        self._factories = factories
        self._on_event = on_event
        self._on_completion = partial(on_completion, manifest.name)
        self._files: Files = {}
        self._session: Session | None = None
        self._loading = threading.Lock()  # one per model: a language model that loads for minutes holds up no other

    def verify(self) -> None:
        self._files = self._verifier.verify(self._bundle)

    def _verified(self) -> Files:
        """Again, for the files may have been exchanged since; costs nothing when they were not."""
        return self._verifier.verify(self._bundle)

    def file(self, role: str) -> str:
        """Absolute path of the verified file with that role. Raises ModelError when the bundle has none."""
        path = self._files.get(role)
        if path is None:
            raise ModelError(
                f'model "{self.name}" has no file with the role "{role}"; it has: {", ".join(self._files)}'
            )
        return str(path)

    def tensors(self) -> TensorSession:
        """The session of an ONNX bundle. Raises ModelError."""
        if self._bundle.manifest.runtime != "onnx":
            raise ModelError(
                f'model "{self.name}" is a language model ({self._bundle.manifest.runtime}), not a tensor one'
            )
        return cast("TensorSession", self._load())

    def text(self) -> TextSession:
        """The session of a language model. Raises ModelError."""
        if self._bundle.manifest.runtime == "onnx":
            raise ModelError(f'model "{self.name}" is a tensor model (onnx), not a language model')
        return cast("TextSession", self._load())

    def stats(self) -> Mapping[str, float] | None:
        session = self._session
        return None if session is None else session.stats()

    def close(self) -> None:
        with self._loading:
            session, self._session = self._session, None
        if session is not None:
            session.close()

    def _load(self) -> Session:
        with self._loading:
            if self._session is None:
                self._session = self._load_now()
            return self._session

    def _load_now(self) -> Session:
        manifest = self._bundle.manifest
        try:
            session = self._factories[manifest.runtime](self._bundle, self._verified, self._config, self._on_event)
        except (ModelError, ConfigError):
            self._on_event(self.name, "load_failed")
            raise
        if isinstance(session, Timed):
            session.on_completion = self._on_completion
        self._on_event(self.name, "loaded")
        log.info("model loaded", model=self.name, version=self.version, runtime=manifest.runtime)
        return session
