"""The environment: this module alone reads environment variables, and once.

What is read is a frozen value that is handed on, so that a test has its own environment and no two parts disagree.
"""

import os
import socket
from collections.abc import Mapping
from pathlib import Path

import msgspec

from gatewayd.config.schema import Config
from gatewayd.errors import ConfigError


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """What gatewayd takes from the environment."""

    state_directory: str | None = None  # systemd: StateDirectory=
    xdg_state_home: str | None = None
    home: str | None = None
    credentials_directory: str | None = None  # systemd: LoadCredential=
    otlp_endpoint: str | None = None  # $OTEL_EXPORTER_OTLP_ENDPOINT
    notify_socket: str | None = None  # systemd: Type=notify
    watchdog_usec: int | None = None  # systemd: WatchdogSec=, in microseconds
    watchdog_pid: int | None = None  # the process the watchdog is for
    journal_stream: str | None = None  # "device:inode" of the journal's socket, when there is one
    boot_id: str | None = None  # $GATEWAYD_BOOT_ID: what this boot is called, where /proc does not show it
    crash: str | None = None  # $GATEWAYD_CRASH: where a fault test ends the process
    variables: Mapping[str, str] = {}  # everything, for secrets with `env`; never logged

    def __repr__(self) -> str:
        """Without `variables`, which hold secrets."""
        return f"Environment(state_directory={self.state_directory!r}, notify_socket={self.notify_socket!r}, …)"


def spare_cores() -> None:
    """One thread for each of numpy's products, unless the environment says otherwise; to be called before its import.

    On cores that others need, threads of small products wait for each other: the novelty of 64 texts took 100 ms on a
    loaded two-core box, with one thread 0.2 ms (benchmarks/novelty_cost.py). A model's own threads are config.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def read_environment(variables: Mapping[str, str] | None = None) -> Environment:
    """The environment as it is now. Empty counts as not set, and so does a number that is none."""
    found = {name: value for name, value in (os.environ if variables is None else variables).items() if value}
    return Environment(
        # systemd separates several state directories with colons; ours is the first.
        state_directory=found.get("STATE_DIRECTORY", "").split(":")[0] or None,
        xdg_state_home=found.get("XDG_STATE_HOME"),
        home=found.get("HOME"),
        credentials_directory=found.get("CREDENTIALS_DIRECTORY"),
        otlp_endpoint=found.get("OTEL_EXPORTER_OTLP_ENDPOINT"),
        notify_socket=found.get("NOTIFY_SOCKET"),
        watchdog_usec=_number(found.get("WATCHDOG_USEC")),
        watchdog_pid=_number(found.get("WATCHDOG_PID")),
        journal_stream=found.get("JOURNAL_STREAM"),
        boot_id=found.get("GATEWAYD_BOOT_ID"),
        crash=found.get("GATEWAYD_CRASH"),
        variables=found,
    )


class Paths(msgspec.Struct, frozen=True, kw_only=True):
    """Where this gateway's files are, all absolute, and its name. Nothing is created by asking."""

    gateway: str
    config_dir: Path  # the folder of config.toml: what relative names in it start from
    state_dir: Path
    spool: Path
    models: Path

    def beside(self, name: str) -> Path:
        """The file of that name; a relative one lies beside config.toml, and `~` is the home folder."""
        return self.config_dir / Path(name).expanduser()


def resolve_paths(config: Config, environment: Environment, config_path: Path | str) -> Paths:
    """The paths. Raises ConfigError when there is no folder to keep the spool in."""
    beside = Path(config_path).absolute().parent
    state_dir = beside / Path(config.gateway.state_dir or _default_state_dir(environment)).expanduser()
    return Paths(
        gateway=gateway_id(config),
        config_dir=beside,
        state_dir=state_dir,
        spool=state_dir / "spool.db",
        models=beside / Path(config.models.dir).expanduser(),
    )


def gateway_id(config: Config) -> str:
    """This gateway's name: `gateway.id`, or the host's name up to its first dot when that is `hostname`."""
    if config.gateway.id != "hostname":
        return config.gateway.id
    name = "".join(
        letter if letter.isalnum() or letter in "-_" else "-" for letter in socket.gethostname().split(".")[0]
    )
    return name.strip("-_")[:64] or "gateway"


def _default_state_dir(environment: Environment) -> str:
    if environment.state_directory:
        return environment.state_directory
    if environment.xdg_state_home:
        return f"{environment.xdg_state_home}/gatewayd"
    if environment.home:
        return f"{environment.home}/.local/state/gatewayd"
    raise ConfigError("gateway.state_dir", "is not set, and neither are $STATE_DIRECTORY, $XDG_STATE_HOME and $HOME")


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() else None
