"""What `check` says of `write = "when_offline"`: where there is nothing to spare, and what may be lost."""

from pathlib import Path

import pytest

from gatewayd.checked import handler_problems
from gatewayd.config.load import check, examine_text

CONFIG = """[sinks.cloud]
type = "http"
url = "http://127.0.0.1:1/"
[routes.r]
topics = ["a"]
handler = "{handler}"
write = "when_offline"
{more}
"""


def said(more: str, handler: str = "threshold") -> list[tuple[bool, str]]:
    problems = examine_text(CONFIG.format(more=more, handler=handler), "config.toml")[1]
    return [(problem.is_warning, str(problem)) for problem in problems if "routes.r.write" in str(problem)]


@pytest.mark.parametrize("more", ['mode = "journaled"', "[routes.r.window]\nevery_s = 60"])
def test_a_journaled_route_has_nothing_to_spare(more: str) -> None:
    ((is_warning, text),) = said(f'sinks = ["cloud"]\n{more}')

    assert not is_warning
    assert "journaled route puts every message on disk at once" in text
    assert ":7:" in text


def test_nor_has_a_route_without_sinks() -> None:
    ((is_warning, text),) = said("")

    assert not is_warning
    assert "no sink" in text


def test_the_loss_window_is_said() -> None:
    ((is_warning, text),) = said('sinks = ["cloud"]\nwrite_max_results = 77\nwrite_max_s = 2.5')

    assert is_warning
    assert "up to 77 results, or those of 2.5 s" in text


def test_a_handler_that_works_from_the_journal_is_told_apart(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    more = 'sinks = ["cloud"]\n[routes.r.options]\nmodel = "m"'
    config.write_text(CONFIG.format(handler="summarize_text", more=more))

    problems = [problem for problem in check(config, handler_problems(config)) if not problem.is_warning]

    assert ["works from the journal" in str(problem) for problem in problems] == [True]


def test_nothing_is_said_of_a_route_that_always_writes() -> None:
    text = CONFIG.format(handler="threshold", more='sinks = ["cloud"]').replace("when_offline", "always")

    assert examine_text(text, "config.toml")[1] == []
