"""Handlers that do what a test says."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from gatewayd.api import Batch, Message, Models, Result

Handle = Callable[[Batch], Sequence[Any]]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


def echo(batch: Batch) -> list[Result]:
    """A result for each message: what it held."""
    return [Result(kind="echo", data={"value": message.value}, message=message) for message in batch.messages]


def summarize(batch: Batch) -> list[Result]:
    """One result for the whole batch or window."""
    return [Result(kind="sum", data={"values": [message.value for message in batch.messages]})]


class Scripted:
    """A handler around a function. It remembers the batches it was given, and checks what every handler is promised."""

    Config = Options
    journaled = False
    inline = False

    def __init__(self, handle: Handle = echo, *, inline: bool = False) -> None:
        self.inline = inline
        self.function = handle
        self.batches: list[list[Any]] = []
        self.starts: list[Exception | None] = []  # what the next starts raise; none left: they work
        self.n_starts = 0
        self.is_started = False
        self.is_stopped = False
        self._calling = threading.Lock()

    def start(self, models: Models) -> None:
        self.n_starts += 1
        if self.starts and (error := self.starts.pop(0)) is not None:
            raise error
        assert not self.is_started
        self.is_started = True

    def handle(self, batch: Batch) -> Sequence[Any]:
        assert self.is_started
        assert not self.is_stopped
        assert self._calling.acquire(blocking=False), "called twice at once"
        try:
            self.batches.append([message.value for message in batch.messages])
            return self.function(batch)
        finally:
            self._calling.release()

    def stop(self) -> None:
        assert self.is_started
        self.is_stopped = True


def failing(*errors: Exception | None, then: Handle = echo) -> Handle:
    """Raises each of `errors` in turn (None: answers), then always answers."""
    left = list(errors)

    def handle(batch: Batch) -> Sequence[Any]:
        error = left.pop(0) if left else None
        if error is not None:
            raise error
        return then(batch)

    return handle


def raising_on(is_bad: Callable[[Message], bool], error: Exception) -> Handle:
    """Raises whenever such a message is in the batch."""

    def handle(batch: Batch) -> Sequence[Any]:
        if any(map(is_bad, batch.messages)):
            raise error
        return echo(batch)

    return handle
