"""Ask a handler for the results of a batch, whatever it raises.

Invariant: every message of the batch comes out once: answered (with any number of results) or dead. The handler call
is the only place in gatewayd where any exception is caught: a bug of a handler buries a message, never the daemon.
"""

import asyncio
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gatewayd.api import Batch, Handler, Message, Models, Rejection, Result
from gatewayd.errors import RejectedError, TransientError

_MAX_DETAIL = 2000  # characters of a traceback kept with a dead letter


@dataclass(frozen=True, slots=True)
class Buried:
    """A message that can never succeed, and why."""

    message: Message
    reason: str
    detail: str


@dataclass(slots=True)
class Answer:
    """What came of a batch."""

    results: list[tuple[Result, bytes]] = field(default_factory=list)  # each with its data as JSON
    buried: list[Buried] = field(default_factory=list)

    def add(self, other: "Answer") -> None:
        """Take over what came of another part of the same batch."""
        self.results += other.results
        self.buried += other.buried


class HandlerRunner:
    """Calls one handler, always on the same thread (or inline, where the handler says it takes microseconds)."""

    def __init__(self, route: str, handler: Handler) -> None:
        self.handler = handler
        self._thread: ThreadPoolExecutor | None = None
        if not handler.inline:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"handler[{route}]")

    async def run(self, function: Any, *arguments: Any) -> Any:
        """Run `function` where the handler lives."""
        if self._thread is None:
            return function(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    async def start(self, models: Models) -> None:
        """Start the handler. Loading takes time, so never on the event loop, not even for an inline handler."""
        if self._thread is None:
            await asyncio.to_thread(self.handler.start, models)
        else:
            await self.run(self.handler.start, models)

    async def answer(self, batch: Batch) -> Answer:
        """The handler's answer. Raises TransientError when it asks to be called again later."""
        if not batch.messages:
            return Answer()
        return await self.run(_answer, self.handler, batch)  # type: ignore[no-any-return]

    def close(self) -> None:
        """Forget the thread: a call that hangs must not hold up the stop."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)


def _answer(handler: Handler, batch: Batch) -> Answer:
    try:
        return _sort(handler.handle(batch), batch)
    except TransientError:
        raise
    except RejectedError as error:
        if len(batch.messages) == 1 or batch.window is not None:
            return _bury_all(batch, error.reason, str(error))
    except Exception as error:  # a bug of the handler: see the module's docstring
        if len(batch.messages) == 1 or batch.window is not None:
            detail = "".join(traceback.format_exception(error))[-_MAX_DETAIL:]
            return _bury_all(batch, "handler_error", detail)
    return _one_by_one(handler, batch)


def _one_by_one(handler: Handler, batch: Batch) -> Answer:
    """One of several raised: alone, it is buried alone."""
    answer = Answer()
    for message in batch.messages:
        answer.add(_answer(handler, msgspec.structs.replace(batch, messages=(message,))))
    return answer


def _sort(items: Sequence[Result | Rejection], batch: Batch) -> Answer:
    answer = Answer()
    rejected: set[int] = set()
    for item in items:
        if isinstance(item, Result):
            answer.results.append((item, msgspec.json.encode(item.data)))
        elif isinstance(item, Rejection):
            if id(item.message) not in rejected:  # rejecting one message twice still buries it once
                rejected.add(id(item.message))
                answer.buried.append(Buried(item.message, item.reason, item.detail))
        else:
            raise TypeError(f"the handler of {batch.route!r} returned a {type(item).__name__}, not Result or Rejection")
    return answer


def _bury_all(batch: Batch, reason: str, detail: str) -> Answer:
    return Answer(buried=[Buried(message, reason, detail) for message in batch.messages])
