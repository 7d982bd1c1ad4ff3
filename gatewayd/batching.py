"""Cut batches by count or by the age of their first item, whichever comes first.

Invariant: every item added comes out once, in order. Pure: `now` is an argument, in monotonic seconds.
"""

from typing import Generic, TypeVar

from gatewayd.config.schema import BatchLimits

T = TypeVar("T")


class Batcher(Generic[T]):
    """The batch that is filling up."""

    def __init__(self, limits: BatchLimits) -> None:
        self._max_messages = limits.max_messages
        self._max_age_s = limits.max_age_ms / 1000
        self._items: list[T] = []
        self._deadline: float | None = None

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: T, now: float) -> list[T] | None:
        """Put `item` in. The batch when that made it full, else None."""
        if not self._items:
            self._deadline = now + self._max_age_s
        self._items.append(item)
        return self.flush() if len(self._items) >= self._max_messages else None

    def due(self, now: float) -> list[T] | None:
        """The batch when its first item has waited `max_age_ms`, else None."""
        if self._deadline is None or now < self._deadline:
            return None
        return self.flush()

    def deadline(self) -> float | None:
        """When `due` will have something; None while there is nothing to wait for."""
        return self._deadline

    def flush(self) -> list[T]:
        """What there is, full or not. Empty when there is nothing."""
        items, self._items = self._items, []
        self._deadline = None
        return items
