"""The process ends around a question and its settlement: work is repeated, an effect never."""

import os
from collections import Counter
from pathlib import Path

import pytest

from gatewayd.crash import POINTS
from tests.integration.test_cascade import Scene, messages
from tests.integration.test_main_job import publish
from tests.sim.mosquitto import Mosquitto

SPECS = ("cascade.before_ask:2", "cascade.after_answer:2", "cascade.after_settle:1")
# How often a message may be asked about at most: once more where the answer came and was not on disk yet.
_MOST_ASKED = {"cascade.before_ask:2": 1, "cascade.after_answer:2": 2, "cascade.after_settle:1": 1}


def test_the_table_has_every_point_of_the_cascade() -> None:
    assert {spec.partition(":")[0] for spec in SPECS} == {point for point in POINTS if point.startswith("cascade.")}


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS)
def test_an_end_around_a_question_repeats_work_and_no_effect(tmp_path: Path, mosquitto: Mosquitto, spec: str) -> None:
    scene = Scene(tmp_path, mosquitto, "cloud")
    try:
        scene.cloud.start()
        scene.judge.start()
        scene.gateway.start(environment={**os.environ, "GATEWAYD_CRASH": spec})
        publish(mosquitto, "logs/a", *messages(24))
        assert scene.gateway.process is not None
        scene.wait(lambda: scene.gateway.process.poll() is not None)  # type: ignore[union-attr]
        assert scene.gateway.process.returncode == 137

        scene.gateway.start()

        scene.wait(lambda: len(scene.finals()) == 12)
        scene.wait(lambda: scene.gateway.n_pending() == 0)
        assert scene.gateway.stop() == 0
        books = scene.gateway.books()
        assert books.balanced
        assert books.messages["logs"]["handled"] == books.messages["logs"]["received"]
        asked = Counter(event["id"] for event in scene.judge.asked())
        assert max(asked.values()) <= _MOST_ASKED[spec]
        assert len(scene.cloud.stored()) == books.messages["logs"]["received"] + 12
    finally:
        scene.gateway.end()
        scene.judge.stop()
        scene.cloud.stop()
