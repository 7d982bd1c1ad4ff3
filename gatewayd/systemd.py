"""sd_notify(3): tell systemd what state we are in. Without $NOTIFY_SOCKET every call does nothing.

A notification is one datagram that never waits: a service manager that does not read must not stop the daemon.
"""

import os
import socket
import time
from collections.abc import Callable

import structlog

from gatewayd.config.environment import Environment

log = structlog.get_logger(__name__)


class Notifier:
    """The way to the service manager."""

    def __init__(self, address: str | None, monotonic_usec: Callable[[], int] | None = None) -> None:
        """`address`: $NOTIFY_SOCKET; a leading `@` is an abstract socket, None turns everything off."""
        self._address = "\0" + address[1:] if address is not None and address.startswith("@") else address
        self._monotonic_usec = monotonic_usec or (lambda: time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000)

    def ready(self) -> None:
        """Started, or done with reloading."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Config is being read again; call `ready` afterwards."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={self._monotonic_usec()}")

    def stopping(self) -> None:
        """The drain begins."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={' '.join(text.splitlines())}")

    def watchdog(self) -> None:
        """Alive. Only to be said when that was checked."""
        self._send("WATCHDOG=1")

    def extend_timeout(self, seconds: float) -> None:
        """Starting or stopping takes this much longer."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")

    def _send(self, message: str) -> None:
        if self._address is None:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            try:
                sender.sendto(message.encode(), self._address)
            except OSError as failure:
                log.warning("service manager was not told", state=message.partition("\n")[0], cause=str(failure))


def watchdog_interval_s(environment: Environment, pid: int | None = None) -> float | None:
    """How often to say that we are alive: half of WATCHDOG_USEC (sd_watchdog_enabled(3)); None when nobody waits."""
    if not environment.watchdog_usec:
        return None
    if environment.watchdog_pid is not None and environment.watchdog_pid != (os.getpid() if pid is None else pid):
        return None  # meant for another process, our parent
    return environment.watchdog_usec / 2_000_000
