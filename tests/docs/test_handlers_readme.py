"""handlers/README.md: its files run as they stand, and its tables name every option."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gatewayd.config.load import load
from gatewayd.registry import describe_handler, find_handlers, load_handler

README = (Path(__file__).parents[2] / "handlers" / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```\w+ file=(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of the README, as a reader would have them."""
    for name, text in BLOCK.findall(README):
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).chmod(0o600)
    return tmp_path


def test_the_first_handler_passes_its_own_tests(folder: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_jump.py"]

    run = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert (run.returncode, "2 passed" in run.stdout) == (0, True), run.stdout + run.stderr


def test_the_first_handler_s_config_is_sound_and_finds_it(folder: Path) -> None:
    config = load(folder / "config.toml")

    found = find_handlers([folder / path for path in config.handlers.paths])

    assert load_handler(config.routes["levels"].handler, found).__name__ == "Jump"


@pytest.mark.parametrize("name", sorted(find_handlers([])))
def test_every_option_of_a_built_in_handler_is_in_its_table(name: str) -> None:
    section = README.split(f"### {name}\n")[1].split("\n### ")[0]

    missing = [
        option.name
        for option in describe_handler(load_handler(name, find_handlers([])))
        if f"| `{option.name}` |" not in section or option.description.replace("|", "\\|") not in section
    ]

    assert missing == []
