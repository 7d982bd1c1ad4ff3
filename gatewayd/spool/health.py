"""Which sinks confirm what they are sent. In memory alone: after a start nobody has confirmed anything."""

from collections.abc import Iterable


class Health:
    """What the last lease of each sink and route came to.

    A route is healthy when each of its sinks has confirmed something since the start and failed nothing since: neither
    of this route, nor of another one after which it confirmed nothing.
    """

    def __init__(self) -> None:
        self._confirming: set[str] = set()
        self._failed: set[tuple[str, str]] = set()  # (route, sink): one each, so bounded by the config

    def confirmed(self, route: str, sink: str) -> None:
        """The sink has what it was lent of the route."""
        self._failed.discard((route, sink))
        self._confirming.add(sink)

    def failed(self, route: str, sink: str) -> None:
        """The sink has not confirmed what it was lent of the route."""
        self._failed.add((route, sink))
        self._confirming.discard(sink)

    def is_healthy(self, route: str, sinks: Iterable[str]) -> bool:
        """Whether every one of the route's sinks confirms."""
        return all(sink in self._confirming and (route, sink) not in self._failed for sink in sinks)
