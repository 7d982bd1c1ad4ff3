"""Crash points: places where a test ends the process as a power cut would, with nothing cleaned up.

The spec is `name` or `name:n` (the n-th time the point is passed, counted from 1). The config reads it from the
environment (`GATEWAYD_CRASH`) and hands it in; an empty spec costs one comparison a batch or transaction.
"""

import os

from gatewayd.errors import ConfigError

POINTS = (
    "spool.migrating",  # within the transaction that makes the tables
    "spool.before_commit",  # of whatever changes the spool: results, journal, attempts, acks
    "spool.after_commit",
    "spool.before_chore",  # the commit of what the writer does of itself: ages, expiry, orders, loss reports
    "spool.after_chore",
    "spool.evicting",  # counted, not deleted yet
    "spool.before_checkpoint",  # after a commit that made the WAL long, or when all is still
    "spool.after_checkpoint",
    "route.before_ack",  # committed; the PUBACK is not sent
    "route.after_ack",
    "uplink.before_send",
    "uplink.after_answer",  # the sink has stored the results; the spool does not know it yet
    "uplink.after_ack",
    "cascade.before_ask",  # the attempt is counted, where it is one
    "cascade.after_answer",  # the tier has answered; the journal does not know it yet
    "cascade.after_settle",
)

_EXIT_STATUS = 137  # what a shell reports for SIGKILL


class CrashPoint:
    """Counts down to the one point that was asked for."""

    def __init__(self, spec: str = "") -> None:
        name, _, times = spec.partition(":")
        if spec and not (name in POINTS and (times or "1").isdigit()):
            raise ConfigError("GATEWAYD_CRASH", f"{spec!r} is none of {', '.join(POINTS)}, with :n behind it or not")
        self._name = name
        self._left = int(times or "1")

    def reach(self, name: str) -> None:
        """Pass the point `name`; does not return when it was the n-th time."""
        if name != self._name:
            return
        self._left -= 1
        if self._left <= 0:
            os._exit(_EXIT_STATUS)


NO_CRASH = CrashPoint()
