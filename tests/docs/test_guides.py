"""What the guides for beginners and boards let a person run: it runs, and says what they say."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gatewayd.instruments import INSTRUMENTS
from tests.sim.gateway import Gateway, wait_until
from tests.sim.mosquitto import Mosquitto

ROOT = Path(__file__).parents[2]
GUIDES = ROOT / "docs/guides"
TEN = (GUIDES / "ten-minutes.md").read_text()
NEW = ("ten-minutes", "security", "troubleshooting", "jetson", "tuning")
PAGES = [*(GUIDES / f"{name}.md" for name in NEW), *(ROOT / "examples").glob("*/README.md"), ROOT / "SECURITY.md"]


@pytest.fixture
def gateway(tmp_path: Path, new_mosquitto: Callable[..., Mosquitto]) -> Iterator[tuple[Gateway, Mosquitto]]:
    """The daemon with the config of the package, beside a broker of the test."""
    broker = new_mosquitto()
    text = (ROOT / "debian/gatewayd.toml").read_text()
    text = re.sub(r"^(id|state_dir|dir) = .*$", "", text, flags=re.MULTILINE).replace("[gateway]\n", "")
    text = text.replace("[source]\n", f"[source]\nport = {broker.port}\n")
    made = Gateway(tmp_path / "gateway", text, name="hall-3")
    made.start()
    yield made, broker
    made.end()


@pytest.mark.broker
def test_the_first_answer_comes_as_the_guide_says(gateway: tuple[Gateway, Mosquitto]) -> None:
    _, broker = gateway
    [expected] = re.findall(r"^```text\n(.*)\n```", TEN, re.MULTILINE)
    publish = [line.split() for line in TEN.splitlines() if line.startswith("mosquitto_pub")]
    listen = ["mosquitto_sub", "-d", "-v", "-t", "gatewayd/#", "-p", str(broker.port)]
    assert len(publish) == 2
    with subprocess.Popen(listen, stdout=subprocess.PIPE, text=True) as terminal:
        assert terminal.stdout is not None
        for line in terminal.stdout:
            if line.startswith("Subscribed"):
                for command in publish:
                    subprocess.run([*command, "-p", str(broker.port)], check=True, timeout=120)
            if "/results/" in line and not line.startswith("Client"):
                break
        terminal.terminate()

    assert line.startswith(expected)


@pytest.mark.broker
def test_the_script_for_a_sensor_on_the_pi_publishes_degrees(
    gateway: tuple[Gateway, Mosquitto], tmp_path: Path
) -> None:
    daemon, broker = gateway
    [script] = re.findall(r"^```sh file=publish-ds18b20\.sh\n(.*?)^```", TEN, re.DOTALL | re.MULTILINE)
    (tmp_path / "publish.sh").write_text(script)
    sensor = tmp_path / "temperature"
    sensor.write_text("91250\n")  # as the kernel's w1_therm has it: thousandths of a degree
    environment = {"PATH": "/usr/bin:/bin:/usr/sbin", "PORT": str(broker.port), "EVERY_S": "0.2"}
    with subprocess.Popen(["sh", tmp_path / "publish.sh", sensor], env=environment, stderr=subprocess.DEVNULL) as run:
        wait_until(lambda: daemon.books().messages.get("temperature", {}).get("handled", 0) >= 2, 60, daemon.describe)
        sensor.unlink()  # the sensor is gone: the script ends
        run.wait(timeout=60)

    assert daemon.books().messages["temperature"].get("dead", 0) == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    words = set(re.findall(r"(?:^|[`\s])gatewayd ((?:(?:spool|models) )?[a-z]+)(?=[ `\n])", text)) - {"gatewayd"}
    # A line of a shell block, or a span of code: not a sentence about gatewayd.
    code = "\n".join(
        [*re.findall(r"^```sh[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE), *re.findall(r"`[^`\n]+`", text)]
    )
    named = {each for each in words if f"gatewayd {each}" in code}
    for command in sorted(named):
        done = subprocess.run(
            [sys.executable, "-m", "gatewayd", *command.split(), "--help"],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{page.name}: gatewayd {command}: {done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_metrics_that_a_page_names_exist(page: Path) -> None:
    known = {each.prometheus_name for each in INSTRUMENTS.values()}
    named = set(re.findall(r"`((?:gatewayd|messaging)_[a-z_]+)", page.read_text()))

    assert {name for name in named if name not in known and not name.startswith("gatewayd_handler_")} == set()


def test_make_targets_that_the_guides_name_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {target for page in PAGES for target in re.findall(r"`make ([a-z0-9-]+)", page.read_text())}

    assert named <= targets
    assert {"deb", "sbom", "audit", "aarch64"} <= named
