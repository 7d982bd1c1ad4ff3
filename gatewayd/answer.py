"""Ask a handler for the results of a batch, whatever it raises.

Invariant: every message of the batch comes out once: answered (with any number of results) or dead. The handler call
is the only place in gatewayd where any exception is caught: a bug of a handler buries a message, never the daemon.
"""

import asyncio
import contextvars
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import msgspec
import structlog

from gatewayd.api import Batch, Handler, Message, Model, Models, Rejection, Result, TakesOver, TellsStats
from gatewayd.errors import ConfigError, ModelError, RejectedError, TransientError
from gatewayd.handler_thread import HandlerThread

log = structlog.get_logger(__name__)

HANDLER_STOP_S = 2.0  # how long a handler may take to stop, where nothing says that its call may last longer
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


class Instances:
    """Several instances of one handler, for a route with `parallel`. Made where handlers are; only a runner calls
    them."""

    inline = False

    def __init__(self, instances: Sequence[Handler]) -> None:
        self.instances = instances
        self.journaled = instances[0].journaled


class HandlerRunner:
    """Calls one handler, always on the same thread (or inline, where the handler says it takes microseconds). Of
    several instances each has a lane, and a thread, of its own."""

    def __init__(self, route: str, handler: Handler | Instances) -> None:
        instances = handler.instances if isinstance(handler, Instances) else [handler]
        self.handler = instances[0]
        self.route = route
        self.held: dict[str, Model] = {}  # the models that the handler asked for, as it got them
        self._others = [HandlerRunner(route, other) for other in instances[1:]]
        self._busy_since_s: float | None = None  # written where the handler runs
        self._thread: HandlerThread | None = None
        self._is_started = False
        self._taking_over: tuple[asyncio.Future[None], float] | None = None

    @property
    def busy_since_s(self) -> float | None:
        """Since when the call that has lasted longest lasts, monotonic; None while there is none."""
        since_s = [one._busy_since_s for one in (self, *self._others)]
        return min((one_s for one_s in since_s if one_s is not None), default=None)

    async def run(self, function: Any, *arguments: Any) -> Any:
        """Run `function` where the handler lives."""
        if self.handler.inline:
            return function(*arguments)
        return await self._on_thread(function, *arguments)

    async def start(self, models: Models) -> None:
        """Start the handler. Loading takes time, so never on the event loop, not even for an inline handler.

        Raises ModelError or ConfigError, whatever the handler raised.
        """
        await self._start(models)
        for index, other in enumerate(self._others):
            try:
                await other.start(models)
            except (ModelError, ConfigError):
                for started in (self, *self._others[:index]):
                    await started.stop(HANDLER_STOP_S)
                raise

    async def _start(self, models: Models) -> None:
        try:
            await self._on_thread(self.handler.start, _Noted(models, self.held))
        except (ModelError, ConfigError):
            self.close()
            raise
        except Exception as error:  # a bug of the handler, or a passing failure: neither ends the daemon
            self.close()
            raise ModelError(f"the handler did not start: {error!r}") from error
        if self.handler.inline:
            self.close()
        self._is_started = True

    def take_over(self, before: "HandlerRunner", max_call_s: float) -> None:
        """Answer from now on in place of `before`, which is about to be stopped: the first call waits for its last one,
        so that the handler can go on where that one stood. One that lasts longer than `max_call_s` hangs."""
        if not takes_over(self.handler, before.handler):
            return
        if before.handler.inline:
            take_over(self.route, self.handler, before.handler)
        else:
            self._taking_over = before._submit(take_over, self.route, self.handler, before.handler), max_call_s

    async def answer(self, batch: Batch, lane: int = 0) -> Answer:
        """The handler's answer. Raises TransientError when it asks to be called again later."""
        if not batch.messages:
            return Answer()
        if self._taking_over is not None:
            await self._taken_over(*self._taking_over)
        # After a reload there may be fewer instances than lanes: two lanes then share one, and take turns.
        if index := lane % (len(self._others) + 1):
            return await self._others[index - 1].answer(batch)
        return await self.run(self._timed, batch)  # type: ignore[no-any-return]

    async def _taken_over(self, moving: asyncio.Future[None], max_s: float) -> None:
        done, _ = await asyncio.wait([moving], timeout=max_s)  # leaves it alone when whoever waits here is cancelled
        if not done:
            moving.cancel()  # it has not begun, and will not: nothing changes the handler beside its calls
            log.warning("handler begins anew, the one before it hangs", route=self.route, after_s=max_s)
        self._taking_over = None

    def stats(self) -> Mapping[str, float]:
        """What the handler tells of itself, of several instances the sums; nothing where it tells nothing, or fails to.
        From any thread."""
        told = Counter(self._stats())
        for other in self._others:
            told.update(other._stats())
        return dict(told)

    def _stats(self) -> Mapping[str, float]:
        if not isinstance(self.handler, TellsStats):
            return {}
        try:
            told = self.handler.stats()
            return {str(name): float(value) for name, value in told.items()}
        except Exception as error:  # a bug of the handler: the other figures are shown all the same
            log.debug("handler's figures cannot be read", route=self.route, cause=type(error).__name__)
            return {}

    async def stop(self, timeout_s: float) -> None:
        """Stop the handler, if it was started. One that hangs in a call is left behind after `timeout_s`."""
        async with asyncio.TaskGroup() as tasks:
            for other in self._others:
                tasks.create_task(other.stop(timeout_s), name=f"stop[{self.route}]")
            await self._stop(timeout_s)

    async def _stop(self, timeout_s: float) -> None:
        if self._is_started:
            self._is_started = False
            try:
                async with asyncio.timeout(timeout_s):
                    await self.run(self.handler.stop)
            except TimeoutError:
                log.warning("handler did not stop", route=self.route, after_s=timeout_s)
            except Exception as error:  # a bug of the handler: what comes after it is stopped all the same
                log.warning("handler failed while it stopped", route=self.route, cause=type(error).__name__)
        self.close()

    def close(self) -> None:
        """Forget the thread: a call that hangs must not hold up the stop."""
        if self._thread is not None:
            self._thread.close()
            self._thread = None

    def _timed(self, batch: Batch) -> Answer:
        self._busy_since_s = time.monotonic()
        try:
            return answer_of(self.handler, batch)
        finally:
            self._busy_since_s = None

    async def _on_thread(self, function: Any, *arguments: Any) -> Any:
        return await self._submit(function, *arguments)

    def _submit(self, function: Any, *arguments: Any) -> asyncio.Future[Any]:
        if self._thread is None:
            self._thread = HandlerThread(f"handler[{self.route}]")
        # In the context of who asks: what it knows of the batch at hand (gatewayd.terms) the call knows, too.
        call = contextvars.copy_context().run
        return asyncio.wrap_future(self._thread.submit(call, function, *arguments))


