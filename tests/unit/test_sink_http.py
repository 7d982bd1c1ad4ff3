"""The HTTP sink: what a status means, what goes over the wire, and what never appears in a message."""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from aiohttp import web

from gatewayd.config import schema
from gatewayd.errors import BatchRefused, BatchTooLarge, ConfigError, GatewaydError, SinkMisconfigured, SinkUnavailable
from gatewayd.events import BATCH_CONTENT_TYPE
from gatewayd.sinks.http import HttpSink
from tests.sim.cloud import FaultyCloud, Scripted
from tests.sim.spool import results

TOKEN = "s3cret-token"


@pytest.fixture
async def cloud() -> AsyncIterator[FaultyCloud]:
    cloud = FaultyCloud()
    await cloud.start()
    yield cloud
    await cloud.stop()


@pytest.fixture
async def sink(cloud: FaultyCloud) -> AsyncIterator[HttpSink]:
    sink = HttpSink(schema.HttpSink(url=cloud.url), gateway="gw", token=TOKEN, now=lambda: 784_111_777.0)
    yield sink
    await sink.close()


@pytest.mark.parametrize("status", [200, 201, 202, 204, 207])
async def test_any_2xx_means_stored(cloud: FaultyCloud, sink: HttpSink, status: int) -> None:
    cloud.script.append(Scripted(status))

    assert await sink.send(results("pumps", 3)) == {}


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (301, SinkMisconfigured),
        (307, SinkMisconfigured),
        (401, SinkMisconfigured),
        (403, SinkMisconfigured),
        (402, SinkMisconfigured),
        (404, SinkMisconfigured),
        (405, SinkMisconfigured),
        (406, SinkMisconfigured),
        (407, SinkMisconfigured),
        (411, SinkMisconfigured),
        (415, SinkMisconfigured),
        (421, SinkMisconfigured),
        (426, SinkMisconfigured),
        (431, SinkMisconfigured),
        (408, SinkUnavailable),
        (425, SinkUnavailable),
        (429, SinkUnavailable),
        (500, SinkUnavailable),
        (502, SinkUnavailable),
        (503, SinkUnavailable),
        (504, SinkUnavailable),
        (599, SinkUnavailable),
        (413, BatchTooLarge),
        (400, BatchRefused),
        (409, BatchRefused),
        (410, BatchRefused),
        (422, BatchRefused),
    ],
)
async def test_every_other_status_has_one_consequence(
    cloud: FaultyCloud, sink: HttpSink, status: int, error: type[GatewaydError]
) -> None:
    cloud.script.append(Scripted(status, {"Location": "/elsewhere"}))

    with pytest.raises(GatewaydError) as caught:
        await sink.send(results("pumps", 3))

    assert type(caught.value) is error
    assert str(status) in str(caught.value)
    assert cloud.requests == 1
    assert bool(caught.value.hint) == (error is SinkMisconfigured)


@pytest.mark.parametrize(
    ("status", "headers", "seconds"),
    [
        (429, {"Retry-After": "17"}, 17.0),
        (503, {"Retry-After": "17"}, 17.0),
        (503, {"Retry-After": "Sun, 06 Nov 1994 08:50:37 GMT", "Date": "Sun, 06 Nov 1994 08:50:07 GMT"}, 30.0),
        (503, {}, None),
        (500, {"Retry-After": "17"}, None),
    ],
)
async def test_retry_after_is_passed_on_and_its_date_counts_from_the_far_sides_own(
    cloud: FaultyCloud, sink: HttpSink, status: int, headers: dict[str, str], seconds: float | None
) -> None:
    cloud.script.append(Scripted(status, headers))

    with pytest.raises(SinkUnavailable) as caught:
        await sink.send(results("pumps", 1))

    assert caught.value.retry_after_s == seconds


async def test_a_refusal_quotes_the_beginning_of_the_answer(cloud: FaultyCloud, sink: HttpSink) -> None:
    cloud.script.append(Scripted(422, body="not in the schema " + "x" * 1000))

    with pytest.raises(BatchRefused) as caught:
        await sink.send(results("pumps", 1))

    assert str(caught.value).startswith("HTTP 422: not in the schema xxx")
    assert len(str(caught.value)) == len("HTTP 422: ") + 200


