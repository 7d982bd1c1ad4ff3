"""`gatewayd status`: the running daemon's own words, from its /status."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from gatewayd.cli.daemon_link import DaemonAway, ask, link_to, say_away, say_no_way
from gatewayd.cli.output import human_bytes, print_json, print_table


async def print_status(config: Path, *, as_json: bool) -> bool:
    """Print it. False when no daemon answers."""
    link = link_to(config)
    if link is None:
        say_no_way()
        return False
    try:
        status = await ask(link, "/status")
    except DaemonAway as error:
        say_away(error)
        return False
    if as_json:
        print_json(status)
    else:
        _print(status)
    return True


async def running_models(config: Path) -> dict[str, Any]:
    """What a running daemon says of its models; nothing when none answers."""
    link = link_to(config)
    if link is None:
        return {}
    try:
        return dict((await ask(link, "/status", timeout_s=1))["models"])
    except (DaemonAway, KeyError):
        return {}


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
