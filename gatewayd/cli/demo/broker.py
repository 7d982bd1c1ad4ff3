"""A broker without a broker: amqtt in a process of its own, for the demo alone (Mosquitto for everything real).

`python -m gatewayd.cli.demo.broker PORT` serves MQTT 3.1.1 on 127.0.0.1 until its standard input is closed, which
happens when the demo ends, however it ends.
"""

import asyncio
import logging
import sys


async def serve(port: int) -> None:
    """Serve until standard input ends."""
    from amqtt.broker import Broker

    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    await broker.start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await broker.shutdown()


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    asyncio.run(serve(int(sys.argv[1])))
