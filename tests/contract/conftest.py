"""What several suites of the sources share."""

from collections.abc import AsyncIterator

import pytest

from gatewayd.mqtt.mqttium_source import MqttiumSource
from tests.contract.source_rig import Rigs


@pytest.fixture(params=["5", "3.1.1"])
async def rigs(request: pytest.FixtureRequest) -> AsyncIterator[Rigs]:
    """Sources of the default adapter, over both protocols. Suites of both adapters have one of their own."""
    made = Rigs(MqttiumSource, request.param)
    yield made
    await made.stop()
