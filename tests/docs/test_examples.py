"""The examples are sound, and what their READMEs run gives what they say."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gatewayd.checked import handler_problems
from gatewayd.config.load import check

EXAMPLES = Path(__file__).parents[2] / "examples"
FOLDERS = sorted(path.parent for path in EXAMPLES.glob("*/config.toml"))
SAMPLES = sorted(EXAMPLES.glob("*/*.samples.toml"))


def gatewayd(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gatewayd", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_its_config_has_nothing_wrong_with_it(folder: Path) -> None:
    problems = check(folder / "config.toml", handler_problems(folder / "config.toml"))

    # That `write = "when_offline"` may lose some is said in any case, for whoever has not read it yet.
    assert [str(each) for each in problems if "write: a power cut loses up to" not in str(each)] == []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_its_readme_names_commands_and_files_that_are_there(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    commands = re.findall(r"^gatewayd (.*)$", text, re.MULTILINE)

    assert f"({folder.name}/README.md)" in (EXAMPLES / "README.md").read_text()
    assert any(command.startswith("check") for command in commands)
    assert any(command.startswith("replay") for command in commands)
    named = {word for command in commands for word in command.split() if re.search(r"\.(toml|ndjson)$", word)}
    assert {name for name in named if not (folder / name).exists()} == set()
    assert len(text.splitlines()) < 40


@pytest.mark.parametrize("samples", SAMPLES, ids=lambda path: path.parent.name)
def test_its_samples_hold(samples: Path) -> None:
    done = gatewayd(samples.parent, "replay", samples.name)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "samples ok" in done.stdout


def test_hours_of_notes_are_told_before_the_model_is_there() -> None:
    done = gatewayd(EXAMPLES / "operator-notes", "replay", "--config", "config.toml", "recording.ndjson")

    assert done.returncode == 0, done.stderr
    summaries = [json.loads(line)["data"] for line in done.stdout.splitlines()]
    assert sorted(each["messages"] for each in summaries) == [1, 2, 2]  # two hours of hall-1, one of hall-2
    assert any("saw 3" in each["summary"]["headline"] for each in summaries)


def test_links_of_the_examples_lead_somewhere() -> None:
    pages = EXAMPLES.rglob("*.md")
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#]+)\)", page.read_text())]

    assert [f"{page}: {link}" for page, link in links if not (page.parent / link).exists()] == []


def test_there_is_an_example_for_each_kind_of_work() -> None:
    handlers = {
        name for folder in FOLDERS for name in re.findall(r'handler = "(\w+)"', (folder / "config.toml").read_text())
    }

    assert handlers == {"threshold", "classify_series", "classify_text", "classify_llm", "summarize_text"}
