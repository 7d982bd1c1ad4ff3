"""Completion as the package installs it, in the real shells; and a man page that the formatter takes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPLETION = ROOT / "completion"
BASH = """
source {script}
COMP_WORDS=(gatewayd spool au); COMP_CWORD=2; COMP_LINE='gatewayd spool au'
_gatewayd_completion gatewayd
echo "${{COMPREPLY[@]}}"
"""
# compsys wants a terminal; what it would be given is what _describe and compadd are called with.
ZSH = """
compdef() {{ :; }}
_arguments() {{ print -r -- "$@"; }}
words=(gatewayd spool au); CURRENT=3
source {script}
"""
FISH = "source {script}; complete --do-complete 'gatewayd spool au'"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A `gatewayd` on the PATH, as /usr/bin/gatewayd is."""
    program = tmp_path / "bin" / "gatewayd"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.argv[0] = 'gatewayd'\nfrom gatewayd.cli import main\nmain()\n"
    )
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}


@pytest.mark.parametrize(
    ("shell", "script", "line"),
    [("bash", "gatewayd.bash", BASH), ("zsh", "_gatewayd", ZSH), ("fish", "gatewayd.fish", FISH)],
)
def test_a_shell_completes_a_command(shell: str, script: str, line: str, environment: dict[str, str]) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    command = [shell, "-c", line.format(script=COMPLETION / script)]

    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)

    assert "audit" in done.stdout, done.stdout + done.stderr
    assert "export" not in done.stdout  # what does not begin so is not offered


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="mandoc is not installed")
def test_the_man_page_is_formatted_without_a_complaint() -> None:
    page = str(ROOT / "man/gatewayd.1")

    linted = subprocess.run(["mandoc", "-T", "lint", "-W", "error", page], capture_output=True, text=True, check=False)
    shown = subprocess.run(["mandoc", "-T", "ascii", page], capture_output=True, text=True, check=True).stdout
    shown = re.sub(".\x08", "", shown)  # bold is a letter struck twice

    assert linted.stdout == ""
    for line in ("NAME", "gatewayd spool audit", "gatewayd run", "EXIT STATUS", "RestartPreventExitStatus"):
        assert line in shown, line
