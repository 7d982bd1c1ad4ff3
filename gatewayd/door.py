"""The door of a route: what happens to messages as they come, in order of arrival, before any of them is kept."""

from collections.abc import Sequence
from typing import Protocol

from gatewayd.ports import Clock, RawMessage, Source


class Door(Protocol):
    """For payloads that say less than they mean, as Sparkplug's do: see gatewayd.sparkplug.door."""

    def admit(self, raws: Sequence[RawMessage], now_s: float) -> tuple[list[RawMessage], list[tuple[str, bytes]]]:
        """Those that hold something for the handler, as they are to be kept; and what to publish (topic, payload)."""


async def admit(
    door: Door | None, raws: Sequence[RawMessage], source: Source, clock: Clock
) -> tuple[Sequence[RawMessage], dict[str, int]]:
    """What passes the route's door, and how many messages do not, by reason."""
    if door is None:
        return raws, {}
    admitted, commands = door.admit(raws, clock.monotonic())
    for topic, payload in commands:
        await source.publish(topic, payload)
    n_dropped = len(raws) - len(admitted)
    return admitted, {"no_data": n_dropped} if n_dropped else {}
