"""The demo's parts without its processes: what is drawn, what is told, what its config is, what its devices do."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from gatewayd.checked import handler_problems
from gatewayd.cli.demo.bundles import DemoModels
from gatewayd.cli.demo.config import Ports, write
from gatewayd.cli.demo.devices import Freezer, Plc, Pump, plant
from gatewayd.cli.demo.scene import LOG_LINES, Scene
from gatewayd.cli.demo.show import show_books
from gatewayd.cli.demo.view import draw, line
from gatewayd.config.load import check
from gatewayd.spool.books import Books


def result(route: str, subject: str, **data: object) -> tuple[str, bytes]:
    return f"gatewayd/demo/results/{route}", json.dumps({"subject": subject, "data": data}).encode()


def busy_scene() -> Scene:
    scene = Scene(60.0)
    scene.begin()
    for kind, topic in (
        ("pump readings", "plant/pump-2/state"),
        ("freezer readings", "store/f"),
        (LOG_LINES, "logs/p"),
    ):
        scene.published(kind, topic)
    for label in ("normal", "cavitation", "normal"):
        scene.live_result(*result("pumps", "plant/pump-2/state", label=label, score=0.98))
    scene.live_result(*result("freezers", "store/f", label="too_warm", state="raised", value=-14.9))
    for number in range(9):
        summary = {"headline": f"headline {number} " + "that is far too long for a line " * 5, "severity": "warning"}
        scene.live_result(
            *result(
                "log_summaries", "logs/p", summary=summary, messages=10, method="model", tokens_out=7, tokens_in=300
            )
        )
    for n_pending in (0, 40, 90, 0):
        scene.spool_depth(n_pending)
    return scene


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (200, 60)])
def test_the_picture_fits_the_terminal(width: int, height: int) -> None:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)

    console.print(draw(busy_scene(), console.size))

    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert len(lines) <= height - 1
    assert max(map(len, lines)) <= width
    picture = "\n".join(lines)
    assert "cavitation 1" in picture
    assert "headline 8" in picture
    assert "0 waiting (most 90)" in picture


def test_the_picture_of_nothing_yet_can_be_drawn() -> None:
    console = Console(file=io.StringIO(), width=80, height=24)

    console.print(draw(Scene(8.0), console.size))

    assert line(Scene(8.0)).startswith("   0 s  0 messages in | no labels yet")


def test_news_is_told_once_for_each_device() -> None:
    scene = Scene(60.0)
    scene.begin()

    for label in ("normal", "normal", "cavitation", "cavitation", "normal", "cavitation"):
        scene.live_result(*result("pumps", "plant/pump-2/state", label=label, score=0.98))

    assert [words.split("  ")[-1] for words in scene.events] == [
        "pumps: plant/pump-2/state: cavitation (0.98)",
        "pumps: plant/pump-2/state: normal (0.98)",
    ]


def test_the_time_from_publishing_to_the_result_is_measured_for_what_was_published() -> None:
    scene = Scene(60.0)
    assert scene.latency_ms() is None

    for _ in range(3):
        scene.published("pump readings", "plant/pump-1/state")
        scene.live_result(*result("pumps", "plant/pump-1/state", label="normal"))
        scene.live_result(*result("pumps", "plant/pump-9/state", label="normal"))

    latency = scene.latency_ms()
    assert len(scene.latencies_s) == 3
    assert latency is not None
    assert 0 < latency[0] <= latency[1] < 1000


@pytest.mark.parametrize("encoder", [True, False])
@pytest.mark.parametrize("language", [True, False])
@pytest.mark.parametrize("pumps", [True, False])
def test_the_config_is_right_with_any_models(tmp_path: Path, encoder: bool, language: bool, pumps: bool) -> None:
    models = DemoModels(folder=tmp_path / "models", pumps=pumps, encoder=encoder, language=language)

    config = write(tmp_path, Ports(1, 2, 3), models)

    assert [str(problem) for problem in check(config, handler_problems(config)) if not problem.is_warning] == []


def test_something_happens_in_the_first_twenty_seconds() -> None:
    fast, slow = plant(seed=7)
    warmest, cavitated = -99.0, False
    for _ in range(4 * 20):
        for device in fast:
            message = device.publish()
            if isinstance(device, Freezer):
                warmest = max(warmest, float(message.payload))
            elif isinstance(device, Pump):
                cavitated |= device.cavitating
    lines = [one.publish().payload for one in slow for _ in range(20)]

    assert warmest > -15.0  # the freezers' limit
    assert cavitated
    assert [line for line in lines if "emergency stop" in line or "timeout" in line or "overtemperature" in line]
    assert isinstance(slow[0], Plc)


def test_the_end_says_why_more_was_received_than_published() -> None:
    console = Console(file=io.StringIO(), width=400)
    scene = busy_scene()
    scene.stored = 12
    lines = ("received", "handled", "journaled", "dead", "dropped", "evicted", "expired")
    books = Books(messages={"log_lines": dict(zip(lines, (2, 1, 1, 0, 0, 0, 0), strict=True))}, results={}, reasons={})

    show_books(books, scene, DemoModels(folder=Path(), pumps=True, encoder=True, language=True), console)

    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    assert "messages: received 2 = handled 1  journaled 1" in said
    assert "each of the 1 log lines is on two routes" in said
    assert "Stored by the cloud: 12 results." in said
    assert "Journaled: 1 log lines of a window that is still open" in said
    assert "Both books balance." in said
