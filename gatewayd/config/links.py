"""Config of connections: what every adapter that talks to a broker or a cloud needs.

Nothing here names a secret's value: a `Secret` says where the value lies.
"""

# ruff: noqa: E501 - a description is one sentence on one line, so that it reads as prose

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, field


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of config.toml."""


class Secret(Section, frozen=True):
    """A value that is never in config.toml: read from a file (`$CREDENTIALS_DIRECTORY` first) or the environment."""

    file: Annotated[
        str | None,
        Meta(
            description="File that holds the secret. A bare name is looked up in $CREDENTIALS_DIRECTORY, then beside config.toml."
        ),
    ] = None
    env: Annotated[str | None, Meta(description="Environment variable that holds the secret.")] = None


class Tls(Section, frozen=True):
    """Transport security towards a broker or a cloud."""

    ca_file: Annotated[
        str | None, Meta(description="PEM file of the certificate authorities to trust. Unset: the system's.")
    ] = None
    cert_file: Annotated[str | None, Meta(description="PEM file of our own certificate chain (mutual TLS).")] = None
    key_file: Annotated[str | None, Meta(description="PEM file of our own private key (mutual TLS).")] = None
    server_name: Annotated[
        str | None, Meta(description="Name the far side's certificate must carry, when it is not the host's.")
    ] = None
    insecure: Annotated[
        bool, Meta(description="Accept any certificate. For a bench, never for a gateway in the field.")
    ] = False


class Reconnect(Section, frozen=True):
    """How to come back after the connection was lost. The delay is drawn from 0 to the current ceiling (full jitter)."""

    initial_s: Annotated[float, Meta(gt=0, le=60, description="Ceiling of the first delay, in seconds.")] = 1.0
    max_s: Annotated[float, Meta(gt=0, le=3600, description="Highest ceiling of a delay, in seconds.")] = 60.0
    stable_s: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="A connection must last this long, in seconds, before the ceiling goes back to the first.",
        ),
    ] = 30.0


class Broker(Section, frozen=True):
    """How to reach an MQTT broker."""

    host: Annotated[str, Meta(description="Host name or address of the broker.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535, description="TCP port: 1883 is usual, 8883 with TLS.")] = 1883
    unix_socket: Annotated[str | None, Meta(description="Path of a Unix socket to use instead of host and port.")] = (
        None
    )
    protocol: Annotated[
        Literal["5", "3.1.1"],
        Meta(description="MQTT version. 3.1.1 has no user properties: no trace context, no content type."),
    ] = "5"
    username: Annotated[str | None, Meta(description="User name, where the broker wants one.")] = None
    password: Annotated[Secret | None, Meta(description="Password, from a file or the environment.")] = None
    client_id: Annotated[
        str,
        Meta(
            max_length=128,
            description="Stable MQTT client id; the broker keeps our mqtt_session under it. Empty: gatewayd-<gateway>.",
        ),
    ] = ""
    keepalive_s: Annotated[
        int,
        Meta(
            ge=2,
            le=3600,
            description="Seconds of silence after which a ping is due; half as long again without an answer and the link counts as dead.",
        ),
    ] = 20
    connect_timeout_s: Annotated[
        float, Meta(gt=0, le=300, description="How long a connection attempt may take, in seconds.")
    ] = 15.0
    session_expiry_s: Annotated[
        int,
        Meta(
            ge=0,
            le=4294967295,
            description="How long the broker keeps our mqtt_session while we are away, in seconds (MQTT 5).",
        ),
    ] = 604800
    tls: Annotated[Tls | None, Meta(description="Transport security; the table's presence switches it on.")] = None
    reconnect: Reconnect = field(default_factory=Reconnect)


class Source(Broker, frozen=True):
    """The local bus: where messages come from and live results go."""

    adapter: Annotated[
        Literal["mqttium", "aiomqtt"],
        Meta(
            description="MQTT client. aiomqtt acknowledges before our code runs: a crash may lose what was in flight."
        ),
    ] = "mqttium"
    publish_wait_ms: Annotated[
        float,
        Meta(
            ge=0,
            le=10_000,
            description="A live result waits so long for room on its way to the broker, a burst being larger than what that holds; then it is counted (gatewayd_live_failed_total), and those after it wait no more until there is room. In milliseconds.",
        ),
    ] = 1000.0
    share_group: Annotated[
        Annotated[str, Meta(pattern=r"^[^/+#]+\Z")] | None,
        Meta(
            description="Shared subscription group ($share/<group>/…): several gatewayds with the same group split the load.",
        ),
    ] = None
    max_payload_bytes: Annotated[
        int,
        Meta(ge=1, le=268435455, description="Larger payloads become dead letters (their first bytes kept), in bytes."),
    ] = 1048576
    max_waiting_messages: Annotated[
        int,
        Meta(
            ge=1,
            le=1000000,
            description="Messages read from the socket and not yet taken by intake. When full, the socket is left unread.",
        ),
    ] = 4096
    max_waiting_bytes: Annotated[int, Meta(ge=1024, description="The same, in bytes of payload.")] = 16777216
    status_topic: Annotated[
        bool, Meta(description="Publish a retained birth and set a retained Last Will on gatewayd/<gateway>/status.")
    ] = True
