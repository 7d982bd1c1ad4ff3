"""Commands beside a running daemon and a real Mosquitto: status, the spool's three views, the doctor."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sim.gateway import Gateway, wait_until
from tests.sim.models import demo_models
from tests.sim.mosquitto import Mosquitto

pytestmark = pytest.mark.broker

CONFIG = """
[source]
port = {port}
[sinks.file]
type = "file"
path = "out.ndjson"
[routes.ovens]
topics = ["cli/ovens/#"]
handler = "threshold"
sinks = ["file"]
payload = {{ format = "number" }}
[[routes.ovens.options.rules]]
above = 80.0
label = "hot"
"""


def command(gateway: Gateway, *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output, standard error of a command about this gateway."""
    done = subprocess.run(
        [sys.executable, "-m", "gatewayd", *arguments, "--config", str(gateway.config)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def as_json(gateway: Gateway, *arguments: str) -> Any:
    return json.loads(command(gateway, *arguments, "--json")[1])


def publish(broker: Mosquitto, *payloads: str) -> None:
    for payload in payloads:
        subprocess.run(
            ["mosquitto_pub", "-p", str(broker.port), "-q", "1", "-t", "cli/ovens/1", "-m", payload],
            check=True,
            timeout=120,
        )


@pytest.fixture
def running(new_mosquitto: Callable[..., Mosquitto], tmp_path: Path) -> Iterator[Gateway]:
    """A daemon that has handled two messages and buried one."""
    broker = new_mosquitto()
    gateway = Gateway(tmp_path / "gateway", CONFIG.format(port=broker.port), name="hall-3")
    gateway.start()
    publish(broker, "91.5", "12", "not a number")
    wait_until(lambda: gateway.books().totals()["messages"]["received"] == 3, 20, gateway.describe)  # type: ignore[index]
    yield gateway
    gateway.end()


def test_the_status_is_the_daemons_own(running: Gateway) -> None:
    status, words, _ = command(running, "status")

    assert status == 0
    assert "on hall-3, up " in words
    assert "connected" in words
    assert "ovens" in words
    assert as_json(running, "status")["routes"]["ovens"]["state"] == "running"


def test_the_books_are_read_beside_the_daemon(running: Gateway) -> None:
    wait_until(lambda: running.n_pending() == 0, 20, running.describe)

    status, words, _ = command(running, "spool", "audit")

    assert status == 0
    assert "Both books balance." in words
    books = as_json(running, "spool", "audit")
    assert books["balanced"]
    assert books["messages"] == {
        "received": 3, "handled": 2, "journaled": 0, "dead": 1, "dropped": 0, "evicted": 0, "expired": 0,
    }  # fmt: skip
    assert books["results"]["produced"] == books["results"]["delivered"] == 2  # raised, cleared
    assert books["reasons"]["messages/ovens/dead"] == {"decode": 1}


def test_a_dead_letter_can_be_looked_at(running: Gateway) -> None:
    (letter,) = as_json(running, "spool", "dead")

    assert (letter["route"], letter["topic"], letter["reason"]) == ("ovens", "cli/ovens/1", "decode")
    assert letter["payload"] == "not a number"
    assert "cli/ovens/1" in command(running, "spool", "dead")[1]


def test_the_size_of_the_spool_is_shown(running: Gateway) -> None:
    status = as_json(running, "spool", "status")

    assert status["dead_letters"] == 1
    assert status["used_bytes"] > 0
    assert "KiB" in command(running, "spool", "status")[1]


def test_the_doctor_finds_nothing_wrong(running: Gateway) -> None:
    status, words, _ = command(running, "doctor")

    assert status == 0
    assert "failed" not in words
    assert "accepts connections" in words


def test_after_the_stop_the_books_can_still_be_read(running: Gateway) -> None:
    assert running.stop() == 0

    assert command(running, "status")[0] == 69
    assert as_json(running, "spool", "audit")["balanced"]


@pytest.mark.model
def test_a_head_is_fitted_on_labeled_texts(tmp_path: Path) -> None:
    models = demo_models("minilm-int8")
    shutil.copytree(models / "minilm-int8", tmp_path / "models" / "minilm-int8")
    rule = '[[routes.x.options.rules]]\nlabel = "a"\nabove = 1.0\n'
    (tmp_path / "config.toml").write_text(f'[routes.x]\ntopics = ["a"]\nhandler = "threshold"\n{rule}')
    alerts = ["pump failed to start", "motor overheated", "fire alarm on line 2", "emergency stop pressed"]
    normal = ["cycle finished", "heartbeat ok", "recipe loaded", "shift change done"]
    lines = [f"{text},{label}" for label, texts in (("alert", alerts), ("normal", normal)) for text in texts]
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *lines, ""]))
    fit = ["models", "fit", "texts.csv", "--text", "--name", "head", "--json"]

    done = subprocess.run(
        [sys.executable, "-m", "gatewayd", *fit], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["labels"] == ["alert", "normal"]
    assert (tmp_path / "models" / "head" / "model.toml").exists()


def test_the_daemon_does_without_the_library_for_colors_and_its_help_has_them() -> None:
    code = (
        "import sys\nfrom gatewayd.cli import main\nsys.argv = ['gatewayd', *sys.argv[1:]]\n"
        "try:\n    main()\nexcept SystemExit:\n    print('rich.console' in sys.modules, file=sys.stderr)\n"
    )
    for arguments, has_colors in ((["run", "--config", "/nonexistent.toml"], "False"), (["run", "--help"], "True")):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, check=True
        )
        assert done.stderr.splitlines()[-1] == has_colors
