"""The page over HTTPS, and for those alone who show a certificate."""

import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme

from gatewayd.config.schema import Web, WebTls
from gatewayd.errors import ConfigError
from gatewayd.web.server import Views, WebServer


async def books() -> Any:
    return {}


VIEWS = Views(metrics=bytes, stuck=lambda: None, ready=lambda: None, status=dict, books=books)


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    """Its certificate is in ca.pem, the page's in page.crt and page.key."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "page.crt")
    issued.private_key_pem.write_to_path(tmp_path / "page.key")
    return authority


async def status_of(url: str, context: ssl.SSLContext) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/flow", ssl=context) as answer:
        return answer.status


async def test_who_shows_no_certificate_of_ours_is_turned_away(tmp_path: Path, authority: trustme.CA) -> None:
    tls = WebTls(cert_file="page.crt", key_file="page.key", client_ca_file="ca.pem")
    server = WebServer(Web(host="0.0.0.0", port=0, tls=tls), VIEWS, beside=tmp_path)
    url = (await server.start()).replace("0.0.0.0", "127.0.0.1")
    stranger, known = ssl.create_default_context(), ssl.create_default_context()
    for context in (stranger, known):
        authority.configure_trust(context)
    trustme.CA().issue_cert("somebody@example.org").configure_cert(stranger)
    authority.issue_cert("operator@example.org").configure_cert(known)
    try:
        with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
            await status_of(url, stranger)
        plain = ssl.create_default_context()
        authority.configure_trust(plain)
        with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
            await status_of(url, plain)

        assert await status_of(url, known) == 404  # let in: these views have no flow
    finally:
        await server.stop()


def test_a_certificate_that_is_not_there_is_an_error_of_the_config(tmp_path: Path) -> None:
    tls = WebTls(cert_file="page.crt", key_file="page.key")

    with pytest.raises(ConfigError, match="cannot be read"):
        WebServer(Web(tls=tls), VIEWS, beside=tmp_path)
