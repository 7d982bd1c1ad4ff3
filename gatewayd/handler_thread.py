"""The thread a handler lives on.

Not a ThreadPoolExecutor: the interpreter joins the threads of those before it ends, so a handler that hangs in a call
would keep the process from ending after its drain. This one is a daemon thread, left behind with what hangs on it.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

_Call = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...]]


class HandlerThread:
    """Runs calls one after the other, in the order they were submitted."""

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        threading.Thread(target=_serve, args=(self._calls,), name=name, daemon=True).start()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Have `function` called. The future has its result, or what it raised."""
        future: Future[Any] = Future()
        self._calls.put((future, function, arguments))
        return future

    def close(self) -> None:
        """End after what was submitted before. Does not wait."""
        self._calls.put(None)


def _serve(calls: "SimpleQueue[_Call | None]") -> None:
    while (call := calls.get()) is not None:
        future, function, arguments = call
        if not future.set_running_or_notify_cancel():
            continue
        try:
            result = function(*arguments)
        except (Exception, SystemExit) as error:  # whoever waits hears of it and decides
            future.set_exception(error)
        else:
            future.set_result(result)
        del call, future, function, arguments  # or the last batch would live until the next one comes
