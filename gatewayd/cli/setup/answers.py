"""The five answers of `gatewayd init`, parsed: what a person types into tables of the config. Pure."""

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from gatewayd.errors import GatewaydError

_GATEWAY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PORTS = {"mqtt": 1883, "mqtts": 8883}


class AnswerError(GatewaydError):
    """An answer that cannot be used: it is asked again, or, given as an option, ends the command."""


@dataclass(frozen=True, slots=True)
class BrokerAnswer:
    """Where the broker is, from `[mqtt[s]://][user@]host[:port]` or the path of a Unix socket."""

    host: str = "127.0.0.1"
    port: int = 1883
    username: str = ""
    has_tls: bool = False
    unix_socket: str = ""

    def __str__(self) -> str:
        """As it is typed."""
        if self.unix_socket:
            return self.unix_socket
        user = f"{self.username}@" if self.username else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.has_tls else 'mqtt'}://{user}{host}:{self.port}"


def gateway_answer(text: str) -> str:
    """The gateway's id. Raises AnswerError."""
    text = text.strip()
    if not _GATEWAY.fullmatch(text):
        raise AnswerError(f"{text!r} is no gateway id: letters, digits, . _ -, the first a letter or digit, at most 64")
    return text


def broker_answer(text: str) -> BrokerAnswer:
    """Raises AnswerError."""
    text = text.strip()
    if text.startswith("/"):
        return BrokerAnswer(unix_socket=text)
    url = text if "://" in text else f"mqtt://{text}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise AnswerError(f"{text!r} is no broker: {error}") from None
    if parts.scheme not in _PORTS:
        raise AnswerError(f"{text!r}: a broker is mqtt://host:1883, or mqtts://host:8883 with TLS")
    if parts.password is not None:
        raise AnswerError("leave the password out of the address: it is asked for, or give --password-file")
    if not parts.hostname or not re.fullmatch(r"[A-Za-z0-9._:%-]+", parts.hostname) or port == 0:
        raise AnswerError(f"{text!r} names no host")
    has_tls = parts.scheme == "mqtts" or port == _PORTS["mqtts"]
    default = _PORTS["mqtts" if has_tls else "mqtt"]
    return BrokerAnswer(parts.hostname, default if port is None else port, unquote(parts.username or ""), has_tls)


def sink_answer(text: str) -> dict[str, Any]:
    """The table of a sink; empty for none. Raises AnswerError."""
    text = text.strip()
    if text in ("none", "local", "-", ""):
        return {}
    if text == "file":
        return {"type": "file", "path": "results.ndjson"}
    if text.startswith(("mqtt://", "mqtts://")):
        broker = broker_answer(text.rstrip("/"))
        found: dict[str, Any] = {"type": "mqtt", "host": broker.host, "port": broker.port}
        return (
            found | ({"username": broker.username} if broker.username else {}) | ({"tls": {}} if broker.has_tls else {})
        )
    if re.fullmatch(r"https?://[^\s/]+\S*", text):
        if "@" in urlsplit(text).netloc:
            raise AnswerError("leave user and password out of the URL: the config's `token` names a file for them")
        return {"type": "http", "url": text}
    if text.startswith("file:") or "/" in text or text.endswith((".ndjson", ".json", ".log")):
        return {"type": "file", "path": text.removeprefix("file:") or "results.ndjson"}
    raise AnswerError(f"{text!r}: results go to `file`, to http(s)://…, to mqtt(s)://…, or to `none`")
