"""The picture: a snapshot of the flow to lines of a given width and height. Pure.

Invariant: never more lines than asked for, none wider, and no control character in them. Where there is not room for
all, the flow comes first: head, routes, sinks, models, then results or log lines in what is left.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gatewayd.cli.output import human_bytes
from gatewayd.cli.tail import clock_time, latest_of, log_line, printable, result_line

Style = Literal["", "bold", "dim", "good", "warning", "bad", "chosen"]
Panel = Literal["log", "results", "troubles"]
PANELS: tuple[Panel, ...] = ("log", "results", "troubles")
MIN_WIDTH, MIN_HEIGHT = 40, 8


@dataclass(frozen=True, slots=True)
class Line:
    """One line, in one style."""

    text: str
    style: Style = ""


@dataclass(slots=True)
class View:
    """What the person at the keys has chosen."""

    chosen: int = 0  # which route
    panel: Panel = "log"
    message: str = ""  # e.g. that the daemon is away


def picture(
    flow: Mapping[str, Any], log: Sequence[Mapping[str, Any]], view: View, width: int, height: int
) -> list[Line]:
    """The whole screen."""
    room = max(MIN_HEIGHT, height)
    head = _head(flow, view)
    routes = _routes(flow, view, max(3, (room - len(head) - 1) // 2))
    sinks, models = _sinks(flow), _models(flow)
    lines = [*head, *routes, *_shorten(sinks, max(2, room // 5)), *_shorten(models, max(2, room // 5))]
    left = room - len(lines) - 2
    if left > 0:
        lines += [Line(""), *_panel(flow, log, view, left, max(MIN_WIDTH, width))]
    lines = lines[: room - 1]
    lines += [Line("")] * (room - 1 - len(lines))
    lines.append(Line("q quit   up/down route   tab log, results, troubles", "dim"))
    return [Line(printable(line.text, max(MIN_WIDTH, width)), line.style) for line in lines]


def _head(flow: Mapping[str, Any], view: View) -> list[Line]:
    broker, spool = flow["broker"], flow["spool"]
    link = "connected" if broker["subscribed"] else "NOT SUBSCRIBED" if broker["connected"] else "NOT CONNECTED"
    first = f"gatewayd {flow['version']} on {flow['gateway']}   up {duration(flow['uptime_s'])}"
    first += f"   {clock_time(flow['time'])}"
    second = f"broker {broker['host']}:{broker['port']} {link}   in {rate(broker['received_per_s'])}"
    second += f"   results {rate(_sum(flow['routes'], 'results_per_s'))}"
    second += f"   delivered {rate(_sum(flow['sinks'], 'delivered_per_s'))}"
    lines = [Line(first, "bold"), Line(second, "" if broker["subscribed"] else "bad"), _spool(spool)]
    if view.message:
        lines.append(Line(view.message, "bad"))
    elif flow["troubles"]:
        worst = flow["troubles"][0]
        more = f" (and {len(flow['troubles']) - 1} more: tab)" if len(flow["troubles"]) > 1 else ""
        lines.append(Line(f"{worst['where']}: {worst['words']}{more}", _level(worst["level"])))
    else:
        lines.append(Line("nothing is wrong", "good"))
    return lines


def _spool(spool: Mapping[str, Any]) -> Line:
    used, cap = spool["used_bytes"], spool["max_bytes"]
    share = min(1.0, used / cap) if cap else 0.0
    bar = "#" * round(share * 10)
    oldest = f" (oldest {duration(spool['oldest_age_s'])})" if spool["pending_total"] else ""
    words = f"spool [{bar:.<10}] {share:.0%} of {human_bytes(cap)}  pending {spool['pending_total']}{oldest}"
    words += f"  journal {spool['journaled']}  dead {spool['dead_letters']}"
    return Line(words, "bad" if share > 0.95 else "warning" if share > 0.8 else "")


def _routes(flow: Mapping[str, Any], view: View, room: int) -> list[Line]:
    columns = (-22, -9, 8, 8, 8, 8, 8)
    lines = [Line(""), Line(_row(columns, "ROUTE", "STATE", "IN", "RESULTS", "P50", "P99", "WAITING"), "dim")]
    names = list(flow["routes"])
    if not names:
        return [*lines, Line("no routes", "warning")]
    view.chosen = min(max(0, view.chosen), len(names) - 1)
    first = max(0, min(view.chosen - room + 2, len(names) - room + 1))
    for at, name in list(enumerate(names))[first : first + max(1, room - 1)]:
        route = flow["routes"][name]
        age = route["age_ms"] or route["call_ms"] or {}
        waiting = route["waiting"] + route["journaled"]
        cells = (rate(route["received_per_s"]), rate(route["results_per_s"]), _ms(age.get("p50")), _ms(age.get("p99")))
        state = "waits" if route["state"].startswith("waiting") else route["state"]
        style: Style = "chosen" if at == view.chosen else "" if state == "running" else "warning"
        lines.append(Line(_row(columns, name, state, *cells, str(waiting)), style))
    return lines


def _sinks(flow: Mapping[str, Any]) -> list[Line]:
    if not flow["sinks"]:
        return []
    columns = (-22, -16, 9, 10, 9, 9)
    lines = [Line(""), Line(_row(columns, "SINK", "STATE", "SENT", "DELIVERED", "PENDING", "LOST"), "dim")]
    for name, sink in flow["sinks"].items():
        lost = sum(sink[key] for key in ("refused", "evicted", "expired"))
        cells = (rate(sink["delivered_per_s"]), str(sink["delivered"]), str(sink["pending"]), str(lost))
        style: Style = "bad" if sink["reachable"] is False else ""
        lines.append(Line(_row(columns, name, sink["state"], *cells), style))
    return lines


def _models(flow: Mapping[str, Any]) -> list[Line]:
    if not flow["models"]:
        return []
    columns = (-22, -12, 10, 10, 10)
    lines = [Line(""), Line(_row(columns, "MODEL", "VERSION", "MEMORY", "CALLS", "TOKENS"), "dim")]
    for name, model in flow["models"].items():
        memory = human_bytes(model["memory_bytes"]) if model["loaded"] else "not loaded"
        tokens = rate(model["tokens_per_s"]) if model["is_language"] else ""
        lines.append(Line(_row(columns, name, model["version"], memory, rate(model["calls_per_s"]), tokens)))
    return lines


def _wrapped(trouble: Mapping[str, Any], width: int) -> list[Line]:
    """What is wrong, and below it what to do."""
    words = textwrap.wrap(f"{trouble['where']}: {trouble['words']}", width)
    hint = textwrap.wrap(f"-> {trouble['hint']}", width, initial_indent="  ", subsequent_indent="     ")
    return [*(Line(one, _level(trouble["level"])) for one in words), *(Line(one) for one in hint)]


def _panel(flow: Mapping[str, Any], log: Sequence[Mapping[str, Any]], view: View, room: int, width: int) -> list[Line]:
    if view.panel == "troubles":
        lines = [line for one in flow["troubles"] for line in _wrapped(one, width)]
        return [Line("TROUBLES", "dim"), *(lines or [Line("none")])][:room]
    if view.panel == "results":
        name = list(flow["routes"])[view.chosen] if flow["routes"] else ""
        lines = [Line(result_line(one, with_route=False)) for one in latest_of(flow, name)]
        return [Line(f"LATEST RESULTS OF {name}", "dim"), *lines][:room]
    newest = [Line(log_line(one), _level(one["level"])) for one in list(log)[-max(0, room - 1) :]] if room > 1 else []
    return [Line("LOG", "dim"), *newest]


def _shorten(lines: list[Line], room: int) -> list[Line]:
    """At most `room` rows below a table's blank line and head; how many are left out is said."""
    if len(lines) <= room + 2:
        return lines
    return [*lines[: room + 1], Line(f"… and {len(lines) - room - 1} more", "dim")]