async def test_neither_token_nor_query_appears_in_a_message(cloud: FaultyCloud) -> None:
    sink = HttpSink(schema.HttpSink(url=f"{cloud.url}?sig=s1gnature"), gateway="gw", token=TOKEN)
    messages = []
    for answer in (Scripted(400, body=f"bad {TOKEN} sig=s1gnature"), Scripted(401, body=TOKEN), Scripted(500)):
        cloud.script.append(answer)
        with pytest.raises(GatewaydError) as caught:
            await sink.send(results("pumps", 1))
        messages.append(str(caught.value))
    await cloud.cut()
    with pytest.raises(GatewaydError) as caught:
        await sink.send(results("pumps", 1))
    messages.append(str(caught.value))
    await sink.close()

    assert len(messages) == 4
    assert not any(TOKEN in message or "s1gnature" in message for message in messages)


async def test_an_answer_without_end_is_not_read_to_its_end(cloud: FaultyCloud, sink: HttpSink) -> None:
    cloud.script.append(Scripted(400, body="x" * 10_000_000))

    with pytest.raises(BatchRefused):
        await sink.send(results("pumps", 1))

    assert await sink.send(results("pumps", 1)) == {}


async def test_the_request_says_what_it_is_and_who_asks(cloud: FaultyCloud) -> None:
    config = schema.HttpSink(url=cloud.url, headers={"X-Tenant": "north"})
    sink = HttpSink(config, gateway="gw", token=TOKEN, headers=lambda: {"traceparent": "00-1-2-01"})
    await sink.send(results("pumps", 1))
    await sink.close()

    sent = cloud.seen_headers[0]
    assert sent["Content-Type"] == BATCH_CONTENT_TYPE
    assert sent["Authorization"] == f"Bearer {TOKEN}"
    assert sent["X-Tenant"] == "north"
    assert sent["traceparent"] == "00-1-2-01"
    assert sent["User-Agent"].startswith("gatewayd/")
    assert "Content-Length" in sent
    assert "Content-Encoding" not in sent


@pytest.mark.parametrize("n", [20, 2000])
async def test_a_large_body_is_compressed(cloud: FaultyCloud, sink: HttpSink, n: int) -> None:
    await sink.send(results("pumps", n))

    assert cloud.seen_headers[0]["Content-Encoding"] == "gzip"
    assert cloud.seen_bytes[0] < 40 * n
    assert cloud.unique == n


async def test_connections_are_kept_and_one_that_was_closed_meanwhile_is_replaced_in_silence() -> None:
    ports, app = [], web.Application()

    async def closes_after_every_answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        ports.append(request.transport.get_extra_info("peername")[1])
        if len(ports) == 2:
            request.transport.abort()  # as if it had been closed just when we wrote
        return web.Response()

    app.router.add_post("/events", closes_after_every_answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sink = HttpSink(schema.HttpSink(url=f"http://127.0.0.1:{runner.addresses[0][1]}/events"), gateway="gw", token=None)

    for _ in range(3):
        await sink.send(results("pumps", 1))
    await sink.close()
    await runner.cleanup()

    assert len(ports) == 4
    assert ports[0] == ports[1] != ports[2] == ports[3]


async def test_a_lost_answer_is_a_retry_and_the_cloud_keeps_one_copy(cloud: FaultyCloud, sink: HttpSink) -> None:
    cloud.loses_answers = 1

    with pytest.raises(SinkUnavailable):
        await sink.send(results("pumps", 5))
    await sink.send(results("pumps", 5))

    assert cloud.unique == 5
    assert cloud.duplicates == 5


async def test_a_far_side_that_hangs_can_be_given_up(cloud: FaultyCloud, sink: HttpSink) -> None:
    cloud.hangs = True

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await sink.send(results("pumps", 1))
    cloud.hangs = False

    assert await sink.send(results("pumps", 1)) == {}


async def test_a_cookie_is_not_sent_back(cloud: FaultyCloud, sink: HttpSink) -> None:
    cloud.script.append(Scripted(200, {"Set-Cookie": "a=b; Path=/"}))

    await sink.send(results("pumps", 1))
    await sink.send(results("pumps", 1))

    assert "Cookie" not in cloud.seen_headers[1]


def test_credentials_in_the_url_are_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"sinks\.cloud\.url") as caught:
        HttpSink(schema.HttpSink(url="https://me:s3cret@example.com/"), gateway="gw", token=None, name="cloud")

    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("key", ["ca_file", "cert_file"])
