"""Transport security of a sink, from its config table."""

import ssl

from gatewayd.config.schema import Tls
from gatewayd.errors import ConfigError


def tls_context(tls: Tls | None, key: str) -> ssl.SSLContext:
    """The context `[<key>]` asks for; without one the system's authorities are trusted.

    Raises ConfigError for a file that cannot be read or is no PEM.
    """
    context = ssl.create_default_context()
    if tls is None:
        return context
    if tls.ca_file:
        context = ssl.create_default_context(cafile=_readable(tls.ca_file, f"{key}.ca_file"))
    if tls.cert_file:
        _load_own(context, tls.cert_file, tls.key_file, key)
    if tls.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _readable(path: str, key: str) -> str:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError as exc:  # ssl.SSLError is one
        raise ConfigError(key, f"cannot be used as PEM file of authorities: {exc.strerror or exc}") from exc
    return path


def _load_own(context: ssl.SSLContext, cert_file: str, key_file: str | None, key: str) -> None:
    try:
        # An encrypted key has to fail: without a password of ours OpenSSL would ask for one on the terminal, and wait.
        context.load_cert_chain(cert_file, key_file, password=lambda: "")
    except OSError as exc:
        raise ConfigError(f"{key}.cert_file", f"cannot be used with key_file: {exc.strerror or exc}") from exc
