"""The way from a command to the running daemon: its HTTP endpoints, with the token and TLS that `[web]` asks for."""

import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import typer

from gatewayd.cli.output import cause
from gatewayd.config.environment import read_environment
from gatewayd.config.load import load
from gatewayd.config.secrets import read_secret
from gatewayd.errors import ConfigError, GatewaydError

_MAX_EVENT_BYTES = 16_777_216
_SILENCE_S = 75.0  # events come every `web.flow_every_s`, 60 at most


class DaemonAway(GatewaydError):  # noqa: N818 - says what is
    """No daemon answers: exit status 69."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonLink:
    """Where it listens, and how to ask."""

    url: str
    headers: Mapping[str, str]
    tls: ssl.SSLContext | None


def link_to(config_path: Path) -> DaemonLink | None:
    """None where `[web]` gives nobody a way. Raises ConfigErrors, and ConfigError for a token that cannot be read."""
    web = load(config_path).web
    if not web.enabled or not web.port:
        return None
    headers = {}
    if web.token is not None:
        beside = config_path.absolute().parent
        token = read_secret(web.token, key="web.token", beside=beside, environment=read_environment())
        headers["Authorization"] = f"Bearer {token}"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(web.host, web.host)  # noqa: S104 - where it listens, not we
    where = f"[{host}]:{web.port}" if ":" in host else f"{host}:{web.port}"
    if web.tls is None:
        return DaemonLink(url=f"http://{where}", headers=headers, tls=None)
    tls = _tls(config_path.absolute().parent / web.tls.cert_file)
    return DaemonLink(url=f"https://{where}", headers=headers, tls=tls)


def _tls(certificate: Path) -> ssl.SSLContext:
    """Its own certificate is the one trusted, whatever name it carries: we ask by address."""
    context = ssl.create_default_context()
    context.check_hostname = False
    try:
        context.load_verify_locations(cafile=certificate)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError("web.tls.cert_file", f"{certificate}: {getattr(error, 'strerror', None) or error}") from None
    return context


def say_no_way() -> None:
    """For a config that has no `[web]` to ask."""
    typer.echo("[web] of this config is off or takes any free port: nobody can be asked", err=True)
    typer.echo("hint: set web.enabled and web.port; `gatewayd spool status` works without", err=True)


def say_away(error: DaemonAway) -> None:
    """For a daemon that does not answer."""
    typer.echo(str(error), err=True)
    typer.echo("hint: is it running? `systemctl status gatewayd`; does [web] of this config match?", err=True)


async def ask(link: DaemonLink, path: str, timeout_s: float = 5) -> dict[str, Any]:
    """The JSON object of an endpoint. Raises DaemonAway."""
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=link.headers) as session,
            session.get(f"{link.url}{path}", ssl=link.tls or True) as response,
        ):
            _raise_for(response, link)
            return msgspec.json.decode(await response.read(), type=dict[str, Any])
    except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError) as error:
        raise DaemonAway(f"no daemon answers at {link.url}{path}: {cause(error)}") from error


async def follow(link: DaemonLink, route: str = "") -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Events of `/flow/events`, each with its name, until the daemon goes: then DaemonAway."""
    timeout = aiohttp.ClientTimeout(total=None, connect=5, sock_read=_SILENCE_S)
    parameters = {"route": route} if route else {}
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=link.headers) as session,
            session.get(f"{link.url}/flow/events", params=parameters, ssl=link.tls or True) as response,
        ):
            _raise_for(response, link)
            async for name, data in _events(response.content.iter_any()):
                yield name, data
    except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError) as error:
        raise DaemonAway(f"no daemon answers at {link.url}/flow/events: {cause(error)}") from error
    raise DaemonAway(f"the daemon at {link.url} has ended the connection")


def _raise_for(response: aiohttp.ClientResponse, link: DaemonLink) -> None:
    if response.status in (401, 403):
        raise DaemonAway(f"the daemon at {link.url} turns us away ({response.status}): see web.token of this config")
    if response.status == 404:
        raise DaemonAway(f"what answers at {link.url} has no {response.url.path}: is it an older gatewayd?")
    if response.status == 503:
        raise DaemonAway(f"the daemon at {link.url} is busy: too many follow it already (web.max_listeners)")
    response.raise_for_status()


async def _events(chunks: AsyncIterator[bytes]) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Server-sent events of the form that the daemon sends (gatewayd/web/events.py): a name, one line of JSON."""
    waiting = b""
    async for chunk in chunks:
        waiting += chunk
        *whole, waiting = waiting.split(b"\n\n")
        if len(waiting) > _MAX_EVENT_BYTES:
            raise aiohttp.ClientPayloadError("an event without an end")
        for event in whole:
            lines = dict(line.split(b": ", 1) for line in event.split(b"\n") if b": " in line)
            if b"event" in lines and b"data" in lines:
                yield lines[b"event"].decode(), msgspec.json.decode(lines[b"data"], type=dict[str, Any])
