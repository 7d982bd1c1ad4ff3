"""What every connection to an MQTT broker has in common, whichever client library makes it."""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from gatewayd.config import schema
from gatewayd.errors import ConfigError

OnEvent = Callable[[str, Mapping[str, object]], None]

# The largest packet MQTT has (MQTT 5, 2.1.4). No smaller limit is announced: the broker would throw larger messages
# away without a word, and nobody would count them. Intake buries what is above `max_payload_bytes`.
MAX_PACKET_BYTES = 268_435_460

# Refusals that an operator mends, not time (MQTT 5, 3.2.2.2; MQTT 3.1.1, 3.2.2.3).
_HINTS_V5 = {
    0x84: "the broker does not speak this MQTT version: set `protocol`",
    0x85: "the broker does not take this client id: set `client_id`",
    0x86: "user name or password is wrong: set `username` and `password`",
    0x87: "the broker does not let this user connect: see its access rules, `username` and `password`",
    0x8A: "the broker has banned this client",
    0x8C: "the broker wants another authentication method",
    0x8E: "another client uses our client id: give each gateway its own `client_id` or gateway id",
}
_HINTS_V311 = {
    1: _HINTS_V5[0x84],
    2: _HINTS_V5[0x85],
    4: _HINTS_V5[0x86],
    5: _HINTS_V5[0x87],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The retained birth and the Last Will on `gatewayd/<gateway>/status`."""

    topic: str
    birth: Callable[[], bytes]
    offline: bytes = b'{"state":"offline"}'


def ignore_event(_name: str, _attributes: Mapping[str, object]) -> None:
    """Report nothing: the default of `on_event`."""


def status(config: schema.Source, gateway: str, birth: Callable[[], bytes]) -> Status | None:
    """None when the config wants no status."""
    return Status(topic=f"gatewayd/{gateway}/status", birth=birth) if config.status_topic else None


def plain_birth() -> bytes:
    """A birth that says no more than that we are there."""
    return msgspec.json.encode({"state": "online"})


def client_id(config: schema.Broker, gateway: str, suffix: str = "") -> str:
    """The stable client id under which the broker keeps our mqtt_session."""
    return config.client_id or f"gatewayd-{gateway}{suffix}"


def shared_filter(config: schema.Source, topic_filter: str) -> str:
    """The filter as it is subscribed: within the shared subscription group when there is one (MQTT 5, 4.8.2)."""
    return f"$share/{config.share_group}/{topic_filter}" if config.share_group else topic_filter


def hint(protocol: str, reason_code: int | None) -> str:
    """What an operator has to do about a refusal, or "" when time alone may mend it."""
    if reason_code is None:
        return ""
    return (_HINTS_V5 if protocol == "5" else _HINTS_V311).get(reason_code, "")


def stop_if_cancelled() -> None:
    """Raise CancelledError when the current task was asked to end and a library swallowed it.

    Python 3.11's `asyncio.wait_for` returns a result that arrives together with the cancellation (fixed in 3.12), and
    aiomqtt replaces a cancellation by its own error when the goodbye fails.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def tls_context(tls: schema.Tls | None, key: str) -> ssl.SSLContext | None:
    """The TLS settings, or None for none. Raises ConfigError when a file is missing or no use.

    Args:
        key: dotted config key of the table, for the error.
    """
    if tls is None:
        return None
    context = _context(tls)
    try:
        if tls.ca_file is not None:
            context.load_verify_locations(cafile=tls.ca_file)
        else:
            context.load_default_certs()
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(f"{key}.ca_file", f"{tls.ca_file}: {exc}") from exc
    try:
        if tls.cert_file is not None:
            context.load_cert_chain(tls.cert_file, tls.key_file)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(f"{key}.cert_file", f"{tls.cert_file}: {exc}") from exc
    return context


class _NamedContext(ssl.SSLContext):
    """A context that asks for a name of its own choice, not for the host's: client libraries pass the host."""

    server_name: str = ""

    def wrap_bio(self, incoming: Any, outgoing: Any, **options: Any) -> ssl.SSLObject:  # type: ignore[override]
        return super().wrap_bio(incoming, outgoing, **{**options, "server_hostname": self.server_name})

    def wrap_socket(self, sock: Any, **options: Any) -> ssl.SSLSocket:  # type: ignore[override]
        return super().wrap_socket(sock, **{**options, "server_hostname": self.server_name})


def _context(tls: schema.Tls) -> ssl.SSLContext:
    context = _NamedContext(ssl.PROTOCOL_TLS_CLIENT) if tls.server_name else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if isinstance(context, _NamedContext):
        context.server_name = tls.server_name or ""
    if tls.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
