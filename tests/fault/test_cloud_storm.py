"""A cloud that misbehaves: nothing is lost, and a batch comes again only where an answer was lost."""

from pathlib import Path

import pytest

from benchmarks.faults.storm import STORMS, Storm, weather

_CHOSEN = {"429 with Retry-After", "413", "stores and drops the answer"}

pytestmark = [pytest.mark.broker, pytest.mark.slow]


@pytest.mark.usefixtures("mosquitto_binary")
@pytest.mark.parametrize("storm", [storm for storm in STORMS if storm.name in _CHOSEN], ids=lambda storm: storm.name)
def test_a_cloud_that_misbehaves_loses_nothing(tmp_path: Path, storm: Storm) -> None:
    line = weather(tmp_path / "bench", 7, storm)

    assert line.problems == []
