"""An AsyncAPI 3.0 document of what a config makes a gateway say and hear. Pure; the same config gives the same bytes.

Servers are the local bus and the sinks, channels the topics; dead letters and the journal are on no wire, so they are
not here. Source of the format: AsyncAPI 3.0.0, its MQTT bindings 0.2.0 and HTTP bindings 0.3.0.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from gatewayd import __version__
from gatewayd.config import schema
from gatewayd.events import BATCH_CONTENT_TYPE, DATA_CONTENT_TYPE, EVENT_CONTENT_TYPE, SPEC_VERSION, TYPE_PREFIX
from gatewayd.homeassistant.discovery import discovery_topic, health_topic
from gatewayd.listening import command_topic
from gatewayd.mqtt.connect import client_id
from gatewayd.routing import plain_filter

Table = dict[str, Any]

VERSION = "3.0.0"
_MQTT, _HTTP = "0.2.0", "0.3.0"  # versions of the bindings
_PAYLOADS: Mapping[str, tuple[str, Table]] = {  # content type and schema of what comes in, by `payload.format`
    "auto": ("application/octet-stream", {"description": "JSON, a number, or UTF-8 text."}),
    "json": ("application/json", {"description": "Any JSON value."}),
    "text": ("text/plain", {"type": "string"}),
    "number": ("text/plain", {"type": "number"}),
    "cbor": ("application/cbor", {"description": "Any CBOR value that has a form as JSON."}),
    "msgpack": ("application/msgpack", {"description": "Any MessagePack value that has a form as JSON."}),
    "csv": ("text/csv", {"type": "string", "description": "One line."}),
    "sparkplug": ("application/octet-stream", {"description": "A Sparkplug B payload (protobuf)."}),
}


def document(config: schema.Config, gateway: str) -> Table:
    """The document, in the order in which it is written."""
    channels: Table = {}
    operations: Table = {}
    for name, channel, operation in _all(config, gateway):
        channels[name] = channel
        operations[name] = {
            **operation,
            "channel": {"$ref": f"#/channels/{name}"},
            "messages": [{"$ref": f"#/channels/{name}/messages/{one}"} for one in channel["messages"]],
        }
    return {
        "asyncapi": VERSION,
        "info": {
            "title": f"gatewayd {gateway}",
            "version": __version__,
            "description": "What this gateway hears and says, made from its config by `gatewayd asyncapi`.",
        },
        "defaultContentType": DATA_CONTENT_TYPE,
        "servers": {"bus": _bus(config, gateway), **{f"sink_{n}": _far(s) for n, s in _remote_sinks(config).items()}},
        "channels": channels,
        "operations": operations,
        "components": {"messages": _messages(config), "schemas": _schemas(gateway)},
    }


def _all(config: schema.Config, gateway: str) -> Iterator[tuple[str, Table, Table]]:
    """Each channel with its name and its operation."""
    routes = {name: route for name, route in config.routes.items() if route.enabled}
    for name, route in routes.items():
        for number, topic in enumerate(route.topics, start=1):
            yield _heard(name, number, topic, route)
    result = "event" if config.source.protocol == "3.1.1" else "result"
    for name, route in routes.items():
        if route.live:
            topic = f"gatewayd/{gateway}/results/{name}"
            summary = f"Live results of route {name}"
            yield _said(f"results_{name}", topic, result, summary, qos=int(route.live_qos), retain=False)
    if config.source.status_topic:
        yield _said(
            "status", f"gatewayd/{gateway}/status", "status", "Whether the gateway is there", qos=1, retain=True
        )
    if config.homeassistant.enabled:
        yield from _home_assistant(config, gateway)
    for name, sink in _remote_sinks(config).items():
        fed = [one for one, route in routes.items() if name in route.sinks]
        yield _delivered(name, sink, gateway, fed)


def _remote_sinks(config: schema.Config) -> dict[str, schema.HttpSink | schema.MqttSink]:
    return {name: sink for name, sink in config.sinks.items() if not isinstance(sink, schema.FileSink)}


def _bus(config: schema.Config, gateway: str) -> Table:
    source = config.source
    binding: Table = {"clientId": client_id(source, gateway), "cleanSession": False, "keepAlive": source.keepalive_s}
    if source.status_topic:
        will = {"topic": f"gatewayd/{gateway}/status", "qos": 1, "message": '{"state":"offline"}', "retain": True}
        binding["lastWill"] = will
    if source.protocol == "5":
        binding["sessionExpiryInterval"] = source.session_expiry_s
    return _broker(source, "The local bus.", binding)


def _broker(broker: schema.Broker, words: str, binding: Table) -> Table:
    return {
        "host": broker.unix_socket or f"{broker.host}:{broker.port}",
        "protocol": "secure-mqtt" if broker.tls is not None and not broker.unix_socket else "mqtt",
        "protocolVersion": "5.0" if broker.protocol == "5" else "3.1.1",
        "description": words,
        "bindings": {"mqtt": {**binding, "bindingVersion": _MQTT}},
    }


def _far(sink: schema.HttpSink | schema.MqttSink) -> Table:
    if isinstance(sink, schema.MqttSink):
        return _broker(sink, "Takes results: an MQTT broker.", {"keepAlive": sink.keepalive_s})
    url = urlsplit(sink.url)
    host = url.netloc.rpartition("@")[2]  # a password in an address stays out
    return {"host": host, "protocol": url.scheme, "description": "Takes results: CloudEvents batches by HTTP POST."}


def _heard(name: str, number: int, topic: str, route: schema.Route) -> tuple[str, Table, Table]:
    address, parameters = _address(plain_filter(topic))
    message = f"payload_{route.payload.format}"
    channel = _channel(address, message, "bus", parameters, f"Topic filter `{topic}` of route {name}.")
    words = f"What route {name} ({route.handler or ' → '.join(route.tiers)}) handles"
    operation = {"action": "receive", "summary": words, "bindings": _mqtt(qos=int(route.qos))}
    return f"heard_{name}_{number}", channel, operation


def _said(name: str, topic: str, message: str, words: str, *, qos: int, retain: bool) -> tuple[str, Table, Table]:
    channel = _channel(topic, message, "bus", {}, words + ".")
    return name, channel, {"action": "send", "summary": words, "bindings": _mqtt(qos=qos, retain=retain)}


def _home_assistant(config: schema.Config, gateway: str) -> Iterator[tuple[str, Table, Table]]:
    topic = discovery_topic(config, gateway)
    words = "Home Assistant discovery"
    yield _said("discovery", topic, "discovery", words, qos=1, retain=True)
    yield _said("health", health_topic(gateway), "health", "The gateway's health", qos=1, retain=True)
    if config.homeassistant.commands:
        parameters = {"command": {"description": "reload, close_windows, or routes/<route>/live with ON or OFF."}}
        address = f"{command_topic(gateway)}{{command}}"
        channel = _channel(address, "command", "bus", parameters, "Commands to this gateway.")
        yield "commands", channel, {"action": "receive", "summary": "Commands", "bindings": _mqtt(qos=0)}


def _delivered(
    name: str, sink: schema.HttpSink | schema.MqttSink, gateway: str, routes: Sequence[str]
) -> tuple[str, Table, Table]:
    words = f"Results for sink {name}"
    server = f"sink_{name}"
    if isinstance(sink, schema.HttpSink):
        url = urlsplit(sink.url)
        channel = _channel(url.path or "/", "event_batch", server, {}, f"{words}.")
        binding: Table = {"http": {"method": "POST", "bindingVersion": _HTTP}}
        return server, channel, {"action": "send", "summary": words, "bindings": binding}
    address = sink.topic.replace("{gateway}", gateway)
    known: Table = {"route": {"description": "Of the result."}, "kind": {"description": "Of the result."}}
    if routes:
        known["route"]["enum"] = list(routes)
    parameters = {one: known[one] for one in re.findall(r"\{(route|kind)\}", address)}
    message = "result" if sink.protocol == "5" else "event"
    channel = _channel(address, message, server, parameters, f"{words}.")
    return server, channel, {"action": "send", "summary": words, "bindings": _mqtt(qos=1, retain=False)}


def _channel(address: str, message: str, server: str, parameters: Table, words: str) -> Table:
    channel: Table = {
        "address": address,
        "description": words,
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
        "servers": [{"$ref": f"#/servers/{server}"}],
    }
    return {**channel, "parameters": parameters} if parameters else channel


def _mqtt(**binding: Any) -> Table:
    return {"mqtt": {**binding, "bindingVersion": _MQTT}}


def _address(topic: str) -> tuple[str, Table]:
    """A topic filter as an address: each wildcard is a parameter."""
    levels: list[str] = []
    parameters: Table = {}
    for number, level in enumerate(topic.split("/"), start=1):
        if level not in ("+", "#"):
            levels.append(level)
            continue
        name = f"level{number}" if level == "+" else "rest"
        words = "One level." if level == "+" else "Any number of levels, none too."
        levels.append(f"{{{name}}}")
        parameters[name] = {"description": words}
    return "/".join(levels), parameters


def _messages(config: schema.Config) -> Table:
    formats = sorted({route.payload.format for route in config.routes.values() if route.enabled})
    heard: Table = {
        f"payload_{one}": {"contentType": _PAYLOADS[one][0], "payload": dict(_PAYLOADS[one][1])} for one in formats
    }
    own: Table = {
        "result": {
            "summary": "A CloudEvent in binary mode: its attributes are MQTT 5 user properties.",
            "contentType": DATA_CONTENT_TYPE,
            "headers": {"$ref": "#/components/schemas/attributes"},
            "payload": {"$ref": "#/components/schemas/result"},
        },
        "event": {
            "summary": "A CloudEvent in structured mode.",
            "contentType": EVENT_CONTENT_TYPE,
            "payload": {"$ref": "#/components/schemas/event"},
        },
        "event_batch": {
            "summary": "CloudEvents in batch mode; gzip above a size.",
            "contentType": BATCH_CONTENT_TYPE,
            "payload": {"type": "array", "items": {"$ref": "#/components/schemas/event"}},
        },
        "status": {"contentType": DATA_CONTENT_TYPE, "payload": {"$ref": "#/components/schemas/status"}},
        "health": {"contentType": DATA_CONTENT_TYPE, "payload": {"type": "object"}},
        "discovery": {"contentType": DATA_CONTENT_TYPE, "payload": {"type": "object"}},
        "command": {"contentType": "text/plain", "payload": {"type": "string"}},
    }
    return {**heard, **own}


def _schemas(gateway: str) -> Table:
    text, number, whole = {"type": "string"}, {"type": "number"}, {"type": "integer"}
    attributes: Table = {
        "specversion": {"const": SPEC_VERSION},
        "id": {"type": "string", "description": "With `source` the same for ever: tells copies apart."},
        "source": {"type": "string", "pattern": f"^/gateways/{re.escape(gateway)}/routes/[^/]+$"},
        "type": {"type": "string", "pattern": "^" + re.escape(TYPE_PREFIX)},
        "subject": {"type": "string", "description": "The message's topic, or the window's key."},
        "time": {"type": "string", "format": "date-time"},
        "traceparent": text,
        "clockquality": {"enum": ["unsynced", "corrected"]},
    }
    required = ["specversion", "id", "source", "type"]
    result: Table = {
        "label": text,
        "score": number,
        "scores": {"type": "object", "additionalProperties": number},
        "model": text,
        "model_version": text,
        "tier": text,
        "provisional": {"type": "boolean"},
        "latency_ms": number,
        "input": {"description": "The message, where the route has `include_input`."},
        "summary": {"type": ["object", "string"]},
        "tokens_in": whole,
        "tokens_out": whole,
        "window_start": number,
        "window_end": number,
        "messages": whole,
        "late": whole,
    }
    event = {**attributes, "datacontenttype": {"const": DATA_CONTENT_TYPE}, "data": {"$ref": _RESULT}}
    return {
        "attributes": {"type": "object", "required": required, "properties": attributes},
        "result": {"type": "object", "properties": result, "description": "Handlers may add fields of their own."},
        "event": {"type": "object", "required": required, "properties": event},
        "status": {
            "type": "object",
            "required": ["state"],
            "properties": {
                "state": {"enum": ["online", "offline"]},
                "gateway": text,
                "version": text,
                "routes": {"type": "array", "items": text},
                "since": {"type": "string", "format": "date-time"},
            },
        },
    }


_RESULT = "#/components/schemas/result"