def test_a_tls_file_that_cannot_be_used_is_a_config_error(tmp_path: Path, key: str) -> None:
    tls = schema.Tls(**{key: str(tmp_path / "missing.pem")})  # type: ignore[arg-type]

    with pytest.raises(ConfigError, match=rf"sinks\.cloud\.tls\.{key}"):
        HttpSink(schema.HttpSink(url="https://example.com/", tls=tls), gateway="gw", token=None, name="cloud")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the key")
def test_an_encrypted_key_is_a_config_error_and_no_question(tmp_path: Path) -> None:
    own = tmp_path / "own.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/CN=gw"]
    made = [*command, "-passout", "pass:s3cret", "-keyout", str(tmp_path / "key.pem"), "-out", str(own)]
    subprocess.run(made, check=True, capture_output=True, timeout=120)
    tls = schema.Tls(cert_file=str(own), key_file=str(tmp_path / "key.pem"))

    with pytest.raises(ConfigError, match="cert_file"):
        HttpSink(schema.HttpSink(url="https://example.com/", tls=tls), gateway="gw", token=None)


class TlsCloud:
    """An HTTPS server with a certificate of its own authority, that wants one of the client."""

    def __init__(self, folder: Path, authority: trustme.CA) -> None:
        self.ca_file = str(folder / "ca.pem")
        self.own_file = str(folder / "own.pem")
        authority.cert_pem.write_to_path(self.ca_file)
        authority.issue_cert("gateway@example.com").private_key_and_cert_chain_pem.write_to_path(self.own_file)
        self.peers: list[object] = []

    async def start(self, authority: trustme.CA, certificate: trustme.LeafCert) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(context)
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_OPTIONAL
        app = web.Application()
        app.router.add_post("/", self._answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context).start()
        self.url = f"https://127.0.0.1:{self._runner.addresses[0][1]}/"

    async def _answer(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        self.peers.append(request.transport.get_extra_info("peercert"))
        return web.Response()

    async def post(self, **tls: object) -> None:
        table = schema.Tls(**tls) if tls else None  # type: ignore[arg-type]
        sink = HttpSink(schema.HttpSink(url=self.url, tls=table), gateway="gw", token=None, now=lambda: 0.0)
        try:
            await sink.send(results("pumps", 1))
        finally:
            await sink.close()

    async def stop(self) -> None:
        await self._runner.cleanup()


async def test_an_own_authority_mutual_tls_and_a_server_name_are_obeyed(tmp_path: Path) -> None:
    authority = trustme.CA()
    cloud = TlsCloud(tmp_path, authority)
    await cloud.start(authority, authority.issue_cert("cloud.example.com"))
    try:
        with pytest.raises(SinkUnavailable) as unknown:
            await cloud.post()
        with pytest.raises(SinkUnavailable) as misnamed:
            await cloud.post(ca_file=cloud.ca_file)
        await cloud.post(ca_file=cloud.ca_file, server_name="cloud.example.com")
        await cloud.post(ca_file=cloud.ca_file, server_name="cloud.example.com", cert_file=cloud.own_file)
        await cloud.post(insecure=True)
    finally:
        await cloud.stop()

    assert "ca_file" in unknown.value.hint
    assert "server_name" in misnamed.value.hint
    assert [bool(peer) for peer in cloud.peers] == [False, True, False]


async def test_a_certificate_that_is_not_yet_valid_hints_at_the_clock(tmp_path: Path) -> None:
    authority = trustme.CA()
    cloud = TlsCloud(tmp_path, authority)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    await cloud.start(authority, authority.issue_cert("127.0.0.1", not_before=tomorrow))
    try:
        with pytest.raises(SinkUnavailable) as caught:
            await cloud.post(ca_file=cloud.ca_file)
    finally:
        await cloud.stop()

    assert "clock" in caught.value.hint
    assert "1970-01-01T00:00:00Z" in caught.value.hint
