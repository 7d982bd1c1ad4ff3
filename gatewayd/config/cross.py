"""What no single key can say: mistakes that show when two keys are looked at together. Pure."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from gatewayd.config.cross_bus import check_bus
from gatewayd.config.cross_far import check_far, check_redaction
from gatewayd.config.cross_tiers import check_tiers
from gatewayd.config.cross_web import check_web
from gatewayd.config.describe import Path
from gatewayd.config.schema import Board, Config, Models, Payload, Reconnect, Route, Secret, Tls
from gatewayd.config.walk import Finding
from gatewayd.payloads.paths import compile_path
from gatewayd.routing import validate_filter
from gatewayd.subscribing import plan_subscriptions

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_NAME_RULE = "letters, digits, - and _, the first a letter or digit"


def cross_check(config: Config, data: Mapping[str, Any]) -> Iterator[Finding]:
    """Findings in the tree as a whole. `data` is the document as written: what is wrong elsewhere in it still counts
    as being there."""
    yield from _names(data)
    sinks = _table(data, "sinks")
    for name, route in config.routes.items():
        yield from _route(("routes", name), route, sinks)
        yield from check_tiers(("routes", name), route, config.tiers, _table(data, "tiers"))
        yield from check_redaction(("routes", name, "escalation"), route.escalation)
    for name, tier in config.tiers.items():
        yield from check_far(("tiers", name), tier)
    for name, sink in config.sinks.items():
        if sink.timeout_s >= config.spool.lease_s:
            problem = "a lease would lapse before the sink has answered, and results would be sent twice"
            limit = f"less than spool.lease_s ({config.spool.lease_s:g})"
            yield Finding(path=("sinks", name, "timeout_s"), problem=problem, allowed=limit)
    for path, value in _structs(config, ()):
        yield from _anywhere(path, value)
    yield from _board(config.board)
    yield from check_web(config.web)
    yield from check_bus(config)
    yield from _warnings(config)


def _table(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = data.get(name, {})
    return value if isinstance(value, Mapping) else {}


def _names(data: Mapping[str, Any]) -> Iterator[Finding]:
    for kind in ("routes", "sinks", "tiers"):
        for name in _table(data, kind):
            if not _NAME.fullmatch(name) or len(name) > 64:
                problem = "this name would not do in topics, addresses and metrics"
                yield Finding(path=(kind, name), problem=problem, allowed=f"{_NAME_RULE}, at most 64 of them")


def _route(path: Path, route: Route, sinks: Mapping[str, Any]) -> Iterator[Finding]:
    for index, name in enumerate(route.topics):
        if problem := validate_filter(name):
            yield Finding(path=(*path, "topics", index), problem=problem)
    for index, name in enumerate(route.sinks):
        if name not in sinks:
            known = ", ".join(sinks) or "no sink is defined: add a table [sinks.<name>]"
            yield Finding(path=(*path, "sinks", index), problem=f"there is no sink `{name}`", allowed=known)
        elif name in route.sinks[:index]:
            yield Finding(path=(*path, "sinks", index), problem=f"names the sink `{name}` a second time")
    if route.window is not None and route.mode == "direct":
        problem = "a route with a window is journaled: it could not acknowledge for as long as a window is open"
        yield Finding(path=(*path, "mode"), problem=problem, allowed='"auto" or "journaled", or no `window`')
    if route.window is not None and route.window.every_s is not None:
        yield from _beside_window(path, route, route.window.every_s + route.window.grace_s)
    if route.window is not None and route.window.key not in ("", "topic"):
        yield from _value_path((*path, "window", "key"), route.window.key)
    if route.write == "when_offline":
        yield from _sparing(path, route)
    yield from _payload((*path, "payload"), route.payload)


def _beside_window(path: Path, route: Route, open_s: float) -> Iterator[Finding]:
    limit = f"at least {open_s:g}, which is window.every_s + window.grace_s"
    if route.ttl_s is not None and route.ttl_s < open_s:
        problem = "messages would expire while their window is open"
        yield Finding(path=(*path, "ttl_s"), problem=problem, allowed=limit)
    if route.deadline_s is not None and route.deadline_s < open_s:
        problem = "messages would be buried while their window is open"
        yield Finding(path=(*path, "deadline_s"), problem=problem, allowed=limit)


def _sparing(path: Path, route: Route) -> Iterator[Finding]:
    if route.mode == "journaled" or route.window is not None:
        problem = "a journaled route puts every message on disk at once: there is nothing to spare"
        yield Finding(path=(*path, "write"), problem=problem, allowed='"always", or a route of mode "direct"')
    elif not route.sinks:
        problem = "the route has no sink: its results never reach the disk"
        yield Finding(path=(*path, "write"), problem=problem, allowed='"always", or `sinks`')
    else:
        problem = (
            f"a power cut loses up to {route.write_max_results} results, or those of {route.write_max_s:g} s, "
            "that no sink has confirmed: set write_max_results and write_max_s to what you accept"
        )
        yield Finding(path=(*path, "write"), problem=problem, is_warning=True)


def _payload(path: Path, payload: Payload) -> Iterator[Finding]:
    for name, text in payload.fields.items():
        yield from _value_path((*path, "fields", name), text)
    for key in ("time", "id"):
        if (text := getattr(payload, key)) is not None:
            yield from _value_path((*path, key), text)
    for index, name in enumerate(payload.optional):
        if name not in payload.fields:
            known = ", ".join(payload.fields) or "`fields` is empty"
            problem = f"`{name}` is not one of `fields`"
            yield Finding(path=(*path, "optional", index), problem=problem, allowed=known)
    for index, name in enumerate(payload.columns):
        if name in payload.columns[:index]:
            yield Finding(path=(*path, "columns", index), problem=f"names the column `{name}` a second time")
    if payload.delimiter in '"\r\n ':
        yield Finding(path=(*path, "delimiter"), problem="a quote, a blank or a line end separates nothing")


def _value_path(path: Path, text: str) -> Iterator[Finding]:
    try:
        compile_path(text)
    except ValueError as failure:
        yield Finding(path=path, problem=str(failure))


def _board(board: Board) -> Iterator[Finding]:
    if board.hot_c is not None and board.cool_c is not None and board.cool_c >= board.hot_c:
        problem = "the board would be hot and cool at once"
        yield Finding(path=("board", "cool_c"), problem=problem, allowed=f"less than hot_c ({board.hot_c:g})")


def _structs(value: Any, path: Path) -> Iterator[tuple[Path, msgspec.Struct]]:
    """Every struct of the tree with its path."""
    if isinstance(value, msgspec.Struct):
        yield path, value
        for name in value.__struct_fields__:
            yield from _structs(getattr(value, name), (*path, name))
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _structs(item, (*path, name))


def _anywhere(path: Path, value: msgspec.Struct) -> Iterator[Finding]:
    if isinstance(value, Secret) and (value.file is None) == (value.env is None):
        problem = "names no place to read the secret from" if value.file is None else "names two places to read from"
        yield Finding(path=path, problem=problem, allowed="one of `file` and `env`")
    if isinstance(value, Reconnect) and value.initial_s > value.max_s:
        problem = f"{value.initial_s:g} is larger than `max_s`"
        yield Finding(path=(*path, "initial_s"), problem=problem, allowed=f"at most {value.max_s:g}")
    if isinstance(value, Models):
        yield from _cores((*path, "worker_cpus"), value.worker_cpus)
    if isinstance(value, Tls):
        yield from _tls(path, value)


def _cores(path: Path, text: str) -> Iterator[Finding]:
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if dash and int(first) > int(last):
            yield Finding(path=path, problem=f"`{part}` counts down", allowed=f'"{last}-{first}"')


def _tls(path: Path, tls: Tls) -> Iterator[Finding]:
    if (tls.cert_file is None) != (tls.key_file is None):
        there, missing = ("key_file", "cert_file") if tls.cert_file is None else ("cert_file", "key_file")
        yield Finding(path=(*path, there), problem=f"`{there}` without `{missing}`", allowed="both or neither")
    if tls.insecure:
        problem = "any certificate is accepted: whoever sits on the line can read and change everything"
        yield Finding(path=(*path, "insecure"), problem=problem, is_warning=True)


def _warnings(config: Config) -> Iterator[Finding]:
    if config.source.adapter == "aiomqtt" and any(route.qos == 1 for route in config.routes.values()):
        problem = "aiomqtt acknowledges before a message is on disk: a crash may lose QoS 1 messages; mqttium does not"
        yield Finding(path=("source", "adapter"), problem=problem, is_warning=True)
    for name, route in config.routes.items():
        if route.when_full == "block":
            problem = (
                "a gateway that stops acknowledging for long harms every publisher on the bus (Mosquitto cuts them off)"
            )
            yield Finding(path=("routes", name, "when_full"), problem=problem, is_warning=True)
        if not route.live and not route.sinks:
            problem = "results go nowhere: neither `live` nor `sinks`"
            yield Finding(path=("routes", name), problem=problem, is_warning=True)
    if config.source.protocol == "3.1.1":
        yield from _overlaps(config)


def _overlaps(config: Config) -> Iterator[Finding]:
    """On 3.1.1 nothing tells the copies apart that a broker may make for overlapping filters."""
    place: dict[str, Path] = {}
    for name, route in config.routes.items():
        for index, topic in enumerate(route.topics if route.enabled else ()):
            if validate_filter(topic) is None:
                place.setdefault(topic, ("routes", name, "topics", index))
    for first, second in plan_subscriptions((topic, 0) for topic in place).overlaps:
        problem = f"`{second}` overlaps `{first}` in part: some brokers deliver what both match twice on MQTT 3.1.1"
        yield Finding(path=place[second], problem=problem, allowed='protocol = "5"', is_warning=True)
