"""The local page is never open by accident: an address beyond loopback needs a token or client certificates. Pure."""

import ipaddress
from collections.abc import Iterator

from gatewayd.config.walk import Finding
from gatewayd.config.web import Web


def check_web(web: Web) -> Iterator[Finding]:
    """Findings about `[web]`."""
    if not web.enabled or is_loopback(web.host):
        return
    if not is_guarded(web):
        problem = (
            "is no loopback address: whoever reaches this port would read results, topics and metrics, and could purge "
            "dead letters"
        )
        allowed = "127.0.0.1, or any address with `token` or `tls.client_ca_file`"
        yield Finding(path=("web", "host"), problem=problem, allowed=allowed)
    elif web.tls is None:
        problem = "token and data go over the network in clear: whoever listens on the line has both"
        yield Finding(path=("web", "token"), problem=problem, allowed="[web.tls] beside it", is_warning=True)


def is_guarded(web: Web) -> bool:
    """Whether only those get in who show that they may."""
    return web.token is not None or (web.tls is not None and web.tls.client_ca_file is not None)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
