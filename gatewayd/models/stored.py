"""A verified bundle, and its session that may come and go.

Invariant: a session is loaded only from files whose digests were checked just before. A bundle whose folder was
replaced keeps what it has loaded, and is never unloaded by itself: it could not be loaded again.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec
import structlog

from gatewayd.api import TensorSession, TextSession
from gatewayd.config import schema
from gatewayd.errors import ConfigError, ModelError, RejectedError, TransientError
from gatewayd.memory import give_back_freed, resident_bytes
from gatewayd.models.bundle import MANIFEST, Bundle, Manifest, Runtime, Verifier, read_bundle
from gatewayd.models.factories import Factory, Files, OnCompletion, OnEvent, Session, Timed, Warmable
from gatewayd.models.residency import Reason, Residency, Resident
from gatewayd.models.stable import StableTensors, StableText

log = structlog.get_logger(__name__)

Stable = TypeVar("Stable", StableTensors, StableText)

_measuring = threading.Lock()  # one at a time: what a load adds to our memory is seen in no other way
_WARM_S = 120.0


class Shop(msgspec.Struct, frozen=True, kw_only=True):
    """What all models of a store are made with."""

    config: schema.Models
    factories: Mapping[Runtime, Factory]
    residency: Residency
    verifier: Verifier
    on_event: OnEvent
    on_completion: OnCompletion
    on_replaced: Callable[[str], None]  # a call found that the bundle's folder has a newer version


class StoredModel:
    """Implements api.Model. What it hands out stays the same, whether the session is in memory or not."""

    def __init__(self, bundle: Bundle, shop: Shop) -> None:
        manifest = bundle.manifest
        self.name = manifest.name
        self.version = manifest.version
        self.labels: Sequence[str] = tuple(manifest.labels)
        self.input: Mapping[str, Any] = manifest.input
        self.calibration: Mapping[str, Any] = manifest.calibration
        self.bundle = bundle
        self._shop = shop
        self._seen = _fingerprint(bundle)
        self._files: Files = {}
        self._stable: StableTensors | StableText | None = None
        self._making = threading.Lock()
        self.resident = Resident(
            self.name,
            self._open_session,
            shop.residency,
            file_bytes=bundle.size_bytes,
            may_unload=lambda: not self.is_replaced(),
        )
        shop.residency.add(self.resident)

    def verify(self) -> None:
        """Check the files' digests. Raises ModelError."""
        self._files = self._verified()

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
        if self.bundle.manifest.runtime != "onnx":
            raise ModelError(
                f'model "{self.name}" is a language model ({self.bundle.manifest.runtime}), not a tensor one'
            )
        return self._made(StableTensors)

    def text(self) -> TextSession:
        """The session of a language model. Raises ModelError."""
        if self.bundle.manifest.runtime == "onnx":
            raise ModelError(f'model "{self.name}" is a tensor model (onnx), not a language model')
        return self._made(StableText)

    def warm(self) -> None:
        """Load it and run it once on an input of our own. Raises ModelError when it cannot be run."""
        session = self.resident.take()
        try:
            if isinstance(session, Warmable):
                session.warm()
            elif isinstance(session, TextSession):
                session.complete("1", max_tokens=1, timeout_s=_WARM_S)
        except (TransientError, RejectedError) as exc:
            raise ModelError(f'model "{self.name}": does not answer its first call: {exc}') from exc
        finally:
            self.resident.give_back()

    def is_replaced(self) -> bool:
        """Whether its folder no longer has what was read from it: another version, or nothing at all."""
        seen = _fingerprint(self.bundle)
        if seen == self._seen:
            return False
        if seen is None:
            return True
        try:
            now = read_bundle(self.bundle.folder, name=self.name).manifest
        except ModelError:
            return True
        if not same_manifest(now, self.bundle.manifest):
            return True
        self._seen = seen  # the same bundle, written again
        return False

    def close(self, reason: Reason = "closed") -> None:
        """Close its session for good."""
        self.resident.close(reason)
        self._shop.residency.remove(self.resident)

    def _made(self, kind: type[Stable]) -> Stable:
        with self._making:
            if self._stable is None:
                self._stable = kind(self.resident, self._take)
            elif not self.resident.is_loaded:  # who asks wants to know now whether it loads
                self._take()
                self.resident.give_back()
            assert isinstance(self._stable, kind)  # a bundle has one runtime
            return self._stable

    def _take(self) -> Session:
        try:
            return self.resident.take()
        except TransientError:
            if self.resident.is_swapped:  # whoever holds this one has missed it
                self._shop.on_replaced(self.name)
            raise
        except ModelError as exc:
            if not self.is_replaced():
                raise
            self._shop.on_replaced(self.name)
            raise TransientError(f'model "{self.name}": a newer version takes its place: {exc}') from exc

    def _verified(self) -> Files:
        """Again, for the files may have been exchanged since; costs nothing when they were not."""
        return self._shop.verifier.verify(self.bundle)

    def _open_session(self) -> tuple[Session, int]:
        if self.bundle.manifest.runtime != "onnx":
            return self._load_now(), self.bundle.size_bytes  # its worker tells what it takes
        with _measuring:
            before_bytes = resident_bytes()
            session = self._load_now()
            give_back_freed()  # what only the loading took: of a text encoder's 160 MB that was 62
            # Less than the file: freed memory was used again. It will be missed all the same when another needs room.
            return session, max(resident_bytes() - before_bytes, self.bundle.size_bytes)

    def _load_now(self) -> Session:
        manifest, shop = self.bundle.manifest, self._shop
        try:
            session = shop.factories[manifest.runtime](self.bundle, self._verified, shop.config, shop.on_event)
            self._check_again(session)
        except (ModelError, ConfigError):
            shop.on_event(self.name, "load_failed")
            raise
        if isinstance(session, Timed):
            session.on_completion = partial(shop.on_completion, self.name)
        shop.on_event(self.name, "loaded")
        log.info("model loaded", model=self.name, version=self.version, runtime=manifest.runtime)
        return session

    def _check_again(self, session: Session) -> None:
        """The files may have been exchanged after they were verified and before the library opened them."""
        try:
            self._verified()
        except ModelError:
            session.close()
            raise


def same_manifest(one: Manifest, other: Manifest) -> bool:
    """Whether two manifests say the same; encoded, because a nan in a table is not equal to itself."""
    return msgspec.msgpack.encode(one) == msgspec.msgpack.encode(other)


def _fingerprint(bundle: Bundle) -> tuple[int, int, int, int] | None:
    try:
        found = (bundle.folder / MANIFEST).stat()
    except OSError:
        return None
    return (found.st_size, found.st_mtime_ns, found.st_ino, found.st_dev)
