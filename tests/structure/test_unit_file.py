"""systemd/gatewayd.service: hardened, and made for the command line that there is."""

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from gatewayd.cli import EXIT_CONFIG
from gatewayd.cli.app import app
from gatewayd.cli.options import SYSTEM_CONFIG

SYSTEMD = Path(__file__).parents[2] / "systemd"
UNIT = SYSTEMD / "gatewayd.service"
MAX_EXPOSURE = 1.5
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def settings() -> dict[str, list[str]]:
    """The keys of [Service]; a key may stand there several times."""
    lines = UNIT.read_text().partition("[Service]")[2].partition("[Install]")[0].splitlines()
    found: dict[str, list[str]] = {}
    for line in lines:
        if line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def exposure_of(folder: Path) -> float:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(folder / UNIT.name)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False).stdout
    found = re.search(r"exposure level for gatewayd\.service: ([0-9.]+)", said)
    assert found is not None, said
    return float(found.group(1))


@needs_systemd
def test_the_service_is_exposed_to_at_most_one_and_a_half(tmp_path: Path) -> None:
    shutil.copy(UNIT, tmp_path)

    assert exposure_of(tmp_path) <= MAX_EXPOSURE


@needs_systemd
def test_the_jetson_drop_in_opens_no_more_than_it_says(tmp_path: Path) -> None:
    shutil.copy(UNIT, tmp_path)
    folder = tmp_path / "gatewayd.service.d"
    folder.mkdir()
    shutil.copy(SYSTEMD / "drop-ins" / "jetson.conf", folder)

    assert MAX_EXPOSURE < exposure_of(tmp_path) <= 2.0


@needs_systemd
def test_systemd_understands_every_line(tmp_path: Path) -> None:
    # The program is not installed where the unit says; everything else must be right.
    text = UNIT.read_text().replace("/opt/gatewayd/bin/gatewayd", "/bin/true")
    (tmp_path / UNIT.name).write_text(text)

    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(tmp_path / UNIT.name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert [line for line in done.stderr.splitlines() if UNIT.name in line] == []


@pytest.mark.parametrize("key", ["ExecStart"])
def test_what_the_unit_starts_is_a_command_of_the_command_line(key: str) -> None:
    [line] = settings()[key]
    program, *arguments = shlex.split(line)

    command = typer.main.get_command(app)
    assert Path(program).name == "gatewayd"
    name, command_arguments = arguments[0], arguments[1:]
    parsed = command.commands[name].make_context(name, list(command_arguments), resilient_parsing=True)
    assert parsed.params["config"] == SYSTEM_CONFIG


def test_a_wrong_config_does_not_make_systemd_try_for_ever() -> None:
    assert settings()["RestartPreventExitStatus"] == [str(EXIT_CONFIG)]


def test_the_service_is_told_to_drain_for_longer_than_the_drain_takes() -> None:
    from gatewayd.config import Config

    assert float(settings()["TimeoutStopSec"][0]) > Config().gateway.drain_s


def test_no_line_is_there_twice_with_different_values() -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read(UNIT)

    several = {key for key, values in settings().items() if len(set(values)) > 1}
    assert several <= {"SystemCallFilter", "LoadCredential"}
    assert parser["Service"]["memorydenywriteexecute"] == "yes"
