"""kill -9 in the middle of a run: nothing that was acknowledged is lost, and the cloud stores each result once."""

from pathlib import Path

import pytest

from benchmarks.faults.kills import kill

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.mark.usefixtures("mosquitto_binary")
@pytest.mark.parametrize("mode", ["direct", "journaled"])
def test_a_gateway_killed_at_random_loses_nothing(tmp_path: Path, mode: str) -> None:
    line = kill(tmp_path / "kills", 20261121, mode=mode, n_kills=5)

    assert line.problems == []
