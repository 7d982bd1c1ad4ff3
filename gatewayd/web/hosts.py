"""Which host names are this gateway's: against pages that make their own name point here (DNS rebinding). Pure."""

import ipaddress
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from gatewayd.config.cross_web import is_loopback


def allowed_names(host: str) -> Sequence[str] | None:
    """The host names a request may be for beside plain addresses; None: any address, and this machine's names."""
    return ("localhost",) if is_loopback(host) else None


def is_our_name(header: str, names: Sequence[str] | None) -> bool:
    """Whether the Host header names this gateway.

    An attacker's page can make its own name point here, but cannot make a browser send an address it did not use. So
    addresses pass (loopback ones alone when we listen on loopback), and of names only our own.
    """
    try:
        host = urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        own = ("localhost", *_own_names()) if names is None else names
        return host in own
    return names is None or address.is_loopback


def _own_names() -> Sequence[str]:
    """This machine's name, and how the local network finds it (mDNS)."""
    name = socket.gethostname().lower()
    return name, f"{name.split('.')[0]}.local"
