"""The service: rights of folders and secrets, the systemd sandbox, who can reach the page."""

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

from gatewayd.cli.doctor.finding import Finding, failed, good, warning
from gatewayd.config.cross_web import is_loopback
from gatewayd.config.environment import Paths, read_environment
from gatewayd.config.schema import Config, Secret
from gatewayd.config.secrets import secret_path

_UNIT = "gatewayd.service"
_ASKED = (
    "LoadState",
    "ActiveState",
    "MemoryDenyWriteExecute",
    "WatchdogUSec",
    "NoNewPrivileges",
    "ProtectSystem",
    "Type",
)
_SYSTEMCTL_S = 5.0


def rights(config: Config, paths: Paths, config_path: Path) -> Iterator[Finding]:
    """Who may read what is kept, and the secrets."""
    if paths.state_dir.exists():
        mode = stat.S_IMODE(paths.state_dir.stat().st_mode)
        if mode & 0o002:
            yield failed("state folder", f"{paths.state_dir}: everybody may write it", f"chmod 0700 {paths.state_dir}")
        elif mode & 0o007:
            hint = f"the spool holds payloads: chmod 0700 {paths.state_dir}"
            yield warning("state folder", f"{paths.state_dir}: everybody on this box may read it", hint)
        else:
            yield good("state folder", f"{paths.state_dir}, mode {mode:04o}")
    if config_path.exists() and stat.S_IMODE(config_path.stat().st_mode) & 0o002:
        yield failed("config rights", f"{config_path}: everybody may write it", f"chmod o-w {config_path}")
    for key, secret in secrets_of(config):
        yield _secret(key, secret, config_path)


def secrets_of(config: Config) -> list[tuple[str, Secret]]:
    """Every secret that the config names, with its dotted key."""
    named: list[tuple[str, Secret | None]] = [
        ("source.password", config.source.password),
        ("web.token", config.web.token),
    ]
    for table, entries in (("sinks", config.sinks), ("tiers", config.tiers)):
        for name, entry in entries.items():
            named += [(f"{table}.{name}.{key}", getattr(entry, key, None)) for key in ("password", "token", "api_key")]
    return [(key, secret) for key, secret in named if isinstance(secret, Secret)]


def _secret(key: str, secret: Secret, config_path: Path) -> Finding:
    environment = read_environment()
    if secret.env is not None:
        if environment.variables.get(secret.env):
            return good(key, f"from ${secret.env}")
        hint = "the service has its own environment: EnvironmentFile=; here it may be missing rightly"
        return warning(key, f"${secret.env} is not set here", hint)
    if secret.file is None:
        return failed(key, "names no place", "set `file` or `env`")
    path = secret_path(secret.file, beside=config_path.absolute().parent, environment=environment)
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        hint = f"write it there with mode 0600; under systemd LoadCredential={path.name}:FILE gives it to the service"
        return failed(key, f"{path} is not there", hint)
    except OSError as error:
        return warning(key, f"{path}: {error.strerror}", "run this as root, or as the daemon's user")
    if mode & 0o077:
        return warning(key, f"{path}: others may read it, mode {mode:04o}", f"chmod 0600 {path}")
    return good(key, f"{path}, mode {mode:04o}")


def web(config: Config) -> Finding:
    """Who reaches the page."""
    if not config.web.enabled:
        return good("web", "off")
    where = f"{config.web.host}:{config.web.port}"
    if is_loopback(config.web.host):
        return good("web", f"{where}, this box alone")
    guarded = config.web.token is not None or bool(config.web.tls and config.web.tls.client_ca_file)
    if not guarded:
        return failed("web", f"{where} is open to the network", "set web.token, or web.host to 127.0.0.1")
    if config.web.tls is None:
        hint = "set web.tls, or put a proxy with TLS before it"
        return warning("web", f"{where}: reached from the network, its token travels unencrypted", hint)
    return good("web", f"{where}, with TLS and a key")


def sandbox() -> list[Finding]:
    """What systemd says of the unit, where there is systemd and the unit."""
    if not Path("/run/systemd/system").is_dir() or shutil.which("systemctl") is None:
        return [good("systemd", "does not run this box: nobody restarts the daemon unless you see to it")]
    try:
        told = subprocess.run(
            ["systemctl", "show", _UNIT, "--property", ",".join(_ASKED)],
            capture_output=True, text=True, timeout=_SYSTEMCTL_S, check=False,
        ).stdout  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return [warning("systemd", f"systemctl does not answer: {error}", f"systemctl status {_UNIT}")]
    return [judge_unit(dict(line.split("=", 1) for line in told.splitlines() if "=" in line))]


def judge_unit(said: dict[str, str]) -> Finding:
    """The unit by its properties, as `systemctl show` names them."""
    if said.get("LoadState") != "loaded":
        return good("systemd", "the unit gatewayd.service is not installed", "see systemd/gatewayd.service")
    lacks = []
    if said.get("WatchdogUSec", "0") in ("0", "infinity", ""):
        lacks.append("WatchdogSec= (a daemon that hangs is not ended)")
    if said.get("Type") not in ("notify", "notify-reload"):
        lacks.append("Type=notify")
    for key, wanted in (("MemoryDenyWriteExecute", "yes"), ("NoNewPrivileges", "yes"), ("ProtectSystem", "strict")):
        if said.get(key) != wanted:
            lacks.append(f"{key}={wanted}")
    state = said.get("ActiveState", "unknown")
    if state == "failed":
        return failed("systemd", "the unit has failed", "journalctl -u gatewayd -n 50")
    if lacks:
        hint = "systemctl edit gatewayd; a Jetson lacks some rightly (systemd/drop-ins/jetson.conf)"
        return warning("systemd", f"{state}; the unit lacks {', '.join(lacks)}", hint)
    return good("systemd", f"{state}; watchdog and sandbox are on")


def user() -> Finding:
    """As whom this looks."""
    if os.geteuid() == 0:
        return good("user", "root: rights were looked at as root has them")
    return good("user", f"uid {os.geteuid()}: what the daemon's user may do can differ")
