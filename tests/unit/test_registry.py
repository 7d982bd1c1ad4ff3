import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
import pytest

from gatewayd.api import Batch, Models, Result
from gatewayd.errors import ConfigError
from gatewayd.registry import Found, describe_handler, find_handlers, load_handler, make_handler

SITE = """
import msgspec
from gatewayd.api import Batch, Models, Result

class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    limit: float

class Limit:
    Config = Options
    journaled = False
    inline = True

    def __init__(self, config: Options) -> None:
        self.config = config

    def start(self, models: Models) -> None: ...

    def handle(self, batch: Batch) -> list[Result]:
        return [Result(kind="limit", data={"limit": self.config.limit}, message=one) for one in batch.messages]

    def stop(self) -> None: ...
"""


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    above: Annotated[float, msgspec.Meta(ge=0, description="Broken above it.")]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    rules: Annotated[list[Rule], msgspec.Meta(min_length=1, description="The rules.")]
    mode: Annotated[str, msgspec.Meta(description="How.")] = "fast"
    seed: Annotated[int | None, msgspec.Meta(description="For chance.")] = None


class Good:
    Config: ClassVar[type[msgspec.Struct]] = Options
    journaled: ClassVar[bool] = False
    inline: ClassVar[bool] = True

    def __init__(self, config: Any) -> None:
        self.config = config

    def start(self, models: Models) -> None: ...

    def handle(self, batch: Batch) -> Sequence[Result]:
        return []

    def stop(self) -> None: ...


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir(mode=0o755)
    return folder


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text))
    path.chmod(0o644)
    return path


def test_the_built_in_handlers_are_found_without_importing_any() -> None:
    before = set(sys.modules)

    found = find_handlers([])

    assert {"threshold", "classify_series", "classify_text", "summarize_text"} <= set(found)
    assert found["threshold"].origin == "entry point of gatewayd"
    assert not {name for name in set(sys.modules) - before if name.startswith("gatewayd_handlers")}


def test_a_site_file_with_one_handler_goes_by_its_own_name(site: Path) -> None:
    path = write(site, "limit.py", SITE)

    found = find_handlers([site])
    handler = make_handler(load_handler("limit", found), {"limit": 3}, key="routes.r.options")

    assert found["limit"].origin == f"file {path}"
    assert handler.config.limit == 3.0  # type: ignore[attr-defined]


def test_a_site_file_may_name_its_handlers(site: Path) -> None:
    path = write(site, "many.py", SITE + 'HANDLERS: dict[str, type] = {"one": Limit, "two": Limit}\n')

    found = find_handlers([path])

    assert {"one", "two"} <= set(found)
    assert "many" not in found
    assert load_handler("two", found).__name__ == "Limit"


def test_listing_does_not_run_a_site_file(site: Path) -> None:
    write(site, "loud.py", 'raise SystemExit("ran")\n' + SITE)

    assert "loud" in find_handlers([site])


def test_a_folder_leaves_out_files_that_start_with_an_underscore(site: Path) -> None:
    write(site, "_helper.py", "this is not even Python")

    assert find_handlers([site]).keys() == find_handlers([]).keys()


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_site_file_that_others_may_write_is_refused(site: Path, mode: int) -> None:
    write(site, "limit.py", SITE).chmod(mode)

    with pytest.raises(ConfigError, match="may be written by others"):
        find_handlers([site])


def test_a_site_file_in_a_folder_that_others_may_write_is_refused(site: Path) -> None:
    write(site, "limit.py", SITE)
    site.chmod(0o777)

    with pytest.raises(ConfigError, match="may be written by others"):
        find_handlers([site])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_site_file_of_somebody_else_is_refused(site: Path) -> None:
    os.chown(write(site, "limit.py", SITE), 12345, 12345)

    with pytest.raises(ConfigError, match="belongs to user 12345"):
        find_handlers([site])


def test_a_file_that_became_writable_after_it_was_listed_is_not_run(site: Path) -> None:
    path = write(site, "limit.py", SITE)
    found = find_handlers([site])
    path.chmod(0o666)

    with pytest.raises(ConfigError, match="may be written by others"):
        load_handler("limit", found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("class A:\n  pass\n", "0 classes with `handle`"),
        ("class A:\n  def handle(self): ...\nclass B:\n  def handle(self): ...\n", "2 classes with `handle`"),
        ("HANDLERS = make()\n", "must be written out"),
        ("HANDLERS = {name: A}\n", "must be written out"),
        ("class A\n", "is not Python"),
        ("\0", "is not Python"),
    ],
)
def test_a_site_file_that_cannot_be_read_off_is_refused(site: Path, text: str, words: str) -> None:
    write(site, "x.py", text)

    with pytest.raises(ConfigError, match=words):
        find_handlers([site])


