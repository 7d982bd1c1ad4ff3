"""The process ends at a named point of the code: nothing is lost, and what comes twice at the cloud is known exactly.

Three of the points, those around which acknowledging and delivering turn; `make faults` goes through all of them.
"""

from pathlib import Path

import pytest

from benchmarks.faults.points import ONE_BY_ONE, Point, end_at
from gatewayd.crash import POINTS, CrashPoint
from gatewayd.errors import ConfigError

_CHOSEN = {"route.before_ack:1", "uplink.after_answer:1"}


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.usefixtures("mosquitto_binary")
@pytest.mark.parametrize(
    "point",
    [point for point in ONE_BY_ONE if point.spec in _CHOSEN and point.mode == "direct"],
    ids=lambda point: point.spec,
)
def test_an_end_at_a_named_point_loses_nothing_and_repeats_what_the_table_says(tmp_path: Path, point: Point) -> None:
    line = end_at(tmp_path / "bench", 3, point)

    assert line.problems == []


def test_a_point_that_does_not_exist_is_refused_with_a_list_of_those_that_do() -> None:
    with pytest.raises(ConfigError, match=POINTS[0]):
        CrashPoint("spool.nowhere")


def test_the_table_has_every_point_of_route_and_uplink() -> None:
    named = {point.spec.partition(":")[0] for point in ONE_BY_ONE}

    assert {point for point in POINTS if not point.startswith(("spool.", "cascade."))} <= named
