"""The same with persist-queue (PyPI, `pip install persist-queue`): its SQLiteAckQueue, which survives a crash unacked.

paho-mqtt's thread puts, the main thread gets, posts and acks, as in the library's own examples.

python persist_queue_script.py <broker port> <cloud url>
"""

import json
import sys
import time
import urllib.request
from typing import Any

import paho.mqtt.client as mqtt
import persistqueue

_BATCH = 256
_HEADERS = {"Content-Type": "application/cloudevents-batch+json"}


def subscribe(client: mqtt.Client, *_: Any) -> None:
    """On each connection."""
    client.subscribe("plant/#", qos=1)


def main() -> None:
    """Run for ever."""
    queue = persistqueue.SQLiteAckQueue("queue", multithreading=True, auto_commit=True)
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="persist-queue", clean_session=False)  # type: ignore[attr-defined]
    client.on_connect = subscribe
    client.on_message = lambda _client, _data, message: (queue.put(message.payload), None)[1]  # acknowledged after it
    client.reconnect_delay_set(1, 2)
    client.connect("127.0.0.1", int(sys.argv[1]))
    client.loop_start()
    while True:
        items = [queue.get(raw=True)]
        while len(items) < _BATCH and queue.size:
            items.append(queue.get(raw=True))
        while not post(sys.argv[2], items):
            time.sleep(0.1)
        for item in items:
            queue.ack(id=item["pqid"])


def post(url: str, items: list[dict[str, Any]]) -> bool:
    """Whether the cloud took the batch."""
    events = [
        {"specversion": "1.0", "id": str(item["pqid"]), "source": "/pq", "type": "r", "data": json.loads(item["data"])}
        for item in items
    ]
    request = urllib.request.Request(url, data=json.dumps(events).encode(), headers=_HEADERS)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bool(answer.status < 300)
    except OSError:
        return False


if __name__ == "__main__":
    main()
