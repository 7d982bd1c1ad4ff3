"""A short visit to a broker, for commands: connect as a guest, subscribe, take a few messages, leave nothing behind.

Invariant: the client id is one of a kind and the mqtt_session ends with the visit, so neither a running daemon nor
what waits for it is touched. A visit is bounded by time, by messages and by bytes.
"""

import asyncio
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mqttium import ConnectRefusedError, MQTTError, MQTTProtocolVersion, QoS, SubscribeError
from mqttium.api import AsyncClient
from mqttium.packets import ConnAckPacket, SubscribeOptions
from mqttium.types import Message, Properties

from gatewayd.config import schema
from gatewayd.mqtt import connect
from gatewayd.ports import RawMessage

_MAX_QUEUE = 64  # messages between the client's reader and us
_TAKEOVER_S = 30  # how long the broker is asked to keep the session of `keeps_sessions`, in seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a visit may take, at most."""

    seconds: float
    max_messages: int = 50_000  # heard; then it is over
    max_kept_per_topic: int = 50
    max_topics: int = 2000
    max_bytes: int = 4_194_304  # of payloads kept


@dataclass(slots=True)
class Visit:
    """What a visit found. `problem` is empty when the broker let us in."""

    problem: str = ""
    hint: str = ""
    reason_code: int | None = None  # of a refusal, as in CONNACK
    connack: Properties = field(default_factory=Properties)
    granted: dict[str, int] = field(default_factory=dict)  # SUBACK's code of each filter, in order
    messages: list[RawMessage] = field(default_factory=list)  # those kept
    counts: dict[str, int] = field(default_factory=dict)  # messages heard of each topic, retained ones left out
    n_heard: int = 0
    n_bytes: int = 0  # kept
    seconds: float = 0.0  # how long we listened
    ended_by: str = "time"  # or "messages", "connection"


async def visit(
    broker: schema.Broker,
    password: str | None,
    filters: Sequence[tuple[str, int]],
    bounds: Bounds,
    *,
    retained: bool = True,
) -> Visit:
    """Subscribe to `filters` (each with its QoS) and listen. Raises ConfigError for TLS files that are no use."""
    found = Visit()
    client = _client(broker, password)
    connack = await _open(client, broker, found)
    if connack is None:
        return found
    found.connack = connack.properties or Properties()
    try:
        for name, qos in filters:
            found.granted[name] = await _subscribe(client, broker, name, qos, retained=retained)
        await _listen(client, bounds, found)
    except MQTTError as error:
        found.problem = f"the connection broke: {error or type(error).__name__}"
        found.hint = "see the broker's log; its access rules may forbid a filter and end the connection"
    finally:
        await client.disconnect()
    return found


async def keeps_sessions(broker: schema.Broker, password: str | None) -> bool | None:
    """Whether the broker still knows a mqtt_session after its client went and came back; None: not tried."""
    name = _guest_name()
    kept: list[bool] = []
    for clean, expiry_s in ((True, _TAKEOVER_S), (False, 0)):
        client = _client(broker, password, name=name, clean=clean, expiry_s=expiry_s)
        connack = await _open(client, broker, Visit())
        if connack is None:
            return None
        if clean:  # a session without a subscription may be forgotten
            try:
                await _subscribe(client, broker, f"gatewayd/guests/{name}", 1, retained=False)
            except MQTTError:
                return None
        kept.append(connack.session_present)
        await client.disconnect()
    if broker.protocol != "5":  # 3.1.1 has no expiry: a session ends when its client comes back clean
        client = _client(broker, password, name=name)
        if await _open(client, broker, Visit()) is not None:
            await client.disconnect()
    return kept[1]


def _guest_name() -> str:
    return f"gatewayd-guest-{secrets.token_hex(5)}"  # 25 letters: 3.1.1 promises 23, every broker of today takes more


def _client(
    broker: schema.Broker, password: str | None, *, name: str = "", clean: bool = True, expiry_s: int = 0
) -> AsyncClient:
    is_v5 = broker.protocol == "5"
    return AsyncClient(
        name or _guest_name(),
        protocol=MQTTProtocolVersion.MQTTv5 if is_v5 else MQTTProtocolVersion.MQTTv311,
        clean_start=clean,
        keepalive=broker.keepalive_s,
        username=broker.username,
        password=password,
        connect_properties=Properties({"session_expiry_interval": expiry_s}) if is_v5 else None,
        maximum_packet_size=connect.MAX_PACKET_BYTES,
        max_iterator_messages=_MAX_QUEUE,
        max_iterator_bytes=None,
    )


