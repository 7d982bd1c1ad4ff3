"""Live results: CloudEvents on the local bus, binary on MQTT 5 and structured on 3.1.1, counted either way."""

import json

import pytest

from gatewayd.live import LivePublisher
from gatewayd.ports import NewResult
from tests.sim.clock import ManualClock
from tests.sim.source import MemorySource


class Counts:
    def __init__(self) -> None:
        self.published = 0
        self.failed = 0

    def live_published(self, route: str, n: int) -> None:
        self.published += n

    def live_failed(self, route: str, n: int) -> None:
        self.failed += n


RESULT = NewResult(key="k1", kind="alert", subject="plant/oven", time=1.5, data=b'{"label":"hot"}', traceparent="")


@pytest.mark.parametrize("protocol", [4, 5])
async def test_a_live_result_is_the_event_that_the_cloud_will_get(protocol: int) -> None:
    source, counts = MemorySource(ManualClock()), Counts()
    source.protocol = protocol

    await LivePublisher(source, "gw", {"r": 1}, counts)("r", [RESULT])

    topic, payload, properties = source.published[0]
    event = {**properties, "data": json.loads(payload)} if protocol == 5 else json.loads(payload)
    assert topic == "gatewayd/gw/results/r"
    assert event["id"] == "k1"
    assert event["source"] == "/gateways/gw/routes/r"
    assert event["type"] == "dev.gatewayd.result.alert"
    assert event["subject"] == "plant/oven"
    assert event["data"] == {"label": "hot"}
    assert (counts.published, counts.failed) == (1, 0)


async def test_what_the_bus_does_not_take_is_counted_and_forgotten() -> None:
    source, counts = MemorySource(ManualClock()), Counts()
    source.takes_publishes = False

    await LivePublisher(source, "gw", {"r": 0}, counts)("r", [RESULT, RESULT])

    assert (counts.published, counts.failed) == (0, 2)
    assert source.published == []
