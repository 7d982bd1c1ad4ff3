"""The script of the usual kind: aiomqtt in, a table in SQLite, a loop that posts. Default settings of both libraries.

It is given a persistent mqtt_session, batches, deletion after a 2xx alone, and an event id that stays the same when a
row is sent again, so that what it loses is not for want of care. aiomqtt acknowledges a message before it hands it on.

python plain_script.py <broker port> <cloud url>
"""

import asyncio
import json
import sqlite3
import sys

import aiohttp
import aiomqtt

_BATCH = 256
_HEADERS = {"Content-Type": "application/cloudevents-batch+json"}


async def store(port: int, db: sqlite3.Connection) -> None:
    """MQTT to SQLite, for ever."""
    while True:
        try:
            async with aiomqtt.Client("127.0.0.1", port, identifier="plain-script", clean_session=False) as client:
                await client.subscribe("plant/#", qos=1)
                async for message in client.messages:
                    with db:
                        db.execute("INSERT INTO queue (payload) VALUES (?)", (message.payload,))
        except aiomqtt.MqttError:
            await asyncio.sleep(0.2)


async def forward(url: str, db: sqlite3.Connection) -> None:
    """SQLite to the cloud, for ever."""
    async with aiohttp.ClientSession() as session:
        while True:
            rows = db.execute("SELECT id, payload FROM queue ORDER BY id LIMIT ?", (_BATCH,)).fetchall()
            if not rows or not await post(session, url, rows):
                await asyncio.sleep(0.1)
                continue
            with db:
                db.execute("DELETE FROM queue WHERE id <= ?", (rows[-1][0],))


async def post(session: aiohttp.ClientSession, url: str, rows: list[tuple[int, bytes]]) -> bool:
    """Whether the cloud took the batch."""
    events = [
        {"specversion": "1.0", "id": str(row), "source": "/plain", "type": "reading", "data": json.loads(payload)}
        for row, payload in rows
    ]
    try:
        async with session.post(url, data=json.dumps(events), headers=_HEADERS) as answer:
            return answer.status < 300
    except (aiohttp.ClientError, OSError):
        return False


async def main() -> None:
    """Both at once."""
    db = sqlite3.connect("queue.db")
    db.execute("CREATE TABLE IF NOT EXISTS queue (id INTEGER PRIMARY KEY AUTOINCREMENT, payload BLOB)")
    await asyncio.gather(store(int(sys.argv[1]), db), forward(sys.argv[2], db))


if __name__ == "__main__":
    asyncio.run(main())
