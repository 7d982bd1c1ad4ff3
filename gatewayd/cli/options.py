"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

SYSTEM_CONFIG = Path("/etc/gatewayd/gatewayd.toml")


def default_config() -> Path:
    """The config of the service where there is one, else the one in this folder."""
    return SYSTEM_CONFIG if SYSTEM_CONFIG.exists() else Path("config.toml")


ConfigOption = Annotated[
    Path,
    typer.Option(
        "--config",
        "-c",
        default_factory=default_config,
        show_default=f"{SYSTEM_CONFIG}, else ./config.toml",
        help="Config file.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on standard output, for scripts.")]
