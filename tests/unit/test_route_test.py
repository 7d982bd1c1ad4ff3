"""`gatewayd route test`: golden samples through a route as its config has it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gatewayd.cli.app import app

CONFIG = """
[routes.ovens]
topics = ["ovens/+"]
handler = "threshold"
payload = { fields = { temperature = "data.t" } }
[[routes.ovens.options.rules]]
field = "temperature"
above = 80.0
label = "hot"
[routes.sure]
topics = ["ovens/+"]
tiers = ["small"]
[tiers.small]
type = "handler"
handler = "threshold"
"""
SAMPLES = """
[[sample]]
topic = "ovens/1"
payload = '{"data": {"t": 91.5}}'
[[sample.expect]]
kind = "alert"
label = "LABEL"
[[sample]]
topic = "ovens/1"
payload = 'broken'
expect = [{ rejected = "missing_field" }]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "ovens.samples.toml").write_text(SAMPLES.replace("LABEL", "hot"))
    return path


def run(config: Path, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["route", "test", *arguments, "-c", str(config)])
    told = "" if done.exception is None or isinstance(done.exception, SystemExit) else str(done.exception)
    return done.exit_code, done.output + told


def test_samples_beside_the_config_run_through_the_route(config: Path) -> None:
    status, words = run(config, "ovens")

    assert status == 0, words
    assert "2 of 2 samples ok on route ovens (threshold)" in words


def test_a_difference_is_shown_and_can_be_written(config: Path) -> None:
    path = config.parent / "mine.samples.toml"
    path.write_text(SAMPLES.replace("LABEL", "cold"))

    status, words = run(config, "ovens", str(path))
    rows = json.loads(run(config, "ovens", str(path), "--json")[1])
    updated, _ = run(config, "ovens", str(path), "--update")

    assert status == 1
    assert "WRONG   1 ovens/1" in words
    assert [row["ok"] for row in rows] == [False, True]
    assert updated == 0
    assert run(config, "ovens", str(path))[0] == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[sample]]\ntopic = "doors/1"\npayload = "1"', "does not take 'doors/1' (it takes ovens/+)"),
        ('handler = "summarize_text"', "is for the handler summarize_text"),
        ("", "holds no [[sample]]"),
        ("[[sample", "mine.samples.toml"),
    ],
)
def test_a_file_that_does_not_fit_is_told(config: Path, text: str, said: str) -> None:
    path = config.parent / "mine.samples.toml"
    path.write_text(text)

    status, words = run(config, "ovens", str(path))

    assert status == 1
    assert said in words


def test_routes_that_cannot_be_tested_are_told(config: Path) -> None:
    assert "there is no route 'nope'; there are: ovens, sure" in run(config, "nope")[1]
    assert "`gatewayd route explain sure`" in run(config, "sure")[1]
