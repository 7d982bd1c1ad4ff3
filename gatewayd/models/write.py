"""Write a bundle: all of it is there when `write_bundle` returns, and never half of it under its name.

Written beside its place, made durable, then renamed. An older version is moved aside first, to `.<name>.old`, and taken
away last; a power cut in between leaves it there, where `ModelStore` finds it (`aside`).
"""

import hashlib
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from gatewayd.disk import sync
from gatewayd.errors import ModelError
from gatewayd.models.bundle import MANIFEST, FileEntry, Manifest, Runtime, read_bundle

Source = Path | bytes | Iterable[bytes]

_CHUNK_BYTES = 1 << 20
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def write_bundle(
    models_dir: Path,
    *,
    name: str,
    version: str,
    runtime: Runtime,
    task: str,
    files: Mapping[str, Source],
    licence: str = "",
    description: str = "",
    labels: Sequence[str] = (),
    input: Mapping[str, Any] | None = None,  # noqa: A002 - the table's name in model.toml
    calibration: Mapping[str, Any] | None = None,
    session: Mapping[str, Any] | None = None,
) -> Path:
    """Write the bundle `models_dir/name` from `files` (role -> a file, content, or chunks of it); returns its folder.

    Tables may hold what TOML holds: strings, whole numbers, floats, booleans, lists and tables of them.
    Raises ModelError when a field breaks a rule of the manifest or the bundle cannot be written.
    """
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=models_dir) as scratch:
            folder = Path(scratch) / "bundle"
            folder.mkdir(mode=0o755)
            entries = [_put(folder, role, source, runtime) for role, source in files.items()]
            manifest = Manifest(
                name=name,
                version=version,
                runtime=runtime,
                task=task,
                licence=licence,
                description=description,
                labels=list(labels),
                files=entries,
                input=dict(input or {}),
                calibration=dict(calibration or {}),
                session=dict(session or {}),
            )
            with (folder / MANIFEST).open("xb") as file:
                file.write(manifest_toml(manifest).encode())
                _sync(file)
            sync(folder)
            read_bundle(folder, name=name)  # what we write, we can read
            return _exchange(folder, models_dir / name)
    except OSError as exc:
        raise ModelError(f"{models_dir / name}: the bundle cannot be written: {exc.strerror or exc}") from exc


def aside(folder: Path) -> Path:
    """Where the older version of the bundle in `folder` lies while it is being replaced."""
    return folder.with_name(f".{folder.name}.old")


def manifest_toml(manifest: Manifest) -> str:
    """The manifest as TOML. Raises ModelError naming the key whose value TOML cannot hold."""
    fields: dict[str, Any] = msgspec.structs.asdict(manifest)
    entries: list[FileEntry] = fields.pop("files")
    tables = {key: fields.pop(key) for key in ("input", "calibration", "session")}
    lines = _assignments(fields, "")
    for entry in entries:
        lines += ["", "[[files]]", *_assignments(msgspec.structs.asdict(entry), "files")]
    for key, table in tables.items():
        if table:
            lines += ["", f"[{key}]", *_assignments(table, key)]
    return "\n".join(lines) + "\n"


def _put(folder: Path, role: str, source: Source, runtime: Runtime) -> FileEntry:
    path = folder / _file_name(role, source, runtime)
    digest = hashlib.sha256()
    with path.open("xb") as file:
        for chunk in _chunks(source):
            digest.update(chunk)
            file.write(chunk)
        size_bytes = file.tell()
        _sync(file)
    return FileEntry(role=role, path=path.name, sha256=digest.hexdigest(), size_bytes=size_bytes)


def _chunks(source: Source) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
    elif isinstance(source, Path):
        with source.open("rb") as original:
            while chunk := original.read(_CHUNK_BYTES):
                yield chunk
    else:
        yield from source


def _file_name(role: str, source: Source, runtime: Runtime) -> str:
    if role == "model":
        return "model.onnx" if runtime == "onnx" else "model.gguf"
    if role == "tokenizer":
        return "tokenizer.json"
    return Path(role).name + (source.suffix if isinstance(source, Path) else "")


def _exchange(folder: Path, place: Path) -> Path:
    old = aside(place)
    if place.exists():
        shutil.rmtree(old, ignore_errors=True)
        place.rename(old)
    folder.rename(place)
    sync(place.parent)
    shutil.rmtree(old, ignore_errors=True)
    return place


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _assignments(table: Mapping[str, Any], where: str) -> list[str]:
    return [f"{_key(key)} = {_toml(value, f'{where}.{key}'.lstrip('.'))}" for key, value in table.items()]


def _toml(value: Any, where: str) -> str:
    """One value in TOML 1.0. Tables come out inline, on one line."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(int(value))
        case float():
            return "nan" if math.isnan(value) else float(value).__repr__()  # also of a numpy.float64
        case str():
            return _string(value)
        case Mapping():
            return (
                "{" + ", ".join(f"{_key(key)} = {_toml(item, f'{where}.{key}')}" for key, item in value.items()) + "}"
            )
        case list() | tuple():
            return "[" + ", ".join(_toml(item, where) for item in value) + "]"
        case _:
            raise ModelError(
                f"{where}: a {type(value).__name__} cannot be written to {MANIFEST}; make it a plain value"
            )


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise ModelError(f"{key!r}: a key of {MANIFEST} must be a string")
    return key if _BARE_KEY.fullmatch(key) else _string(key)


def _string(text: str) -> str:
    escaped = "".join(_escape(char) for char in text)
    return f'"{escaped}"'


def _escape(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    return f"\\u{ord(char):04X}" if ord(char) < 0x20 or ord(char) == 0x7F else char