def test_a_path_that_is_not_there_is_told(site: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        find_handlers([site / "absent.py"])


def test_a_name_that_is_there_twice_is_told_with_both_places(site: Path) -> None:
    path = write(site, "threshold.py", SITE)

    with pytest.raises(ConfigError) as caught:
        find_handlers([site])

    assert "entry point of gatewayd" in str(caught.value)
    assert f"file {path}" in str(caught.value)


def test_an_unknown_name_gets_a_guess_and_the_list() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'threshold'\? \(there are: .*classify_text") as caught:
        load_handler("treshold", find_handlers([]), key="routes.r.handler")

    assert caught.value.key == "routes.r.handler"


def test_a_site_file_that_fails_to_import_is_told_by_its_cause(site: Path) -> None:
    write(site, "limit.py", "import no_such_module\n" + SITE)

    with pytest.raises(ConfigError, match=r"cannot be imported: ModuleNotFoundError: .*no_such_module"):
        load_handler("limit", find_handlers([site]))


def test_a_site_file_that_ends_the_process_is_a_config_error(site: Path) -> None:
    write(site, "limit.py", 'raise SystemExit("gone")\n' + SITE)

    with pytest.raises(ConfigError, match="SystemExit: gone"):
        load_handler("limit", find_handlers([site]))


def variant(**changes: Any) -> type:
    parts = {name: part for name, part in vars(Good).items() if not name.startswith("__") or name == "__init__"}
    return type("Variant", (), {name: part for name, part in (parts | changes).items() if part is not None})


class LooseConfig(msgspec.Struct):
    x: int = 0


@pytest.mark.parametrize(
    ("loaded", "words"),
    [
        (42, "is no class"),
        (variant(handle=None, stop=None), "lacks handle, stop"),
        (variant(Config=None), "lacks Config"),
        (variant(Config=dict), "no msgspec.Struct"),
        (variant(Config=LooseConfig), "forbid_unknown_fields"),
        (variant(inline="yes"), "True or False"),
        (variant(API_VERSION=99), "API version 99"),
    ],
)
def test_what_is_no_handler_is_told_what_it_lacks(loaded: Any, words: str) -> None:
    found = {"x": Found("x", "entry point of other", lambda: loaded)}

    with pytest.raises(ConfigError, match=words):
        load_handler("x", found)


def test_a_handler_of_this_api_version_is_taken() -> None:
    loaded = variant(API_VERSION=1)

    assert load_handler("x", {"x": Found("x", "entry point of other", lambda: loaded)}) is loaded


@pytest.mark.parametrize(
    ("options", "key", "words"),
    [
        ({}, "routes.r.options", "missing required field `rules`"),
        ({"rules": [{"above": 1}], "mood": 1}, "routes.r.options", "unknown field `mood`"),
        ({"rules": [{"above": 1}, {"above": "1"}]}, "routes.r.options.rules[1].above", "Expected `float`"),
        ({"rules": [{"above": -1}]}, "routes.r.options.rules[0].above", ">= 0"),
        ({"rules": []}, "routes.r.options.rules", "length >= 1"),
    ],
)
def test_a_wrong_option_is_named(options: Any, key: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        make_handler(Good, options, key="routes.r.options")

    assert caught.value.key == key


def test_a_handlers_own_config_error_gets_the_routes_key() -> None:
    class Picky(Good):
        def __init__(self, config: Any) -> None:
            raise ConfigError("options.mode", "is too slow")

    with pytest.raises(ConfigError, match="is too slow") as caught:
        make_handler(Picky, {"rules": [{"above": 1}]}, key="routes.r.options")

    assert caught.value.key == "routes.r.options.mode"


def test_a_handler_that_raises_anything_else_on_its_options_is_a_config_error_too() -> None:
    class Broken(Good):
        def __init__(self, config: Any) -> None:
            raise ZeroDivisionError("by zero")

    with pytest.raises(ConfigError, match="ZeroDivisionError: by zero"):
        make_handler(Broken, {"rules": [{"above": 1}]}, key="routes.r.options")


def test_options_are_described_with_those_of_nested_tables() -> None:
    rows = [(row.name, row.type, row.default, row.description) for row in describe_handler(Good)]

    assert rows == [
        ("rules", "list of table, at least 1", "required", "The rules."),
        ("rules[].above", "number, at least 0", "required", "Broken above it."),
        ("mode", "text", '"fast"', "How."),
        ("seed", "integer", "unset", "For chance."),
    ]
