"""`gatewayd tail`: the latest results, and those that come, a line each; with --log the daemon's log between them."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import typer

from gatewayd.cli.daemon_link import DaemonAway, DaemonLink, ask, follow, link_to, say_away, say_no_way

_AGAIN_S = 2.0
_MAX_WORDS = 120
_TOLD = {"label", "score", "value", "model", "model_version", "latency_ms", "scores", "tier", "state", "summary"}


@dataclass(slots=True)
class Tail:
    """What is followed, and how far it was told: `seen` is the number of each route's last result."""

    route: str = ""
    as_json: bool = False
    with_log: bool = False
    seen: dict[str, int] = field(default_factory=dict)
    until: float = 0.0  # time of the newest result that was told

    def catch_up(self, flow: Mapping[str, Any]) -> None:
        """Print what a new connection finds: results that came while there was none."""
        until = self.until
        for result in sorted(latest_of(flow, self.route), key=lambda one: float(one["time"])):
            if float(result["time"]) > until:
                self.result(result)
            else:
                route, number = str(result["route"]), int(result["number"])
                self.seen[route] = max(number, self.seen.get(route, -1))

    def result(self, result: Mapping[str, Any]) -> None:
        """Print it, unless it was."""
        route, number = str(result["route"]), int(result["number"])
        if number <= self.seen.get(route, -1):
            return
        self.seen[route] = number
        self.until = max(self.until, float(result["time"]))
        if left_out := result.get("left_out"):
            self._aside(f"… {left_out} left out (web.max_results_per_s)")
        typer.echo(msgspec.json.encode(result).decode() if self.as_json else result_line(result))

    def log(self, line: Mapping[str, Any]) -> None:
        """Print a line of the daemon's log, where it is wanted."""
        if not self.with_log:
            return
        typer.echo(msgspec.json.encode({"log": line}).decode() if self.as_json else log_line(line))

    def _aside(self, words: str) -> None:
        typer.echo(words, err=True)


def run_tail(config_path: Path, tail: Tail, *, n_latest: int, stay: bool) -> bool:
    """Until Ctrl-C, over restarts of the daemon. False when no daemon answers at the begin."""
    link = link_to(config_path)
    if link is None:
        say_no_way()
        return False
    try:
        asyncio.run(_tail(link, tail, n_latest, stay=stay))
    except KeyboardInterrupt:  # the usual way to end it
        return True
    except DaemonAway as error:
        say_away(error)
        return False
    return True


async def _tail(link: DaemonLink, tail: Tail, n_latest: int, *, stay: bool) -> None:
    flow = await ask(link, "/flow")
    if tail.route and tail.route not in flow["routes"]:
        known = ", ".join(flow["routes"]) or "none"
        raise typer.BadParameter(f"the daemon has no route {tail.route!r}; it has: {known}")
    latest = sorted(latest_of(flow, tail.route), key=lambda result: float(result["time"]))
    for name, route in flow["routes"].items():
        tail.seen[name] = -1 if n_latest else max((int(one["number"]) for one in route["latest"]), default=-1)
    for result in latest[-n_latest:] if n_latest else []:
        tail.result(result)
    is_lost = False
    while stay:
        try:
            async for name, event in follow(link, tail.route):
                if name == "flow" and is_lost:
                    tail.catch_up(event)
                    is_lost = False
                elif name == "result":
                    tail.result(event)
                elif name == "log":
                    tail.log(event)
        except DaemonAway as error:
            if not is_lost:
                typer.echo(f"{error}; trying again", err=True)
            is_lost = True
            tail.seen.clear()  # another process counts anew
            await asyncio.sleep(_AGAIN_S)


def latest_of(flow: Mapping[str, Any], route: str = "") -> Iterator[dict[str, Any]]:
    """The latest results of a snapshot, with their route."""
    for name, one in flow["routes"].items():
        if route in ("", name):
            for result in one["latest"]:
                yield {"route": name, **result}


def result_line(result: Mapping[str, Any], *, with_route: bool = True) -> str:
    """12:34:56 ovens  alert hot raised 91.5  plant/oven-1  severity=warning …"""
    data = result["data"] if isinstance(result["data"], Mapping) else {}
    said = [str(one) for one in (result["kind"], result["label"], data.get("state")) if one]
    said += [f"{data[key]:.4g}" for key in ("score", "value") if isinstance(data.get(key), int | float)]
    said += [str(data["summary"])] if "summary" in data else []
    more = [f"{key}={value}" for key, value in data.items() if key not in _TOLD and not isinstance(value, dict)]
    subject = result["subject"] or ""
    more = [one for one in more if one.partition("=")[2] != subject]
    where = f" {result['route']} " if with_route else ""
    words = f"{clock_time(result['time'])}{where} {' '.join(said)}  {subject}  {' '.join(more)}"
    return printable(words.rstrip(), _MAX_WORDS)


def log_line(line: Mapping[str, Any]) -> str:
    """12:34:56 warning  lost the broker  broker=127.0.0.1:1883"""
    fields = line.get("fields") or {}
    said = " ".join(f"{key}={value}" for key, value in fields.items())
    return printable(f"{clock_time(line['time'])} {line['level']:7}  {line['event']}  {said}".rstrip(), _MAX_WORDS * 2)


def clock_time(seconds: float) -> str:
    """Local time of the day."""
    return time.strftime("%H:%M:%S", time.localtime(float(seconds)))


def printable(text: str, width: int) -> str:
    """In one line without control characters: a device's words must not move somebody's cursor."""
    shown = "".join(letter if letter.isprintable() else "·" for letter in text[: width + 1])
    return shown if len(shown) <= width else f"{shown[: width - 1]}…"
