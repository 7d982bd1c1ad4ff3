"""The demo on the bus: devices that publish at QoS 1, and a listener for live results."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from mqttium import MQTTError
from mqttium.api import AsyncClient

from gatewayd.cli.demo.devices import SAMPLES_PER_S, Freezer, Plc, Pump
from gatewayd.cli.demo.scene import LOG_LINES, Scene
from gatewayd.cli.demo.stage import StageError

_PATIENCE_S = 3.0


@asynccontextmanager
async def connected(client_id: str, port: int) -> AsyncIterator[AsyncClient]:
    """A client on the demo's broker. Raises StageError when the connection is lost."""
    client = AsyncClient(client_id)
    try:
        await client.connect("127.0.0.1", port)
        yield client
    except (MQTTError, OSError) as error:
        await asyncio.sleep(_PATIENCE_S)  # who watches the broker knows why: let it speak first
        raise StageError(f"{client_id} lost its connection to the broker: {error}") from error
    finally:
        with suppress(MQTTError, OSError):  # what the client still has running must not be left for the loop's end
            await client.disconnect()


async def run_devices(port: int, fast: Sequence[Pump | Freezer], slow: Sequence[Plc], scene: Scene) -> None:
    """Readings four times a second, log lines once a second, until cancelled."""
    async with connected("demo-devices", port) as client:
        tick = 0
        scene.begin()
        while True:
            for device in [*fast, *(slow if tick % SAMPLES_PER_S == 0 else [])]:
                message = device.publish()
                scene.published(_kind(device), message.topic)
                receipt = await client.publish(message.topic, message.payload, qos=1)
                await receipt.wait()
            tick += 1
            await asyncio.sleep(1 / SAMPLES_PER_S)


def _kind(device: Pump | Freezer | Plc) -> str:
    return {Pump: "pump readings", Freezer: "freezer readings", Plc: LOG_LINES}[type(device)]


async def run_listener(port: int, scene: Scene) -> None:
    """Take live results off the bus until cancelled."""
    async with connected("demo-listener", port) as client:
        await client.subscribe("gatewayd/demo/results/#", qos=0)
        async for message in client.messages():
            scene.live_result(message.topic, message.payload)
        raise ConnectionError("the broker closed it")
