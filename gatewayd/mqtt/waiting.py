"""Messages read from the socket and not yet taken by intake: bounded by count and by bytes, in order of arrival.

Whoever puts first and then waits for room overshoots by one message, so a message larger than the whole bound still
passes, alone; of two who put in turns the second does so as well. Nothing is ever thrown away here.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from gatewayd.ports import RawMessage


class Waiting:
    """One taker, one event loop.

    Args:
        max_messages: most messages that wait.
        max_bytes: most bytes of payload that wait.
    """

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._messages: deque[RawMessage] = deque()
        self._bytes = 0
        self._ready = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._full = asyncio.Event()
        self._flowing = asyncio.Event()
        self._flowing.set()

    @property
    def is_full(self) -> bool:
        """Whether the putter has to wait."""
        return not self._room.is_set()

    @property
    def _is_half_empty(self) -> bool:  # room is made at half, not at one below: waking the reader costs more
        return len(self._messages) <= self._max_messages // 2 and self._bytes <= self._max_bytes // 2

    def put(self, message: RawMessage) -> bool:
        """Add a message; whether there is room for another. When there is none, await `room`."""
        self._messages.append(message)
        self._bytes += len(message.payload)
        self._ready.set()
        if len(self._messages) >= self._max_messages or self._bytes >= self._max_bytes:
            self._room.clear()
            self._full.set()
            return False
        return True

    async def room(self) -> None:
        """Wait until the bounds allow another message."""
        await self._room.wait()

    async def full(self) -> None:
        """Wait until the bounds are reached."""
        await self._full.wait()

    def pause(self) -> None:
        """Give out nothing any more."""
        self._flowing.clear()

    async def take(self) -> AsyncIterator[RawMessage]:
        """Messages in order; never ends."""
        messages, ready, room, flowing = self._messages, self._ready, self._room, self._flowing
        while True:
            while messages and flowing.is_set():
                message = messages.popleft()
                self._bytes -= len(message.payload)
                if not room.is_set() and self._is_half_empty:
                    room.set()
                    self._full.clear()
                yield message
            await flowing.wait()
            if not messages:
                ready.clear()
                await ready.wait()
