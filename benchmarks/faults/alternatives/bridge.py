"""Mosquitto itself as store-and-forward: an edge broker with persistence, bridged at QoS 1 to a broker in the cloud.

The edge broker takes the place of gatewayd and is what gets killed. Devices publish to it directly, and publish again
what it did not acknowledge. On the cloud's side whatever arrives is written down, each arrival under an id of its own,
for MQTT messages have none.
"""

import shutil
import subprocess
import threading
from pathlib import Path

import msgspec

from tests.sim.mosquitto import Mosquitto

_BRIDGE = """connection cloud
address 127.0.0.1:{port}
topic plant/# out 1
cleansession false
restart_timeout 1
bridge_protocol_version mqttv311
notifications false
"""


class BridgedEdge(Mosquitto):
    """The edge broker. `settings` are those of its persistence beyond `persistence true`."""

    def __init__(self, folder: Path, cloud_port: int, settings: tuple[str, ...] = ()) -> None:
        bridge = _BRIDGE.format(port=cloud_port).splitlines()
        persistence = ("persistence true", f"persistence_location {folder}/", *settings)
        super().__init__(folder, settings=persistence, listener=bridge)

    @property
    def process(self) -> "subprocess.Popen[bytes] | None":
        """The broker's process."""
        return self._process


class EdgeSubject:
    """What `kill_at_random` needs of the edge broker."""

    def __init__(self, edge: BridgedEdge) -> None:
        self._edge = edge
        self.folder = edge.folder

    @property
    def process(self) -> "subprocess.Popen[bytes] | None":
        """The broker's process."""
        return self._edge.process

    def start(self, *, ready: bool = True) -> None:
        """Start it, unless it runs."""
        if self._edge.process is None:
            self._edge.start()

    def kill(self) -> None:
        """As a power cut does to a process."""
        self._edge.kill()

    def stop(self) -> int:
        """A clean stop."""
        self._edge.stop()
        return 0

    def end(self) -> None:
        """It is gone after this."""
        self._edge.kill()


class CloudBroker:
    """The broker in the cloud, and who writes down what arrives there. Stands in for `CloudProcess`."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "cloud.ndjson"
        self.broker = Mosquitto(folder / "cloud-broker", persistence=True)
        self.port = self.broker.port
        self._collector: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when it listens and the collector runs."""
        self.broker.start()
        binary = shutil.which("mosquitto_sub")
        assert binary is not None
        command = [binary, "-p", str(self.port), "-t", "plant/#", "-q", "1", "-i", "collector", "-c"]
        self._collector = subprocess.Popen(command, stdout=subprocess.PIPE)
        threading.Thread(target=self._collect, name="collector", daemon=True).start()

    def stop(self) -> None:
        """The cloud goes away."""
        if self._collector is not None:
            self._collector.kill()
            self._collector.wait()
        self.broker.kill()

    def _collect(self) -> None:
        assert self._collector is not None
        assert self._collector.stdout is not None
        with self.file.open("ab", buffering=0) as file:
            for number, payload in enumerate(self._collector.stdout):
                event = {"source": "bridge", "id": str(number), "type": "reading", "data": msgspec.Raw(payload.strip())}
                file.write(msgspec.json.encode(event) + b"\n")
