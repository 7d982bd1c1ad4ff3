"""Golden samples: a handler's inputs and what it must answer, run by tests and by `gatewayd replay` alike."""

from pathlib import Path

import typer

from gatewayd.errors import GatewaydError


def run_samples_file(path: Path, config: Path, *, update: bool) -> bool:
    """Run one samples file. True when everything came out as written."""
    from gatewayd.cli.models import open_store
    from gatewayd.testing import load_samples, run_samples

    samples = load_samples(path)
    store = open_store(config) if config.exists() else None
    answers = run_samples(samples, store)
    del answers, update
    raise GatewaydError("not wired yet")


__all__ = ["run_samples_file", "typer"]
