"""Prose cannot lie: generated pages are current, and every TOML block is a config that loads."""

import re
from pathlib import Path

import pytest

from gatewayd import errors
from gatewayd.config.load import check, examine_text
from gatewayd.instruments import INSTRUMENTS
from gatewayd.reference import pages, stale

ROOT = Path(__file__).parents[2]
PROSE = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *ROOT.glob("handlers/*.md"), *ROOT.glob("*.md")])
FENCE = re.compile(r"^```toml([^\n]*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def toml_blocks() -> list[tuple[str, str]]:
    """Blocks of config.toml in the docs. ```toml model``` and other words after `toml` mark other files."""
    found = []
    for path in dict.fromkeys(PROSE):
        if path.exists():
            for match in FENCE.finditer(path.read_text()):
                if not match.group(1).strip():
                    line = path.read_text()[: match.start()].count("\n") + 2
                    found.append((f"{path.relative_to(ROOT)}:{line}", match.group(2)))
    return found


@pytest.mark.parametrize("path", list(pages()))
def test_a_generated_file_is_what_the_code_says(path: str) -> None:
    assert path not in stale(ROOT), f"{path} is stale: run `make docs`"


def test_the_example_config_has_nothing_wrong_with_it() -> None:
    assert check(ROOT / "config.toml") == []


@pytest.mark.parametrize(("where", "text"), toml_blocks(), ids=[where for where, _ in toml_blocks()])
def test_a_config_in_the_docs_loads(where: str, text: str) -> None:
    _, problems = examine_text(text, where)

    # A block that shows a part of a config names sinks that stand in another part.
    wrong = [problem for problem in problems if not problem.is_warning and "there is no sink" not in problem.problem]
    assert [str(problem) for problem in wrong] == []


def test_every_metric_is_documented() -> None:
    page = (ROOT / "docs/reference/metrics.md").read_text()

    missing = [each.name for each in INSTRUMENTS.values() if f"`{each.prometheus_name}`" not in page]

    assert missing == []
    assert [each.name for each in INSTRUMENTS.values() if not each.description.endswith(".")] == []


def test_every_error_is_documented() -> None:
    page = (ROOT / "docs/reference/errors.md").read_text()

    assert [name for name in vars(errors) if name[0].isupper() and f"`{name}`" not in page] == []


def test_every_metric_that_is_read_is_in_the_table_and_no_other_file_names_a_convention() -> None:
    observed, named = set(), set()
    for path in (ROOT / "gatewayd").rglob("*.py"):
        text = path.read_text()
        observed |= set(re.findall(r"""observe\(\s*"([^"]+)\"""", text))
        if path.name not in ("instruments.py", "telemetry.py", "spans.py", "reference.py"):
            named |= {(path.name, name) for name in re.findall(r"\"((?:messaging|gen_ai)\.[a-z_.]+)\"", text)}

    assert observed
    assert observed - {each.name for each in INSTRUMENTS.values() if each.kind != "histogram"} == set()
    assert named == set()


def test_links_between_the_docs_lead_somewhere() -> None:
    dead = []
    for path in dict.fromkeys(PROSE):
        if not path.exists():
            continue
        targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text())
        here = [target for target in targets if "://" not in target and not target.startswith("mailto:")]
        dead += [f"{path.relative_to(ROOT)}: {target}" for target in here if not (path.parent / target).exists()]

    assert dead == []
