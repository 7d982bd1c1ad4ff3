"""What the README says can be done as it says: its config, its commands, its length."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from gatewayd.checked import handler_problems
from gatewayd.config.load import check

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
TEXT = README.read_text() if README.exists() else ""
# Sub-commands named in the text, in backquotes or in a block; `gatewayd models fit` has two words.
NAMED = sorted(set(re.findall(r"gatewayd ((?:(?:spool|models) )?[a-z]+)(?=[ `\n])", TEXT)) - {"takes"})


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def test_the_readme_can_be_read_in_a_few_minutes() -> None:
    assert len(TEXT.splitlines()) < 150


def test_its_config_has_nothing_wrong_with_it(tmp_path: Path) -> None:
    (block,) = blocks("toml")
    path = tmp_path / "config.toml"
    path.write_text(block)

    assert [str(problem) for problem in check(path, handler_problems(path))] == []


@pytest.mark.parametrize("command", NAMED)
def test_a_command_it_names_exists(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gatewayd", *shlex.split(command), "--help"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr


def test_the_commands_were_found() -> None:
    assert {"check", "replay", "spool audit", "models fit", "doctor"} <= set(NAMED)


def test_the_samples_it_runs_hold() -> None:
    (block,) = [block for block in blocks("sh") if "replay" in block]

    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(block)], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 of 8 samples ok" in done.stdout


def test_its_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {word for block in blocks("sh") for word in re.findall(r"^make ([a-z]+)", block, re.MULTILINE)}

    assert named == {"demo", "test"}
    assert named <= targets


def test_the_files_of_the_installation_exist() -> None:
    assert (ROOT / "systemd" / "gatewayd.service").exists()
    assert "gatewayd[onnx,llm]" in TEXT
