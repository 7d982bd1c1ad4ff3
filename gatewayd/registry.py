"""Find handlers, load the ones that are asked for, make them with their options.

Invariants: listing imports nothing; only the handler that is asked for is imported; a site file is run only when
nobody but root and our own user could have written it, and the text that was checked is the text that runs.
"""

import ast
import difflib
import os
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from gatewayd.api import API_VERSION, Handler
from gatewayd.config.schema import Route
from gatewayd.errors import ConfigError
from gatewayd.option_rows import OptionRow, option_rows

__all__ = [
    "Found",
    "OptionRow",
    "describe_handler",
    "find_handlers",
    "is_journaled",
    "lanes_problem",
    "load_handler",
    "make_handler",
]

GROUP = "gatewayd.handlers"  # entry point group
_PATHS_KEY = "handlers.paths"
_PARTS = ("Config", "journaled", "inline", "start", "handle", "stop")  # what gatewayd.api.Handler asks for


@dataclass(frozen=True, slots=True)
class Found:
    """A handler that could be loaded."""

    name: str
    origin: str  # "entry point of <distribution>" or "file <path>"
    load: Callable[[], Any]  # imports it; raises whatever its import raises


def find_handlers(paths: Sequence[Path]) -> dict[str, Found]:
    """All handlers by name: those of installed distributions, and those in `paths` (files, or folders of them).

    A site file names its handlers with `HANDLERS = {"name": Class}`; without it its one class that has `handle` goes by
    the file's name. Raises ConfigError for a file that is not there, not ours, or not Python, and for a name that is
    there twice.
    """
    found: dict[str, Found] = {}
    candidates = [_from_entry_point(point) for point in entry_points(group=GROUP)]
    for path in paths:
        candidates += _from_path(path)
    for one in sorted(candidates, key=lambda candidate: candidate.name):
        if one.name in found:
            raise ConfigError(
                _PATHS_KEY, f"handler {one.name!r} is there twice: {found[one.name].origin} and {one.origin}"
            )
        found[one.name] = one
    return found