def plain_line(flow: Mapping[str, Any]) -> str:
    """The picture in one line, where there is no terminal."""
    broker, spool = flow["broker"], flow["spool"]
    sinks = " ".join(f"{name}={sink['state'].replace(' ', '_')}" for name, sink in flow["sinks"].items())
    return printable(
        f"{clock_time(flow['time'])} broker={'up' if broker['subscribed'] else 'DOWN'}"
        f" in={broker['received_per_s']:.1f}/s results={_sum(flow['routes'], 'results_per_s'):.1f}/s"
        f" delivered={_sum(flow['sinks'], 'delivered_per_s'):.1f}/s pending={spool['pending_total']}"
        f" spool={spool['used_bytes']}/{spool['max_bytes']} dead={spool['dead_letters']}"
        f" troubles={len(flow['troubles'])} {sinks}".rstrip(),
        400,
    )


def _sum(rows: Mapping[str, Any], key: str) -> float:
    return sum(float(row[key]) for row in rows.values())


def _row(widths: Sequence[int], *cells: str) -> str:
    """Cells side by side; a negative width is set to the left."""
    padded = [
        f"{printable(cell, -width):<{-width}}" if width < 0 else f"{cell:>{width}}"
        for width, cell in zip(widths, cells, strict=True)
    ]
    return " ".join(padded)


def _level(level: str) -> Style:
    return "bad" if level in ("error", "critical") else "warning" if level == "warning" else ""


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value / 1000:.1f} s" if value >= 1000 else f"{value:.1f} ms" if value >= 0.95 else f"{value:.2f} ms"


def rate(per_s: float) -> str:
    """12.3/s"""
    return f"{per_s:.0f}/s" if per_s >= 100 else f"{per_s:.1f}/s"


def duration(seconds: float) -> str:
    """3700 -> "1 h 1 min"."""
    minutes = int(seconds) // 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 2880 else f"{minutes // 1440} days"
