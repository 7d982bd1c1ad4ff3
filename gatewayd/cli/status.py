"""`gatewayd status`: the running daemon's own words, from its /status."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import typer

from gatewayd.cli.output import cause, human_bytes, print_json, print_table
from gatewayd.config.load import load


async def print_status(config: Path, *, as_json: bool) -> bool:
    """Print it. False when no daemon answers."""
    web = load(config).web
    if not web.enabled or not web.port:
        typer.echo("[web] of this config is off or takes any free port: nobody can be asked", err=True)
        typer.echo("hint: set web.enabled and web.port; `gatewayd spool status` works without", err=True)
        return False
    url = f"http://{web.host}:{web.port}/status"
    try:
        status = await _get(url)
    except (aiohttp.ClientError, TimeoutError) as error:
        typer.echo(f"no daemon answers at {url}: {cause(error)}", err=True)
        typer.echo("hint: is it running? `systemctl status gatewayd`; does [web] of this config match?", err=True)
        return False
    if as_json:
        print_json(status)
    else:
        _print(status)
    return True


async def running_models(config: Path) -> dict[str, Any]:
    """What a running daemon says of its models; nothing when none answers."""
    web = load(config).web
    if not web.enabled or not web.port:
        return {}
    try:
        return dict((await _get(f"http://{web.host}:{web.port}/status", timeout_s=1))["models"])
    except (aiohttp.ClientError, TimeoutError, KeyError):
        return {}


async def _get(url: str, timeout_s: float = 5) -> dict[str, Any]:
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
        response.raise_for_status()
        return msgspec.json.decode(await response.read(), type=dict[str, Any])


def _link(broker: Mapping[str, Any]) -> str:
    if not broker["connected"]:
        return "NOT CONNECTED"
    return "connected" if broker["subscribed"] else "connected, NOT SUBSCRIBED"


def _print(status: dict[str, Any]) -> None:
    broker = status["broker"]
    typer.echo(
        f"gatewayd {status['version']} on {status['gateway']}, up {status['uptime_s']:.0f} s, "
        f"broker {broker['host']}:{broker['port']} {_link(broker)}"
    )
    spool = status["spool"]
    routes = [
        (name, row["handler"], row["state"], row["waiting"], spool["journaled"].get(name, 0))
        for name, row in status["routes"].items()
    ]
    print_table("Routes", ["route", "handler", "state", "waiting", "journaled"], routes)
    sinks = [
        (name, row["state"], spool["pending"].get(name, 0), human_bytes(row["today_bytes"]), _month(row))
        for name, row in status["sinks"].items()
    ]
    print_table("Sinks", ["sink", "state", "pending", "sent today", "this month"], sinks)
    typer.echo(
        f"Spool: {human_bytes(spool['used_bytes'])} of {human_bytes(spool['max_bytes'])}, "
        f"oldest result {spool['oldest_age_s']:.0f} s, {spool['dead_letters']} dead letters"
    )


def _month(sink: dict[str, Any]) -> str:
    sent, cap = human_bytes(sink["month_bytes"]), sink["max_bytes_per_month"]
    return f"{sent} of {human_bytes(cap)}" if cap else sent
