"""A client on the bus that keeps all it hears."""

import threading
from collections.abc import Sequence

import paho.mqtt.client as paho

from tests.sim.mosquitto import Mosquitto

Heard = tuple[str, bytes, bool]  # topic, payload, retain


class Bus:
    """Listens to topic filters, over MQTT 5."""

    def __init__(self, broker: Mosquitto) -> None:
        self.heard: list[Heard] = []
        self._subscribed = threading.Event()
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self.client.on_message = self._keep
        self.client.on_subscribe = lambda *_: self._subscribed.set()
        self.client.connect("127.0.0.1", broker.port)
        self.client.loop_start()

    def listen(self, *filters: str) -> None:
        """Return when the broker has taken the subscriptions."""
        self._subscribed.clear()
        self.client.subscribe([(one, paho.SubscribeOptions(qos=1)) for one in filters])
        assert self._subscribed.wait(20)

    def payloads(self, topic: str) -> Sequence[bytes]:
        """What came on the topic, in order."""
        return [payload for name, payload, _ in list(self.heard) if name == topic]

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> None:
        """Return when the broker has it, or for QoS 0 when it is written."""
        self.client.publish(topic, payload, qos=qos, retain=retain).wait_for_publish(20)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def _keep(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        self.heard.append((message.topic, message.payload, message.retain))
