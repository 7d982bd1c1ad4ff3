"""On which line of a TOML text a value stands. tomli gives lines for syntax errors only, not for values.

The text has been parsed by tomli before: the scanner relies on that, checks nothing, and always ends.
"""

import json
import re

from gatewayd.config.describe import Path

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
# A scalar that is no string ends where an array, an inline table, a comment or the line does.
_SCALAR = re.compile(r"[^,\]}#\n]*")
_STRINGS = (
    re.compile(r'"""(?:[^"\\]|\\.|"(?!""(?!")))*"""', re.DOTALL),
    re.compile(r"'''(?:[^']|'(?!''(?!')))*'''", re.DOTALL),
    re.compile(r'"(?:[^"\\\n]|\\.)*"'),
    re.compile(r"'[^'\n]*'"),
)


def locate(text: str) -> dict[Path, int]:
    """The line, counted from 1, of every table, key, array item and inline table's key."""
    return _Scanner(text).scan()


def line_of(lines: dict[Path, int], path: Path) -> int:
    """The line of `path`, or of the nearest table around it; 1 when there is none."""
    for end in range(len(path), 0, -1):
        if path[:end] in lines:
            return lines[path[:end]]
    return 1


class _Scanner:
    """One pass over the text. `at` is the position, `lines` what was found."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Path, int] = {}
        self.tables: dict[Path, int] = {}  # array of tables -> how many it has so far
        self.counted = (0, 1)  # a position, and its line

    def scan(self) -> dict[Path, int]:
        table: Path = ()
        self.skip(_BLANK)
        while self.at < len(self.text):
            if self.text.startswith("[", self.at):
                table = self.header()
            else:
                self.pair(table)
            self.skip(_BLANK)
        return self.lines

    def header(self) -> Path:
        line, many = self.line(), self.text.startswith("[[", self.at)
        self.at += 2 if many else 1
        names = self.key()
        self.at += 2 if many else 1
        path: Path = ()
        for name in names[:-1]:
            path = self.newest((*path, name))
            self.lines.setdefault(path, line)
        path = (*path, names[-1])
        if many:
            self.lines.setdefault(path, line)
            index = self.tables.get(path, 0)
            self.tables[path] = index + 1
            path = (*path, index)
        else:
            path = self.newest(path)
        self.lines[path] = line
        return path

    def newest(self, path: Path) -> Path:
        """A header that names an array of tables means its last table."""
        return (*path, self.tables[path] - 1) if path in self.tables else path

    def pair(self, table: Path) -> None:
        line, path = self.line(), table
        for name in self.key():
            path = (*path, name)
            self.lines.setdefault(path, line)
        self.at += 1  # the equals sign
        self.skip(_SPACE)
        self.value(path)

    def key(self) -> tuple[str, ...]:
        """A dotted key; stands at `=` or `]` afterwards."""
        names: list[str] = []
        while True:
            self.skip(_SPACE)
            names.append(self.name())
            self.skip(_SPACE)
            if not self.text.startswith(".", self.at):
                return tuple(names)
            self.at += 1

    def name(self) -> str:
        for pattern in (*_STRINGS[2:], _BARE_KEY):
            found = pattern.match(self.text, self.at)
            if found:
                self.at = found.end()
                return _unquoted(found.group())
        self.at = len(self.text)  # not TOML: end rather than loop
        return ""

    def value(self, path: Path) -> None:
        opening = self.text[self.at : self.at + 1]
        if opening == "[":
            self.array(path)
        elif opening == "{":
            self.inline_table(path)
        else:
            self.scalar()

    def array(self, path: Path) -> None:
        self.at += 1
        self.skip(_BLANK)
        index = 0
        while self.at < len(self.text) and self.text[self.at] != "]":
            self.lines[(*path, index)] = self.line()
            self.value((*path, index))
            self.past_comma()
            index += 1
        self.at += 1

    def inline_table(self, path: Path) -> None:
        self.at += 1
        self.skip(_BLANK)
        while self.at < len(self.text) and self.text[self.at] != "}":
            self.pair(path)
            self.past_comma()
        self.at += 1

    def past_comma(self) -> None:
        self.skip(_BLANK)
        if self.text.startswith(",", self.at):
            self.at += 1
        self.skip(_BLANK)

    def scalar(self) -> None:
        for pattern in (*_STRINGS, _SCALAR):
            found = pattern.match(self.text, self.at)
            if found:
                self.at = found.end()
                return

    def skip(self, pattern: re.Pattern[str]) -> None:
        found = pattern.match(self.text, self.at)
        if found:
            self.at = found.end()

    def line(self) -> int:
        position, line = self.counted
        line += self.text.count("\n", position, self.at)
        self.counted = (self.at, line)
        return line


def _unquoted(name: str) -> str:
    if name.startswith("'"):
        return name[1:-1]
    if not name.startswith('"'):
        return name
    # TOML's basic strings are JSON's but for \e, \x and \U; a raw tab is allowed as well.
    wide = re.sub(r"\\U([0-9A-Fa-f]{8})", lambda found: chr(int(found.group(1), 16)), name)
    try:
        return str(json.loads(wide, strict=False))
    except ValueError:
        return name[1:-1]
