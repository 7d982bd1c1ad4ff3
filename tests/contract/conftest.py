"""What several suites of the sources share."""

from collections.abc import AsyncIterator

import pytest

from gatewayd.mqtt import shortcut
from gatewayd.mqtt.mqttium_source import MqttiumSource
from tests.contract.source_rig import Rigs


@pytest.fixture(params=["5", "3.1.1", "5-the-long-way"])
async def rigs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rigs]:
    """Sources of the default adapter, over both protocols, and as it is with an MQTTium that it does not know. Suites
    of both adapters have a fixture of their own."""
    protocol, _, way = request.param.partition("-")
    if way:
        monkeypatch.setattr(shortcut, "_IS_KNOWN", False)
    made = Rigs(MqttiumSource, protocol)
    yield made
    await made.stop()
