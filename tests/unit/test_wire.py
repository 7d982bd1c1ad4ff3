"""What sinks count as sent, held against the bytes that pass a proxy on the way."""

import os
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trustme
from aiohttp import web

from gatewayd.config import schema
from gatewayd.errors import SinkUnavailable
from gatewayd.sinks import wire
from gatewayd.sinks.http import HttpSink
from gatewayd.sinks.mqtt import MqttSink
from tests.sim.cloud import FaultyCloud, Scripted
from tests.sim.mosquitto import Mosquitto
from tests.sim.proxy import Proxy
from tests.sim.spool import results

MANY = results("pumps", 200, data=b'"' + os.urandom(1000).hex().encode() + b'"')


@contextmanager
def proxied(port: int) -> Iterator[Proxy]:
    proxy = Proxy(port)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


@asynccontextmanager
async def https_cloud(folder: Path) -> AsyncIterator[tuple[int, str]]:
    """Its port, and the file of its authority."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response()

    app = web.Application(client_max_size=10_000_000)
    app.router.add_post("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield runner.addresses[0][1], str(folder / "ca.pem")
    await runner.cleanup()


def test_packets_are_counted_with_their_headers_and_acknowledgments() -> None:
    assert wire.on_wire(0, is_tls=False) == 0
    assert wire.on_wire(1, is_tls=False) == 1 + 52 + 52
    assert wire.on_wire(2800, is_tls=False) == 2800 + 2 * 52 + 52
    assert wire.on_wire(16_384, is_tls=True) == wire.on_wire(16_384 + 22, is_tls=False)


def test_a_publish_packet_has_the_size_of_the_specification() -> None:
    plain = wire.publish_packet("a/b", b"xyz", content_type="", pairs=None)
    rich = wire.publish_packet("a/b", b"xyz", content_type="text/x", pairs=(("k", "vv"),))

    assert plain == 2 + (2 + 3) + 2 + 3 + 4
    assert rich == plain + 1 + (3 + 6) + (5 + 3)
    assert wire.publish_packet("a", b"x" * 200, content_type="", pairs=None) == 3 + 3 + 2 + 200 + 4


@pytest.mark.parametrize("gzip_above_bytes", [0, 10_000_000])
async def test_http_counts_what_passes_and_a_little_for_the_packets(gzip_above_bytes: int) -> None:
    cloud = FaultyCloud()
    await cloud.start()
    with proxied(int(cloud.url.split(":")[2].split("/")[0])) as proxy:
        url = cloud.url.replace(cloud.url.split(":")[2].split("/")[0], str(proxy.port))
        sink = HttpSink(schema.HttpSink(url=url, gzip_above_bytes=gzip_above_bytes), gateway="gw", token="a-token")
        for _ in range(3):
            await sink.send(MANY)
        await sink.close()
    await cloud.stop()

    assert proxy.n_bytes < sink.sent_bytes < 1.1 * proxy.n_bytes + 1500


async def test_https_counts_the_handshake_too(tmp_path: Path) -> None:
    async with https_cloud(tmp_path) as (port, ca_file):
        with proxied(port) as proxy:
            table = schema.Tls(ca_file=ca_file)
            config = schema.HttpSink(url=f"https://127.0.0.1:{proxy.port}/", tls=table)
            sink = HttpSink(config, gateway="gw", token=None)
            await sink.send(results("pumps", 1))
            await sink.close()
            small, counted = proxy.n_bytes, sink.sent_bytes
            await sink.send(MANY)
            await sink.close()

    assert small < counted < small + 6000
    assert proxy.n_bytes - small < sink.sent_bytes - counted < 1.1 * (proxy.n_bytes - small) + 6000


async def test_an_attempt_that_is_turned_away_counts() -> None:
    cloud = FaultyCloud()
    await cloud.start()
    cloud.script.append(Scripted(503))
    sink = HttpSink(schema.HttpSink(url=cloud.url, gzip_above_bytes=10_000_000), gateway="gw", token=None)
    with pytest.raises(SinkUnavailable):
        await sink.send(MANY)
    await sink.close()
    await cloud.stop()

    assert sink.sent_bytes > 200 * 2000


@pytest.mark.broker
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_mqtt_counts_what_passes_and_a_little_for_the_packets(mosquitto: Mosquitto, protocol: str) -> None:
    with proxied(mosquitto.port) as proxy:
        config = schema.MqttSink(host="127.0.0.1", port=proxy.port, protocol=protocol)  # type: ignore[arg-type]
        sink = MqttSink(config, name="cloud", gateway="wire-test", password=None)
        await sink.send(MANY)
        await sink.send(MANY)
        await sink.close()

    assert proxy.n_bytes < sink.sent_bytes < 1.1 * proxy.n_bytes + 1500
