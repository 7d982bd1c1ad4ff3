"""What the daemon runs with, kept beside the spool: `gatewayd check --changes` compares a new config with it.

Written at the start and after each reload, whole or not at all, for the daemon's user alone. Nothing in the daemon
depends on it: a disk that is full costs the comparison, not the service.
"""

import os
import time
from pathlib import Path
from typing import Any

import msgspec

from gatewayd import __version__
from gatewayd.config.schema import Config

NAME = "running.json"


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """The file's content."""

    version: str
    pid: int
    began: str  # the process's start in clock ticks since boot (proc(5), stat): tells a pid that was given anew
    since: float  # when this config was taken, seconds since the epoch
    config_path: str
    config: dict[str, Any]

    @property
    def is_alive(self) -> bool:
        """Whether the process that wrote it still runs."""
        return bool(self.began) and _began(self.pid) == self.began


def write_running(state_dir: Path, config: Config, config_path: Path) -> None:
    """Raises OSError when it cannot be written."""
    pid = os.getpid()
    running = Running(
        version=__version__,
        pid=pid,
        began=_began(pid),
        since=time.time(),
        config_path=str(config_path.absolute()),
        config=msgspec.to_builtins(config),
    )
    beside = state_dir / f".{NAME}.new"
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(msgspec.json.encode(running))
    beside.replace(state_dir / NAME)


def read_running(state_dir: Path) -> Running | None:
    """None where no daemon has run yet, or what lies there is of no use. Raises OSError when it cannot be read."""
    try:
        return msgspec.json.decode((state_dir / NAME).read_bytes(), type=Running)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError:
        return None


def _began(pid: int) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]  # field 22; the name in brackets may hold blanks
