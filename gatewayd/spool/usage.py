"""How many bytes each sink has sent on which day.

The ack of a request that was stored is a commit, so its bytes are on disk before its results are forgotten.
"""

from collections.abc import Mapping

import apsw

from gatewayd.spool.daily import Daily


class Usage:
    """The table `usage`. Implements gatewayd.quota.Book."""

    def __init__(self, connection: apsw.Connection) -> None:
        """Read what is on disk."""
        self.daily = Daily(connection, "usage", "sink", ("n_bytes", "n_requests"))

    def add(self, sink: str, day: str, n_bytes: int) -> None:
        """See gatewayd.quota.Book."""
        self.daily.add(sink, day, n_bytes, 1)

    def days(self, sink: str) -> Mapping[str, int]:
        """See gatewayd.quota.Book."""
        return {day: counts[0] for day, counts in self.daily.days(sink).items() if counts[0]}

    def date(self, sink: str, day: str) -> None:
        """See gatewayd.quota.Book."""
        self.daily.date(sink, day)