def takes_over(handler: object, before: object) -> TypeGuard[TakesOver]:
    """Whether `handler` can go on where `before` stands."""
    return isinstance(handler, TakesOver) and type(handler) is type(before)


def take_over(route: str, handler: TakesOver, before: object) -> None:
    """See gatewayd.api.TakesOver; whatever goes wrong there, the handler then begins anew."""
    try:
        handler.take_over(before)
    except Exception as error:  # a bug of the handler
        log.warning("handler begins anew", route=route, cause=repr(error))


class _Noted:
    """Implements api.Models: what is asked for, with a note of it."""

    def __init__(self, models: Models, held: dict[str, Model]) -> None:
        self._models = models
        self._held = held

    def get(self, name: str) -> Model:
        """See api.Models."""
        model = self._models.get(name)
        self._held[name] = model
        return model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._models, name)


def answer_of(handler: Handler, batch: Batch) -> Answer:
    """One call of a handler, on the thread it lives on. Raises TransientError when it asks to be called again later."""
    try:
        return _sort(handler.handle(batch), batch)
    except TransientError:
        raise
    except ModelError as error:  # one that was unloaded and does not load again; its file may be mended
        raise TransientError(str(error)) from error
    except RejectedError as error:
        if len(batch.messages) == 1 or batch.window is not None:
            return _bury_all(batch, error.reason, str(error))
    except (Exception, SystemExit) as error:  # a bug of the handler: see the module's docstring
        if len(batch.messages) == 1 or batch.window is not None:
            detail = "".join(traceback.format_exception(error))[-_MAX_DETAIL:]
            return _bury_all(batch, "handler_error", detail)
    return _one_by_one(handler, batch)


def _one_by_one(handler: Handler, batch: Batch) -> Answer:
    """One of several raised: alone, it is buried alone."""
    answer = Answer()
    for message in batch.messages:
        answer.add(answer_of(handler, msgspec.structs.replace(batch, messages=(message,))))
    return answer


def _sort(items: Sequence[Result | Rejection], batch: Batch) -> Answer:
    """Results with their data as JSON, rejections each once. Raises TypeError on what the spool could not store."""
    answer = Answer()
    rejected: set[int] = set()
    for item in items:
        if isinstance(item, Result):
            _check_result(item)
            answer.results.append((item, msgspec.json.encode(item.data)))
        elif isinstance(item, Rejection):
            _check_rejection(item, batch)
            if id(item.message) not in rejected:  # rejecting one message twice still buries it once
                rejected.add(id(item.message))
                answer.buried.append(Buried(item.message, item.reason, item.detail))
        else:
            raise TypeError(f"the handler of {batch.route!r} returned a {type(item).__name__}, not Result or Rejection")
    return answer


def _check_result(result: Result) -> None:
    """The fields of a Struct are not checked when it is made, and beyond this point a wrong one is our failure."""
    if type(result.kind) is not str or not result.kind:
        raise TypeError("Result.kind is not a text")
    if type(result.data) is not dict and not isinstance(result.data, Mapping):
        raise TypeError(f"Result.data is a {type(result.data).__name__}, not a mapping")
    if result.message is not None and type(result.message) is not Message:
        raise TypeError("Result.message is not a Message")


def _check_rejection(rejection: Rejection, batch: Batch) -> None:
    if type(rejection.reason) is not str or type(rejection.detail) is not str:
        raise TypeError("Rejection.reason and Rejection.detail are not texts")
    if not any(rejection.message is message for message in batch.messages):
        raise TypeError("Rejection.message is not a message of the batch")


def _bury_all(batch: Batch, reason: str, detail: str) -> Answer:
    return Answer(buried=[Buried(message, reason, detail) for message in batch.messages])
