"""From a file to a `Config`: with every problem it has, each with its line, or not at all."""

from collections.abc import Callable, Sequence
from pathlib import Path as FilePath
from typing import Any

import msgspec
import tomli

from gatewayd.config.cross import cross_check
from gatewayd.config.describe import Path, dotted, struct_info
from gatewayd.config.locate import line_of, locate
from gatewayd.config.schema import Config
from gatewayd.config.walk import BAD, Finding, Found, clean
from gatewayd.errors import ConfigError

# What only a caller can know (handlers, their options, models): `(path, problem)` for each mistake.
Extra = Callable[[Config], Sequence[tuple[Path, str]]]


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """A mistake in a config file, for the person who has to mend it."""

    file: str
    line: int  # counted from 1
    key: str  # dotted, as in TOML; "" when the file as a whole is meant
    problem: str
    allowed: str = ""  # what would be right
    is_warning: bool = False  # True: the daemon starts nevertheless

    def __str__(self) -> str:
        """One line, in the form that editors make links of."""
        kind = "warning: " if self.is_warning else ""
        key = f"{self.key}: " if self.key else ""
        allowed = f" (allowed: {self.allowed})" if self.allowed else ""
        return f"{self.file}:{self.line}: {kind}{key}{self.problem}{allowed}"


class ConfigErrors(ConfigError):  # noqa: N818 - several of them
    """Everything that is wrong with a config file. `problems` holds all of it, warnings too."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        errors = [problem for problem in problems if not problem.is_warning]
        super().__init__(errors[0].key or errors[0].file, "\n".join(str(problem) for problem in errors))
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return self.problem


def load(path: FilePath | str, extra: Extra | None = None) -> Config:
    """The file's config. Raises ConfigErrors with everything that is wrong with it."""
    config, problems = examine(path, extra)
    if config is None or any(not problem.is_warning for problem in problems):
        raise ConfigErrors(problems)
    return config


def check(path: FilePath | str, extra: Extra | None = None) -> list[Problem]:
    """Everything that is wrong with the file, in order of lines; empty when nothing is. Reads this one file only."""
    return examine(path, extra)[1]


def examine(path: FilePath | str, extra: Extra | None = None) -> tuple[Config | None, list[Problem]]:
    """The config as far as it could be made out, and everything that is wrong with the file."""
    file = str(path)
    try:
        text = FilePath(path).read_bytes().decode()
    except OSError as failure:
        return None, [Problem(file=file, line=1, key="", problem=f"cannot be read: {failure.strerror}")]
    except UnicodeDecodeError as failure:
        line = failure.object[: failure.start].count(b"\n") + 1
        return None, [Problem(file=file, line=line, key="", problem="is not UTF-8")]
    return examine_text(text, file, extra)


def examine_text(text: str, file: str, extra: Extra | None = None) -> tuple[Config | None, list[Problem]]:
    """The same for a text; `file` is the name that problems carry."""
    try:
        data = tomli.loads(text)
    except tomli.TOMLDecodeError as failure:
        said = f"is not TOML: {failure.msg} (column {failure.colno})"
        return None, [Problem(file=file, line=failure.lineno, key="", problem=said)]
    found: Found = []
    config = _convert(data, found)
    if config is not None:
        found += cross_check(config, data)
        found += [Finding(path=path, problem=problem) for path, problem in (extra(config) if extra else ())]
    lines = locate(text.replace("\r\n", "\n"))
    problems = [_problem(finding, file, line_of(lines, finding.path)) for finding in found]
    return config, sorted(problems, key=lambda problem: problem.line)


def _convert(data: dict[str, Any], found: Found) -> Config | None:
    """The part of the document that is right, as a Config."""
    kept = clean(struct_info(Config), data, (), found)
    if kept is BAD:
        return None
    try:
        return msgspec.convert(kept, Config)
    except msgspec.ValidationError as failure:  # a rule that `walk` does not know: msgspec has the last word
        found.append(Finding(path=(), problem=str(failure)))
        return None


def _problem(finding: Finding, file: str, line: int) -> Problem:
    return Problem(
        file=file,
        line=line,
        key=dotted(finding.path),
        problem=finding.problem,
        allowed=finding.allowed,
        is_warning=finding.is_warning,
    )
