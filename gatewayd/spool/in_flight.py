"""Which rows are being sent now, so that nobody evicts, thins or expires what may arrive all the same.

Invariant: a span is set on the writer thread when the rows of a lease are read, before anything else that thread does
can take them away. It is removed on the event loop's thread when the lease ends. Both are single operations on a dict,
and who looks works on a copy.
"""

Span = tuple[int, int]  # first and last row id


class InFlight:
    """The rows of the leases that are held, by route, sink and share."""

    def __init__(self) -> None:
        self._spans: dict[tuple[str, str, str], Span] = {}

    def set(self, route: str, sink: str, share: str, first: int, last: int) -> None:
        """The rows `first` to `last` are leased: the sink's only lease of this share of the route."""
        self._spans[route, sink, share] = (first, last)

    def clear(self, route: str, sink: str, share: str) -> None:
        """The lease has ended: acked, nacked, or void."""
        self._spans.pop((route, sink, share), None)

    def spans(self, route: str) -> list[Span]:
        """The route's rows that are leased now, the lowest first; spans of several sinks may overlap."""
        return sorted(span for (known, _, _), span in list(self._spans.items()) if known == route)

    def highest(self, route: str) -> int:
        """The highest row id leased now, live shares left out (see `spans` for those); 0 when there is none."""
        held = [(share, last) for (known, _, share), (_, last) in list(self._spans.items()) if known == route]
        return max((last for share, last in held if share != "live"), default=0)
