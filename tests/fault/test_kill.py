"""kill -9 in the middle of a run: nothing that was acknowledged is lost, and the cloud stores each result once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.sim.killing import run_killing
from tests.sim.mosquitto import Mosquitto

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.mark.parametrize("mode", ["direct", "journaled"])
def test_a_gateway_killed_at_random_loses_nothing(
    tmp_path: Path, new_mosquitto: Callable[..., Mosquitto], mode: str
) -> None:
    broker = new_mosquitto()

    figures = run_killing(tmp_path, broker, n_messages=6000, n_kills=5, per_s=2500, seed=20261121, mode=mode)

    assert figures["acked"] == figures["sent"] == 6000
    assert figures["lost"] == figures["phantom"] == figures["corrupt"] == figures["duplicates"] == 0
    assert figures["balanced"]
