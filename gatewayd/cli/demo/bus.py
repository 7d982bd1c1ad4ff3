"""The demo on the bus: devices that publish at QoS 1, and a listener for live results."""

import asyncio
from collections.abc import Sequence

from mqttium.api import AsyncClient

from gatewayd.cli.demo.devices import SAMPLES_PER_S, Freezer, Plc, Pump
from gatewayd.cli.demo.scene import LOG_LINES, Scene


async def connect(client_id: str, port: int) -> AsyncClient:
    """A client on the demo's broker."""
    client = AsyncClient(client_id)
    await client.connect("127.0.0.1", port)
    return client


async def run_devices(port: int, fast: Sequence[Pump | Freezer], slow: Sequence[Plc], scene: Scene) -> None:
    """Readings four times a second, log lines once a second, until cancelled."""
    client = await connect("demo-devices", port)
    tick = 0
    scene.begin()
    while True:
        due = [*fast, *(slow if tick % SAMPLES_PER_S == 0 else [])]
        for device in due:
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
    client = await connect("demo-listener", port)
    await client.subscribe("gatewayd/demo/results/#", qos=0)
    async for message in client.messages():
        scene.live_result(message.topic, message.payload)
