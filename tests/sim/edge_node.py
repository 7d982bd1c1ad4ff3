"""A Sparkplug edge node as the specification has it: its Will, its births, aliases, its sequence, its rebirth.

Encodes by hand what the specification says, and shares no code with what reads it.
"""

import struct
import threading
from collections.abc import Mapping, Sequence

import paho.mqtt.client as paho

from tests.sim.mosquitto import Mosquitto

INT8, INT32, INT64, UINT64, FLOAT, DOUBLE, BOOLEAN, STRING, DATASET = 1, 3, 4, 8, 9, 10, 11, 12, 16


def varint(value: int) -> bytes:
    encoded = b""
    while value > 0x7F:
        encoded += bytes([value & 0x7F | 0x80])
        value >>= 7
    return encoded + bytes([value])


def tagged(number: int, wire: int, content: bytes) -> bytes:
    return varint(number << 3 | wire) + (varint(len(content)) if wire == 2 else b"") + content


def metric(
    value: object,
    datatype: int,
    *,
    name: str = "",
    alias: int | None = None,
    with_type: bool = True,
    is_historical: bool = False,
    timestamp: int = 0,
) -> bytes:
    """One metric of a payload. An alias without a name is what DATA messages have."""
    encoded = tagged(1, 2, name.encode()) if name else b""
    encoded += tagged(2, 0, varint(alias)) if alias is not None else b""
    encoded += tagged(3, 0, varint(timestamp)) if timestamp else b""
    encoded += tagged(4, 0, varint(datatype)) if with_type else b""
    encoded += tagged(5, 0, b"\1") if is_historical else b""
    if value is None:
        return encoded + tagged(7, 0, b"\1")
    return encoded + value_field(value, datatype)


def value_field(value: object, datatype: int) -> bytes:
    if datatype == BOOLEAN:
        return tagged(14, 0, varint(int(bool(value))))
    if datatype == FLOAT:
        return tagged(12, 5, struct.pack("<f", value))
    if datatype == DOUBLE:
        return tagged(13, 1, struct.pack("<d", value))
    if datatype == STRING:
        return tagged(15, 2, str(value).encode())
    if datatype == DATASET:
        return tagged(17, 2, b"\x08\x00")
    assert isinstance(value, int)
    if datatype in (INT64, UINT64):
        return tagged(11, 0, varint(value & 2**64 - 1))
    return tagged(10, 0, varint(value & 2**32 - 1))  # two's complement in 32 bits


def payload(metrics: Sequence[bytes], *, seq: int | None, timestamp: int = 1_763_700_000_000) -> bytes:
    encoded = tagged(1, 0, varint(timestamp)) + b"".join(tagged(2, 2, one) for one in metrics)
    return encoded + (tagged(3, 0, varint(seq)) if seq is not None else b"")


class EdgeNode:
    """Connects with its NDEATH as Will, says its NBIRTH, and does as an NCMD rebirth tells it."""

    def __init__(self, broker: Mosquitto, group: str, name: str, devices: Mapping[str, Mapping[str, int]]) -> None:
        """`devices`: data type by metric, by device."""
        self.broker, self.group, self.name, self.devices = broker, group, name, devices
        self.aliases = {
            (device, one): 10 + 7 * index
            for index, (device, one) in enumerate((device, one) for device in devices for one in devices[device])
        }
        self.bd_seq, self.seq, self.n_rebirths = 0, 0, 0
        self.is_mute = False  # a rebirth command is counted and not obeyed
        self._lock = threading.Lock()
        self._connected = threading.Event()
        self.client: paho.Client | None = None

    def topic(self, kind: str, device: str = "") -> str:
        return f"spBv1.0/{self.group}/{kind}/{self.name}" + (f"/{device}" if device else "")

    def connect(self, *, births: bool = True) -> None:
        """A new connection: another bdSeq, and the births."""
        client = self.client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        client.will_set(self.topic("NDEATH"), payload([self._bd_seq()], seq=None), qos=1)
        client.on_message = self._command
        client.on_subscribe = lambda *_: self._connected.set()
        client.connect("127.0.0.1", self.broker.port)
        client.loop_start()
        client.subscribe(self.topic("NCMD"), qos=1)
        assert self._connected.wait(20)
        if births:
            self.be_born()

    def be_born(self) -> None:
        """NBIRTH, and a DBIRTH for each device."""
        with self._lock:
            self.seq = 0
            control = metric(False, BOOLEAN, name="Node Control/Rebirth")
            self._publish(self.topic("NBIRTH"), [self._bd_seq(), control])
            for device, metrics in self.devices.items():
                born = [
                    metric(None, kind, name=name, alias=self.aliases[device, name]) for name, kind in metrics.items()
                ]
                self._publish(self.topic("DBIRTH", device), born)

    def send(self, device: str, values: Mapping[str, object], *, is_historical: bool = False) -> None:
        """A DDATA: aliases alone, no names and no types."""
        with self._lock:
            said = [
                metric(
                    value,
                    self.devices[device][name],
                    alias=self.aliases[device, name],
                    with_type=False,
                    is_historical=is_historical,
                )
                for name, value in values.items()
            ]
            self._publish(self.topic("DDATA", device), said)

    def lose(self) -> None:
        """A message that never reaches the broker."""
        self.seq = (self.seq + 1) % 256

    def die(self) -> None:
        """The connection ends without a goodbye: the broker says the NDEATH."""
        assert self.client is not None
        self.client.loop_stop()
        sock = self.client.socket()
        assert sock is not None
        sock.close()
        self.bd_seq += 1
        self._connected.clear()

    def close(self) -> None:
        if self.client is not None:
            self.client.disconnect()
            self.client.loop_stop()

    def _publish(self, topic: str, metrics: Sequence[bytes]) -> None:
        assert self.client is not None
        self.client.publish(topic, payload(metrics, seq=self.seq), qos=0)
        self.seq = (self.seq + 1) % 256

    def _bd_seq(self) -> bytes:
        return metric(self.bd_seq, INT64, name="bdSeq")

    def _command(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        if b"Node Control/Rebirth" in message.payload:
            self.n_rebirths += 1
            if not self.is_mute:
                self.be_born()