async def _open(client: AsyncClient, broker: schema.Broker, found: Visit) -> ConnAckPacket | None:
    tls = connect.tls_context(broker.tls, "source.tls")
    where = broker.unix_socket or f"{broker.host}:{broker.port}"
    try:
        if broker.unix_socket:
            return await client.connect_unix(broker.unix_socket, timeout=broker.connect_timeout_s)
        return await client.connect(broker.host, broker.port, ssl=tls, timeout=broker.connect_timeout_s)
    except ConnectRefusedError as error:
        found.reason_code = error.reason_code
        found.hint = connect.hint(broker.protocol, error.reason_code)
        found.problem = f"{where} refuses the connection, reason code 0x{error.reason_code:02x}"
    except UnicodeError:
        found.problem, found.hint = f"{broker.host!r} is no host name", "set source.host"
    except (MQTTError, OSError) as error:
        cause = error.__cause__ if isinstance(error, MQTTError) and error.__cause__ is not None else error
        found.problem = f"{where}: {_words(cause)}"
        found.hint = _away_hint(cause, broker)
    return None


def _words(error: BaseException) -> str:
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not hold: {error.verify_message}"
    if isinstance(error, OSError) and (error.errno or 0) > 0:  # asyncio writes its own words into strerror
        return os.strerror(error.errno or 0)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or "no answer in time"


def _away_hint(error: BaseException, broker: schema.Broker) -> str:
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            "set source.tls.ca_file to the authority that signed it, or source.tls.server_name to the name it carries"
        )
    if isinstance(error, ssl.SSLError):
        return (
            "does the broker speak TLS on this port? 8883 is usual with TLS, 1883 without ([source.tls] switches it on)"
        )
    if broker.tls is None and isinstance(error, ConnectionResetError):
        return "does the broker want TLS on this port? then the config needs [source.tls]"
    return "is Mosquitto running? does it listen there?"


async def _subscribe(client: AsyncClient, broker: schema.Broker, name: str, qos: int, *, retained: bool) -> int:
    """The broker's code: the QoS granted, or 0x80 and above for a refusal."""
    wish: Any = qos
    if broker.protocol == "5":
        wish = SubscribeOptions(qos=QoS(qos), retain_handling=0 if retained else 2)
    try:
        result = await client.subscribe([(name, wish)], timeout=broker.connect_timeout_s)
    except SubscribeError as error:
        result = error.result
    return int(result.reason_codes[0])


async def _listen(client: AsyncClient, bounds: Bounds, found: Visit) -> None:
    began_s = time.monotonic()
    kept: dict[str, int] = {}
    try:
        async with asyncio.timeout(bounds.seconds):
            async for message in client.messages():
                _take(message, bounds, found, kept)
                if found.n_heard >= bounds.max_messages:
                    found.ended_by = "messages"
                    break
            else:
                found.ended_by = "connection"
                found.problem = "the broker ended the connection while we listened"
                found.hint = "see the broker's log"
    except TimeoutError:
        found.ended_by = "time"
    found.seconds = time.monotonic() - began_s


def _take(message: Message, bounds: Bounds, found: Visit, kept: dict[str, int]) -> None:
    topic = message.topic
    found.n_heard += 1
    if topic not in kept and len(kept) >= bounds.max_topics:
        return
    kept.setdefault(topic, 0)
    if not message.retain:
        found.counts[topic] = found.counts.get(topic, 0) + 1
    n_bytes = found.n_bytes + len(message.payload)
    if kept[topic] < bounds.max_kept_per_topic and n_bytes <= bounds.max_bytes:
        kept[topic] += 1
        found.n_bytes = n_bytes
        found.messages.append(_raw(message, len(found.messages)))


def _raw(message: Message, number: int) -> RawMessage:
    properties = message.properties or Properties()
    return RawMessage(
        topic=message.topic,
        payload=message.payload,
        time=time.time(),
        key=f"guest-{number}",
        qos=int(message.qos),
        retain=message.retain,
        content_type=properties.get("content_type", ""),
        properties=tuple(properties.get("user_property", ())),
    )


# SUBACK's reason codes: MQTT 5.0, 3.9.3; 3.1.1 knows 0x80 alone.
_REFUSALS = {
    0x80: ("refused, no reason given", "see the broker's log and its access rules"),
    0x83: ("refused by the broker's own rules", "see the broker's log"),
    0x87: ("not authorized", "give this user read access to it: acl_file or the dynamic security plugin in Mosquitto"),
    0x8F: ("the broker does not take this filter", "write the filter as MQTT wants it"),
    0x91: ("packet identifier in use", "try again"),
    0x97: ("over the broker's quota", "raise the broker's limit of subscriptions"),
    0x9E: ("the broker has no shared subscriptions", "remove source.share_group or $share/ from the filter"),
    0xA1: ("the broker has no subscription identifiers", "nothing: the daemon does without"),
    0xA2: ("the broker has no wildcard subscriptions", "name each topic"),
}


def refusal(code: int) -> tuple[str, str]:
    """What a SUBACK code from 0x80 on says, and what to do."""
    words, hint = _REFUSALS.get(code, ("refused", "see the broker's log"))
    return f"{words} (reason code 0x{code:02x})", hint
