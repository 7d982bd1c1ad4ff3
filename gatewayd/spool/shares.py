"""Where the older share of what a sink waits for ends, and the live one begins. On the event loop's thread.

Invariant: a boundary moves only while nobody holds a lease of the live share, so that no row is in both shares at once.
In memory alone: at the start all that is there is the older share.
"""

from gatewayd.spool.claims import Claims


class Shares:
    """The boundaries of every route and sink, as sequence numbers."""

    def __init__(self, claims: Claims, seq: int) -> None:
        self._claims = claims
        self._first_seq = seq  # all that was there at the start
        self._boundaries: dict[tuple[str, str], int] = {}
        self._wanted: dict[tuple[str, str], int] = {}  # boundaries that wait for a lease to end

    def boundary_seq(self, sink: str, route: str) -> int:
        """The last sequence number of the older share."""
        return self._boundaries.get((sink, route), self._first_seq)

    def divide(self, sink: str, route: str, seq: int) -> None:
        """Everything up to `seq` belongs to the older share as soon as no lease is in the way."""
        self._wanted[sink, route] = seq
        self.settle(sink, route)

    def settle(self, sink: str, route: str) -> None:
        """A lease may have ended: move the boundary if that was asked for."""
        live = self._claims.get(sink, route, "live")
        if live is None or not live.is_busy:
            self.move(sink, route)

    def move(self, sink: str, route: str) -> None:
        """As `settle`, for the one who is about to read the live share and has ended its lease."""
        seq = self._wanted.pop((sink, route), None)
        if seq is None:
            return
        self._boundaries[sink, route] = seq
        older = self._claims.get(sink, route, "older")
        if older is not None:
            older.wake()
