"""The guide of the terminal names commands and options that there are."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from gatewayd.cli.app import app

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "terminal.md"
BLOCKS = re.findall(r"^```sh\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
LINES = [line for block in BLOCKS for line in block.splitlines() if line.strip()]


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, and what is left of them."""
    command: Any = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("line", LINES)
def test_a_command_of_the_guide_takes_what_is_said(line: str) -> None:
    program, *words = shlex.split(line, comments=True)
    command, rest = command_of(words)

    assert program == "gatewayd"
    assert not hasattr(command, "commands"), f"{line} names no command"
    known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    assert [each for each in rest if each.startswith("-") and each not in known] == []


def test_the_guide_names_the_new_commands() -> None:
    named = " ".join(LINES)

    assert len(LINES) > 10
    assert all(
        f"gatewayd {each}" in named for each in ("init", "check", "doctor", "top", "tail", "status", "route test")
    )


def test_the_picture_in_the_guide_is_80_by_24() -> None:
    blocks = re.findall(r"^```\w*\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    picture = next(block for block in blocks if "ROUTE " in block)

    assert len(picture.splitlines()) == 24
    assert max(len(line) for line in picture.splitlines()) <= 80
