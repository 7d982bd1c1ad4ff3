"""The door of a route with Sparkplug payloads, its decoder, and an edge node in memory before them."""

from typing import Any

from gatewayd.config.routes import Payload, Sparkplug
from gatewayd.errors import RejectedError
from gatewayd.payloads import Decoder
from gatewayd.ports import RawMessage
from gatewayd.sparkplug.door import Door
from tests.sim.edge_node import payload

TIME_MS = 1_763_700_000_000


class Node:
    """A door and a decoder, and one edge node before them."""

    def __init__(self, topics: tuple[str, ...] = ("spBv1.0/#",), **limits: Any) -> None:
        config = Payload(format="sparkplug", sparkplug=Sparkplug(**limits))
        self.events: dict[str, int] = {}
        self.door = Door(config, topics, self._count)
        self.decoder = Decoder(config)
        self.values: list[dict[str, Any]] = []
        self.reasons: list[str] = []
        self.commands: list[tuple[str, bytes]] = []
        self.n_admitted = 0
        self.seq = 0
        self.now_s = 1000.0

    def _count(self, event: str, n: int) -> None:
        self.events[event] = self.events.get(event, 0) + n

    def hear(
        self, kind: str, metrics: list[bytes], *, device: str = "", seq: int | None = None, node: str = "e"
    ) -> None:
        seq = 0 if kind == "NBIRTH" else self.seq if seq is None else seq
        self.seq = (seq + 1) % 256
        self.hear_bytes(kind, payload(metrics, seq=seq), device=device, node=node)

    def hear_bytes(self, kind: str, data: bytes, *, device: str = "", node: str = "e", dup: bool = False) -> None:
        topic = f"spBv1.0/g/{kind}/{node}" + (f"/{device}" if device else "")
        raw = RawMessage(topic=topic, payload=data, time=TIME_MS / 1000, key="k", dup=dup)
        admitted, commands = self.door.admit([raw], self.now_s)
        self.commands += commands
        self.n_admitted += len(admitted)
        for one in admitted:
            try:
                self.values.append(self.decoder.decode(one).value)
            except RejectedError as error:
                self.reasons.append(error.reason)