def load_handler(name: str, found: Mapping[str, Found], *, key: str = "handler") -> type[Handler]:
    """Import one handler's class. `key` is where its name stands in the config.

    Raises ConfigError when there is none of that name, its import fails, or it is not what `gatewayd.api` asks for.
    """
    one = found.get(name)
    if one is None:
        close = difflib.get_close_matches(name, found, n=1)
        guess = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(key, f"there is no handler {name!r}{guess} (there are: {', '.join(found) or 'none'})")
    try:
        loaded = one.load()
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # the top level of a stranger's module may raise anything
        raise ConfigError(
            key, f"handler {name!r} ({one.origin}) cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if problem := _check_class(loaded):
        raise ConfigError(key, f"handler {name!r} ({one.origin}) {problem}; see handlers/README.md")
    return loaded  # type: ignore[no-any-return]  # checked just above


def make_handler(cls: type[Handler], options: Mapping[str, Any], *, key: str) -> Handler:
    """A handler with its options. `key` is where they stand in the config, e.g. `routes.pumps.options`.

    Raises ConfigError that names the option which is missing, unknown or wrong.
    """
    try:
        config = msgspec.convert(dict(options), cls.Config)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$")
        raise ConfigError(key + place.removesuffix("`"), problem) from error
    try:
        return cls(config)
    except ConfigError as error:  # handlers know their own part of the key alone: "options.labels"
        place = error.key.removeprefix("options").strip(".")
        raise ConfigError(f"{key}.{place}" if place else key, error.problem) from error
    except Exception as error:  # a stranger's code: whatever it raises, it does not take these options
        raise ConfigError(key, f"the handler does not take them: {type(error).__name__}: {error}") from error


def describe_handler(cls: type[Handler]) -> list[OptionRow]:
    """The handler's options, in order; those of nested tables as `rules[].label`."""
    return option_rows(cls.Config)


def _check_class(loaded: Any) -> str:
    """What keeps it from being a handler, in words; "" when nothing does."""
    if not isinstance(loaded, type):
        return "is no class"
    parts: dict[str, Any] = {part: getattr(loaded, part) for part in _PARTS if hasattr(loaded, part)}
    if missing := [part for part in _PARTS if part not in parts]:
        return f"lacks {', '.join(missing)}"
    config, flags = parts["Config"], (parts["journaled"], parts["inline"])
    if not (isinstance(config, type) and issubclass(config, msgspec.Struct)):
        return "has a Config that is no msgspec.Struct"
    if not config.__struct_config__.forbid_unknown_fields:
        return "has a Config without forbid_unknown_fields=True: a misspelled option would go unnoticed"
    if not all(isinstance(flag, bool) for flag in flags):
        return "must have True or False for journaled and inline"
    version = getattr(loaded, "API_VERSION", API_VERSION)
    return "" if version == API_VERSION else f"was made for API version {version}, this is version {API_VERSION}"


def _from_entry_point(point: EntryPoint) -> Found:
    origin = point.dist.name if point.dist is not None else point.value
    return Found(point.name, f"entry point of {origin}", point.load)


def _from_path(path: Path) -> list[Found]:
    if path.is_dir():
        files = sorted(file for file in path.glob("*.py") if not file.name.startswith("_"))
        return [one for file in files for one in _from_file(file)]
    return _from_file(path)


def _from_file(path: Path) -> list[Found]:
    names = _names_in(path, _read_trusted(path))
    return [Found(name, f"file {path}", _Loader(path, class_name)) for name, class_name in names.items()]


@dataclass(frozen=True, slots=True)
class _Loader:
    path: Path
    class_name: str

    def __call__(self) -> Any:
        """Run the file, read anew and checked anew: it may have changed since it was listed."""
        module = ModuleType("gatewayd_site_" + blake2b(str(self.path).encode(), digest_size=8).hexdigest())
        module.__file__ = str(self.path)
        code = compile(_read_trusted(self.path), str(self.path), "exec")
        sys.modules[module.__name__] = module  # msgspec and dataclasses look annotations up there
        try:
            exec(code, vars(module))  # noqa: S102 - running the operator's own file is the purpose
        except BaseException:
            del sys.modules[module.__name__]  # half a module must not be found by anybody
            raise
        return getattr(module, self.class_name)


def _read_trusted(path: Path) -> str:
    """The file's text, when only root and our own user may write the file and its folder."""
    try:
        folder = path.resolve().parent
        _check_owner(folder, folder.stat())
        with path.open(encoding="utf-8") as file:
            _check_owner(path, os.fstat(file.fileno()))  # of what is open: a name may be moved in between
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(_PATHS_KEY, f"{path} cannot be read: {error}") from error


def _check_owner(path: Path, status: os.stat_result) -> None:
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigError(_PATHS_KEY, f"{path} belongs to user {status.st_uid}; it must belong to root or to us")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(_PATHS_KEY, f"{path} may be written by others than its owner; run: chmod go-w {path}")


def _names_in(path: Path, text: str) -> dict[str, str]:
    """Handler name -> class name, read off the source without running it."""
    try:
        body = ast.parse(text, str(path)).body
    except (SyntaxError, ValueError) as error:
        raise ConfigError(_PATHS_KEY, f"{path} is not Python: {error}") from error
    for statement in body:
        target, value = _assignment(statement)
        if target == "HANDLERS":
            return _named(path, value)
    classes = [one.name for one in body if isinstance(one, ast.ClassDef) and _has_handle(one)]
    if len(classes) == 1:
        return {path.stem: classes[0]}
    raise ConfigError(
        _PATHS_KEY,
        f'{path} has {len(classes)} classes with `handle`: say HANDLERS = {{"name": Class}} at its top level',
    )


def _assignment(statement: ast.stmt) -> tuple[str, ast.expr | None]:
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    else:
        return "", None
    return (targets[0].id, statement.value) if isinstance(targets[0], ast.Name) else ("", None)


def _named(path: Path, value: ast.expr | None) -> dict[str, str]:
    names: dict[str, str] = {}
    pairs = zip(value.keys, value.values, strict=True) if isinstance(value, ast.Dict) else [(None, value)]
    for name, cls in pairs:
        if not (isinstance(name, ast.Constant) and isinstance(name.value, str) and isinstance(cls, ast.Name)):
            raise ConfigError(_PATHS_KEY, f'{path}: HANDLERS must be written out, as in HANDLERS = {{"name": Class}}')
        names[name.value] = cls.id
    return names


def _has_handle(cls: ast.ClassDef) -> bool:
    return any(isinstance(part, ast.FunctionDef) and part.name == "handle" for part in cls.body)


def is_journaled(route: Route, handler: Handler) -> bool:
    """Whether the raw message, and not the result, is the durable point: DESIGN.md section 2."""
    if route.mode == "auto":
        return route.window is not None or handler.journaled
    return route.mode == "journaled"


def lanes_problem(route: Route, handler: Handler) -> str:
    """What is wrong with `parallel`; "" where nothing is."""
    if route.parallel == 1 or (is_journaled(route, handler) and not handler.inline):
        return ""
    return "needs a journaled route and a handler that takes its time: see `mode`"
