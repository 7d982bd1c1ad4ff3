"""Whatever comes over HTTP, the answer is never a failure of ours, and the spool is as it was."""

import asyncio
import tempfile
from pathlib import Path
from urllib.parse import quote

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.sim.page import Served, page

PATHS = st.sampled_from(
    [
        "/",
        "/flow",
        "/dead",
        "/dead/d:1",
        "/dead/requeue",
        "/dead/purge",
        "/status",
        "/login",
        "/logout",
        "/switch/cloud",
    ]
)
PIECES = st.text(max_size=20) | st.sampled_from(["..", "%00", "d:-1", "d:999999999999999999999", "\x00", "é", "d:1"])
TARGETS = (
    PATHS.map(str.encode)
    | st.tuples(PATHS, PIECES).map(lambda pair: f"{pair[0]}/{quote(pair[1])}".encode())
    | st.tuples(PATHS, PIECES, PIECES).map(lambda three: f"{three[0]}?{quote(three[1])}={quote(three[2])}".encode())
    | st.binary(min_size=1, max_size=40).map(lambda raw: b"/" + raw.translate(None, b" \r\n"))
)
METHODS = st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"gEt", b"X"])
VALUES = st.binary(max_size=60).map(lambda raw: raw.translate(None, b"\r\n"))
NAMES = st.sampled_from(
    [
        b"Host",
        b"Authorization",
        b"Cookie",
        b"Origin",
        b"Accept",
        b"Accept-Encoding",
        b"If-None-Match",
        b"Content-Type",
        b"Content-Length",
        b"Transfer-Encoding",
        b"Sec-Fetch-Site",
        b"Content-Encoding",
        b"Expect",
        b"Upgrade",
    ]
)
BODIES = st.binary(max_size=200) | st.sampled_from(
    [
        b'{"ids": ["d:1"], "all": true}',
        b'{"ids": ["r:1"]}',
        b'{"ids": "d:1"}',
        b'{"all": false}',
        b'{"ids": ["d:99999999999999999999"]}',
        b"[" * 190,
        b'{"all": true, "before": 1}',
    ]
)


async def send(served: Served, request: bytes) -> bytes:
    """The first line of the answer; b"" where the connection was closed."""
    host, port = served.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        writer.write_eof()
        return await asyncio.wait_for(reader.readline(), 60)
    except ConnectionError:
        return b""
    finally:
        writer.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(METHODS, TARGETS, st.lists(st.tuples(NAMES, VALUES), max_size=4), BODIES, st.booleans()),
        min_size=5,
        max_size=30,
    ),
    st.sampled_from([None, "a token of some length"]),
)
def test_no_request_makes_us_fail_or_changes_the_spool(
    requests: list[tuple[bytes, bytes, list[tuple[bytes, bytes]], bytes, bool]], token: str | None
) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with page(Path(folder), token=token, max_changes=0) as served:
                await served.bury(b"{not json")
                before = served.rig.dead()
                for method, target, headers, body, is_ours in requests:
                    lines = [b"%s %s HTTP/1.1" % (method, target)]
                    if is_ours:
                        own = served.url.removeprefix("http://").encode()
                        lines += [b"Host: " + own, b"X-Gatewayd: 1", b"Content-Type: application/json"]
                        lines += [b"Content-Length: %d" % len(body)]
                    lines += [b"%s: %s" % header for header in headers]
                    first = await send(served, b"\r\n".join(lines) + b"\r\n\r\n" + body)
                    assert first.split(b" ")[1:2] != [b"500"], (lines, body)
                assert served.rig.dead() == before
                assert (await served.ask("GET", "/healthz"))[0] == 200

    asyncio.run(run())
