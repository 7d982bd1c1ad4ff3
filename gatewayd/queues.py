"""The bounded queue in front of a route, and the receipt that counts the routes of a message.

Invariant: a QoS 1 message is never dropped here. When the queue is full, by count or by bytes, the oldest QoS 0
messages go (and are given back to the caller, who counts them); when there are none, the caller has to wait, which
holds the source back. A message larger than the whole queue passes alone.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from gatewayd.batching import UNKNOWN, CallTimes, cut
from gatewayd.config.schema import BatchLimits
from gatewayd.ports import RawMessage


class Receipt:
    """What the source wants back, once the last of a message's routes has passed its durable point."""

    __slots__ = ("left", "token")

    def __init__(self, token: Any, routes: int) -> None:
        self.token = token
        self.left = routes

    def passed(self) -> bool:
        """One route is through. True for the last one: now acknowledge."""
        self.left -= 1
        return self.left == 0


Item = tuple[RawMessage, Receipt | None]


class RouteQueue:
    """Messages waiting for one route, in order of arrival. One reader, one writer, one event loop."""

    def __init__(
        self, max_queue: int, max_bytes: int = 1 << 62, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """`max_bytes`: of the payloads together."""
        self._max = max_queue
        self._max_bytes = max_bytes
        self._n_bytes = 0
        self._is_pressed = False  # something did not fit since the last batch: the reader waits for no more
        self._monotonic = monotonic
        self._since_s: deque[float] = deque()  # when each of those waiting arrived
        self.waited_s = 0.0  # how long the first of the batch taken last had waited
        self._items: deque[Item] = deque()
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()
        self._n_qos0 = 0
        self._in_hand = 0  # taken and not yet past their durable point
        self._wanted = 1  # the reader sleeps until so many are here

    def __len__(self) -> int:
        return len(self._items)

    @property
    def n_bytes(self) -> int:
        """Of the payloads that wait."""
        return self._n_bytes

    @property
    def is_idle(self) -> bool:
        """Nothing waits and nothing taken is still on its way to its durable point."""
        return not self._items and self._in_hand == 0

    def passed(self, n: int) -> None:
        """`n` of the messages taken have passed their durable point."""
        self._in_hand -= n

    def offer(self, item: Item) -> tuple[bool, Sequence[RawMessage]]:
        """Put `item` in. Returns (taken in, the QoS 0 messages dropped for it).

        (False, …): full of QoS 1 messages, wait for `room` and offer again.
        """
        message = item[0]
        size = len(message.payload)
        dropped: list[RawMessage] = []
        while self._is_full(size):
            self._is_pressed = True  # by bytes it may be full long before it has what the reader waits for
            oldest = self._drop_oldest_qos0()
            if oldest is None:
                self._arrived.set()
                return (True, [*dropped, message]) if message.qos == 0 else (False, dropped)
            dropped.append(oldest)
        self._items.append(item)
        self._since_s.append(self._monotonic())
        self._n_bytes += size
        self._n_qos0 += message.qos == 0
        if self._is_pressed or len(self._items) >= min(self._wanted, self._max):
            self._arrived.set()
        return True, dropped

    def _is_full(self, size: int) -> bool:
        """Whether a payload of so many bytes has to wait."""
        if len(self._items) >= self._max:
            return True
        return self._n_bytes + size > self._max_bytes and bool(self._items)

    def _drop_oldest_qos0(self) -> RawMessage | None:
        if self._n_qos0 == 0:
            return None
        for index, (message, _) in enumerate(self._items):
            if message.qos == 0:
                del self._items[index], self._since_s[index]
                self._n_qos0 -= 1
                self._n_bytes -= len(message.payload)
                return message
        return None

    async def room(self) -> None:
        """Wait until something was taken out."""
        self._taken.clear()
        await self._taken.wait()

    async def take(self, limits: BatchLimits, calls: CallTimes = UNKNOWN) -> list[Item]:
        """The next batch: see gatewayd.batching."""
        while True:
            max_waiting = len(self._items) if self._is_pressed else self._max
            waited_s = self._monotonic() - self._since_s[0] if self._since_s else 0.0
            decision = cut(len(self._items), waited_s, limits, max_waiting=max_waiting, calls=calls)
            if decision.n_take:
                self.waited_s = waited_s
                return self._take(decision.n_take)
            self._wanted = limits.max_messages if self._items else 1
            await self._more(decision.wait_s)

    def _take(self, n_items: int) -> list[Item]:
        batch = [self._items.popleft() for _ in range(n_items)]
        for _ in range(n_items):
            self._since_s.popleft()
        self._n_qos0 -= sum([message.qos == 0 for message, _ in batch])
        self._n_bytes -= sum([len(message.payload) for message, _ in batch])
        self._is_pressed = False
        self._in_hand += n_items
        self._taken.set()
        return batch

    async def _more(self, wait_s: float | None) -> None:
        """Until as many are here as the reader wants, or `wait_s` is over."""
        self._arrived.clear()
        try:
            async with asyncio.timeout(wait_s):
                await self._arrived.wait()
        except TimeoutError:
            pass
