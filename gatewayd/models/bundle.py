"""A model bundle: a folder with `model.toml` and the files it names.

Invariant: no path of a bundle's file is handed out before its size and SHA-256 were found to be those of the manifest,
so that no parser ever touches a file nobody vouched for. Paths stay inside the folder, links included.
"""

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import msgspec
import tomli
from msgspec import Meta

from gatewayd.errors import ModelError
from gatewayd.runtimes.options import OnnxOptions, TextOptions

MANIFEST = "model.toml"
MAX_MANIFEST_BYTES = 1 << 20  # labels and the scaling of a thousand features fit many times
MAX_FILES = 64

Runtime = Literal["onnx", "xllamacpp", "llama_cpp"]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Role = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Fingerprint = tuple[str, int, int, int, int]  # path, size, mtime_ns, inode, device


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One `[[files]]` table."""

    role: Role  # "model", "tokenizer", …: each at most once
    path: Annotated[str, Meta(min_length=1, max_length=255)]  # relative to the bundle, with forward slashes
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
    size_bytes: Annotated[int, Meta(ge=0)]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`model.toml`."""

    name: Name  # also the name of the bundle's folder
    version: Annotated[str, Meta(min_length=1, max_length=64)]
    runtime: Runtime
    task: Annotated[str, Meta(min_length=1, max_length=64)]  # "text-embedding", "text-generation", …
    licence: str
    description: str = ""
    labels: list[str] = []
    files: Annotated[list[FileEntry], Meta(min_length=1, max_length=MAX_FILES)]
    input: dict[str, Any] = {}
    calibration: dict[str, Any] = {}
    session: dict[str, Any] = {}  # OnnxOptions or TextOptions: see gatewayd.runtimes.options


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest that was read and found sound, and the folder it lies in. Its files are not verified yet."""

    folder: Path
    manifest: Manifest
    options: OnnxOptions | TextOptions

    @property
    def size_bytes(self) -> int:
        return sum(entry.size_bytes for entry in self.manifest.files)


def read_bundle(folder: Path, *, name: str) -> Bundle:
    """Read the manifest of the bundle `name` in `folder`; no other file is opened.

    Raises ModelError when the manifest is missing, too large, not TOML, or breaks a rule.
    """
    manifest_path = folder / MANIFEST
    manifest = _parse_manifest(manifest_path, _read_manifest(manifest_path))
    if manifest.name != name:
        raise ModelError(f'{manifest_path}: name: is "{manifest.name}", its folder says "{name}"; rename one of them')
    _check_entries(manifest_path, manifest.files)
    return Bundle(folder=folder, manifest=manifest, options=_parse_options(manifest_path, manifest))


def _read_manifest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError:
        raise ModelError(f"{path}: there is no such file; put the bundle there or fetch it again") from None
    except OSError as exc:
        raise ModelError(f"{path}: cannot be read: {exc.strerror}") from exc
    if len(content) > MAX_MANIFEST_BYTES:
        raise ModelError(
            f"{path}: is larger than {MAX_MANIFEST_BYTES} bytes; put large tables into a file of their own"
        )
    return content


def _parse_manifest(path: Path, content: bytes) -> Manifest:
    try:
        return msgspec.convert(tomli.loads(content.decode()), Manifest)
    except UnicodeDecodeError as exc:
        raise ModelError(f"{path}: is not UTF-8 (byte {exc.start})") from exc
    except tomli.TOMLDecodeError as exc:
        raise ModelError(f"{path}: {exc}") from exc
    except msgspec.ValidationError as exc:
        raise ModelError(f"{path}: {exc}") from exc


def _parse_options(path: Path, manifest: Manifest) -> OnnxOptions | TextOptions:
    try:
        if manifest.runtime == "onnx":
            return msgspec.convert(manifest.session, OnnxOptions)
        return msgspec.convert(manifest.session, TextOptions)
    except msgspec.ValidationError as exc:
        raise ModelError(f"{path}: session: {exc}") from exc


def _check_entries(manifest_path: Path, entries: list[FileEntry]) -> None:
    roles: set[str] = set()
    for entry in entries:
        if entry.role in roles:
            raise ModelError(f'{manifest_path}: files: the role "{entry.role}" stands twice')
        roles.add(entry.role)
        path = PurePosixPath(entry.path)
        if path.is_absolute() or ".." in path.parts or "\\" in entry.path or "\0" in entry.path:
            raise ModelError(
                f'{manifest_path}: files: "{entry.path}" ({entry.role}) must be a path inside the bundle, without ".."'
            )
    if "model" not in roles:
        raise ModelError(f'{manifest_path}: files: none has the role "model"')


def check_sizes(bundle: Bundle) -> None:
    """The quick look of a list: files are there and as large as the manifest says. Raises ModelError; reads nothing."""
    for entry in bundle.manifest.files:
        path = _inside(bundle.folder, entry)
        if (found := path.stat().st_size) != entry.size_bytes:
            raise ModelError(f"{path} ({entry.role}): has {found} bytes instead of {entry.size_bytes}; fetch it again")


class Verifier:
    """Checks files against their manifest; remembers in memory what it checked until the file changes."""

    def __init__(self) -> None:
        self._digests: dict[str, tuple[Fingerprint, str]] = {}

    def verify(self, bundle: Bundle) -> Mapping[str, Path]:
        """Verify every file of the bundle; their absolute paths by role. Raises ModelError naming file and problem."""
        return {entry.role: self._verify_file(bundle, entry) for entry in bundle.manifest.files}

    def _verify_file(self, bundle: Bundle, entry: FileEntry) -> Path:
        path = _inside(bundle.folder, entry)
        try:
            digest = self._digest(path, entry)
        except OSError as exc:
            raise ModelError(f"{path} ({entry.role}): cannot be read: {exc.strerror}; fetch the bundle again") from exc
        if digest != entry.sha256:
            raise ModelError(
                f"{path} ({entry.role}): sha256 is {digest}, {MANIFEST} says {entry.sha256}; "
                "the file is damaged or was exchanged: fetch or write the bundle again"
            )
        return path

    def _digest(self, path: Path, entry: FileEntry) -> str:
        # Not blocking: a FIFO must be refused by what it is, not waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise ModelError(f"{path} ({entry.role}): is not a regular file")
            if found.st_size != entry.size_bytes:
                raise ModelError(
                    f"{path} ({entry.role}): has {found.st_size} bytes, {MANIFEST} says {entry.size_bytes}; "
                    "the copy is incomplete or was exchanged: fetch or write the bundle again"
                )
            fingerprint = (str(path), found.st_size, found.st_mtime_ns, found.st_ino, found.st_dev)
            known = self._digests.get(str(path))
            if known is not None and known[0] == fingerprint:
                return known[1]
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._digests[str(path)] = (fingerprint, digest)
        return digest


def _inside(folder: Path, entry: FileEntry) -> Path:
    """The absolute path with every link followed; refused when it leaves the bundle."""
    root = folder.resolve()
    try:
        path = (root / entry.path).resolve(strict=True)
    except FileNotFoundError:
        raise ModelError(f"{root / entry.path} ({entry.role}): there is no such file; fetch the bundle again") from None
    except (OSError, RuntimeError) as exc:  # RuntimeError: a loop of links, before Python 3.13
        raise ModelError(f"{root / entry.path} ({entry.role}): cannot be followed: {exc}") from exc
    if not path.is_relative_to(root):
        raise ModelError(
            f"{root / entry.path} ({entry.role}): leads out of the bundle to {path}; copy the file instead"
        )
    return path
