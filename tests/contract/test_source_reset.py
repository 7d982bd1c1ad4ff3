"""A connection that is reset between CONNACK and SUBACK is a lost connection, and the next one is made."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable

import pytest

from gatewayd.mqtt.aiomqtt_source import AiomqttSource
from gatewayd.mqtt.mqttium_source import MqttiumSource
from tests.contract.source_rig import Rigs, until
from tests.sim.mosquitto import Mosquitto

pytestmark = pytest.mark.broker

_CONNACK = b"\x20\x03\x00\x00\x00"  # MQTT 5: no session, success, no properties
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with 0 s: close() sends RST


@pytest.fixture(params=[MqttiumSource, AiomqttSource], ids=["mqttium", "aiomqtt"])
async def rigs(request: pytest.FixtureRequest) -> AsyncIterator[Rigs]:
    made = Rigs(request.param, "5")
    yield made
    await made.stop()


class ResettingBroker:
    """Answers CONNECT and resets with the next packet; from the third connection on it is the real broker."""

    def __init__(self, broker: Mosquitto) -> None:
        self._broker = broker
        self.n_resets = 0
        self.port = 0

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.n_resets < 2:
            self.n_resets += 1
            await reader.read(4096)
            writer.write(_CONNACK)
            await reader.read(4096)  # SUBSCRIBE is on its way
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self._broker.port)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_pump(reader, back), name="up")
            tasks.create_task(_pump(there, writer), name="down")


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
    except OSError:
        pass
    writer.close()


async def test_a_reset_while_subscribing_is_a_lost_connection(
    rigs: Rigs, new_mosquitto: Callable[..., Mosquitto]
) -> None:
    broker = new_mosquitto()
    resetting = ResettingBroker(broker)
    async with await resetting.start():
        rig = rigs.start(resetting, connect_timeout_s=1.0)  # type: ignore[arg-type]

        await until(lambda: (rig.source.is_connected and resetting.n_resets == 2) or rig.run.done())

        assert not rig.run.done()
        assert resetting.n_resets == 2
        await rig.publisher.connect("127.0.0.1", broker.port)
        await rigs._until_subscribed(rig)
        await rig.stop()
