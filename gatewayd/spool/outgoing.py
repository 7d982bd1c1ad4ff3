"""Results on their way out: what a sink is offered, and what became of it. On the writer thread, in a transaction.

A sink waits for `all` of a route's results, or for two shares of them with a boundary between: the `older` one up to
it and the `live` one beyond. Invariants: within a share rows are offered in order; what is counted as delivered or
refused is counted from the rows that were there, pending, when it was resolved.
"""

from collections.abc import Callable, Sequence

from gatewayd.ports import DeadLetter, Share, StoredResult
from gatewayd.spool.damaged import Checked
from gatewayd.spool.in_flight import InFlight
from gatewayd.spool.ledger import Ledger
from gatewayd.spool.migrations import route_range
from gatewayd.spool.positions import Positions
from gatewayd.spool.rows import read_result
from gatewayd.spool.segments import Segments


class Outgoing:
    """Reads leases and settles them."""

    def __init__(
        self,
        checked: Checked,
        positions: Positions,
        ledger: Ledger,
        leased: InFlight,
        segments: Segments,
        bury: Callable[[Sequence[DeadLetter]], None],
    ) -> None:
        self._checked = checked
        self._positions = positions
        self._ledger = ledger
        self._leased = leased
        self._segments = segments
        self._bury = bury

    def read(
        self, route: str, sink: str, share: Share, boundary_seq: int, limit: int, max_bytes: int
    ) -> tuple[StoredResult, ...]:
        """The oldest results of the share that the sink has not had: at least one, if there is one, whatever its size.

        They are in flight from here on. Raises DamagedRowsError.
        """
        if self._positions.get(route, sink) is None:
            return ()
        boundary = route_range(self._positions.route_ids[route])[0] | boundary_seq
        after = boundary if share == "live" else 0
        upto = boundary if share == "older" else None
        correct = self._segments.corrections.of
        taken: list[StoredResult] = []
        n_bytes = 0
        for first, last in self._positions.gaps(route, sink, after=after, upto=upto):
            for row in self._checked.results(first, last, limit - len(taken)):
                stored = read_result(row, route, correct)
                n_bytes += len(stored.data)
                if taken and n_bytes > max_bytes:
                    break
                taken.append(stored)
            if len(taken) >= limit or n_bytes > max_bytes:
                break
        if taken:
            self._leased.set(route, sink, share, taken[0].row, taken[-1].row)
        return tuple(taken)

    def ack(
        self, route: str, sink: str, first: int, last: int, refused: Sequence[tuple[StoredResult, DeadLetter]]
    ) -> None:
        """The sink has the rows `first` to `last`, but for what it refused. Doing it again changes nothing."""
        if self._positions.get(route, sink) is None:
            return
        # Counted from the rows: what was evicted while it was being sent is counted as evicted already.
        n_resolved = self._positions.pending(route, sink, after=first - 1, upto=last)
        buried = [letter for result, letter in refused if self._positions.is_pending(route, sink, result.row)]
        self._ledger.result(route, sink, "delivered", n_resolved - len(buried))
        self._ledger.result(route, sink, "refused", len(buried), "refused")
        self._bury(buried)
        self._positions.resolve(route, sink, first - 1, last)
