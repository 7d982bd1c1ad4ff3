"""Config of the local page and its HTTP endpoints: where they listen, who may look, how much is kept for them."""

# ruff: noqa: E501 - a description is one sentence on one line, so that it reads as prose

from typing import Annotated

from msgspec import Meta

from gatewayd.config.links import Secret, Section


class WebTls(Section, frozen=True):
    """HTTPS for the page; with `client_ca_file` only for those who show a certificate (mutual TLS)."""

    cert_file: Annotated[str, Meta(description="PEM file of the page's certificate chain.")]
    key_file: Annotated[str, Meta(description="PEM file of its private key.")]
    client_ca_file: Annotated[
        str | None,
        Meta(
            description="PEM file of the authorities whose client certificates are let in, all others are turned away. Unset: no client certificate is asked for."
        ),
    ] = None


class Web(Section, frozen=True):
    """The local page, and the HTTP endpoints beside it: /flow, /status, /books, /metrics, /healthz, /readyz."""

    enabled: Annotated[bool, Meta(description="false: no HTTP at all.")] = True
    host: Annotated[
        str,
        Meta(
            description="Address to listen on. Anything but loopback shows your data to the network, and needs `token` or `tls.client_ca_file`."
        ),
    ] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="Port to listen on. 0: any free one.")] = 8686
    token: Annotated[
        Secret | None,
        Meta(
            description="Who knows it may look and change: `Authorization: Bearer`, or the page's login. At least 16 characters. Unset: everybody who reaches the port. /healthz and /readyz stay open."
        ),
    ] = None
    tls: Annotated[WebTls | None, Meta(description="HTTPS; the table's presence switches it on.")] = None
    session_s: Annotated[
        float, Meta(ge=60, le=31536000, description="How long a login on the page lasts, in seconds.")
    ] = 43200.0
    max_failed_logins: Annotated[
        int,
        Meta(
            ge=1,
            le=1000,
            description="Wrong tokens from one address within a minute; beyond, that address waits (counted).",
        ),
    ] = 10
    max_changes: Annotated[
        int,
        Meta(
            ge=0,
            le=1000,
            description="Dead letters requeued or purged over the page: requests within a minute. 0: none are allowed.",
        ),
    ] = 30
    max_body_bytes: Annotated[int, Meta(ge=1024, le=1048576, description="Largest body of a request, in bytes.")] = (
        65536
    )
    max_listeners: Annotated[
        int, Meta(ge=1, le=100, description="Pages and commands that follow the flow (/flow/events) at once.")
    ] = 8
    flow_every_s: Annotated[
        float, Meta(ge=0.2, le=60, description="How often those who follow get a new picture, in seconds.")
    ] = 1.0
    max_results_per_s: Annotated[
        int,
        Meta(
            ge=1,
            le=1000,
            description="Results a second that are sent to each of those who follow; how many were left out is said.",
        ),
    ] = 20
    max_results: Annotated[int, Meta(ge=1, le=1000, description="Latest results kept of each route, in memory.")] = 20
    history_s: Annotated[
        float, Meta(ge=10, le=3600, description="How far the charts go back, in seconds; a point is 5.")
    ] = 300.0
    max_log_lines: Annotated[
        int, Meta(ge=1, le=10000, description="Latest log lines kept for the page, in memory.")
    ] = 200
