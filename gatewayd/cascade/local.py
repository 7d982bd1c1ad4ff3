"""A slow handler on this box as a tier that escalations wait for: a language model, a large classifier.

Invariants: it runs on a thread of its own, so it never holds up a message; its model is loaded when the first
escalation comes, tried again until that works, and a newer version of it is taken between two calls; whatever it raises
is no more than no answer.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from gatewayd.answer import HANDLER_STOP_S, HandlerRunner
from gatewayd.api import Batch, Handler, Message, Model, Models
from gatewayd.cascade.reading import Calibrations, verdict_of
from gatewayd.cascade.verdict import Place, Question, Refusal, Verdict
from gatewayd.errors import ConfigError, ModelError, TierUnavailable, TransientError
from gatewayd.ports import Clock


class LocalReport(Protocol):
    """What a slow handler tells telemetry."""

    def tier_answered(self, tier: str, n: int, seconds: float) -> None: ...

    def tier_failed(self, tier: str, reason: str) -> None: ...


_SMOOTHING = 0.2  # weight of the newest answer in `usual_latency_ms`


class HandlerClient:
    """Implements gatewayd.ports.TierClient around one handler, for one route."""

    place: Place = "gateway"

    def __init__(
        self,
        name: str,
        route: str,
        make: Callable[[], Handler],
        models: Models,
        clock: Clock,
        started: Callable[[Calibrations], None],
        report: LocalReport,
        is_stale: Callable[[Mapping[str, Model]], bool] = lambda _: False,
    ) -> None:
        """`make` gives a handler, to be started once. `started` is told how the models are calibrated that it asked
        for. `is_stale` says of the models it holds whether one of them was replaced."""
        self.name = name
        self.usual_latency_ms: float | None = None
        self.runner = HandlerRunner(f"{route}.{name}", make())
        self._make = make
        self._is_stale = is_stale
        self._route = route
        self._models = models
        self._clock = clock
        self._started = started
        self._calibrations: Calibrations | None = None
        self._report = report

    async def start(self) -> None:
        """Start the handler, where it has not started with the models of now. Raises TierUnavailable: its model cannot
        be loaded now."""
        if self._calibrations is not None:
            if not self._is_stale(self.runner.held):
                return
            self._calibrations = None
            await self.runner.stop(HANDLER_STOP_S)
            self.runner = HandlerRunner(self.runner.route, self._make())
        calibrations = Calibrations(self._models)
        try:
            await self.runner.start(calibrations)
        except (ModelError, ConfigError) as error:
            raise TierUnavailable(f"its handler does not start: {error}") from error
        self._calibrations = calibrations
        self._started(calibrations)

    async def ask(self, questions: Sequence[Question]) -> Sequence[Verdict | Refusal]:
        """See ports.TierClient. Raises TransientError when the handler does."""
        assert self._calibrations is not None
        messages = [Message(topic=one.topic, value=one.value, time=one.time, key=one.key) for one in questions]
        batch = Batch(route=self._route, messages=messages, now=self._clock.now())
        started_s = self._clock.monotonic()
        try:
            answer = await self.runner.answer(batch)
        except TransientError:
            self._report.tier_failed(self.name, "handler")
            raise
        took_s = self._clock.monotonic() - started_s
        self._report.tier_answered(self.name, len(messages), took_s)
        self._remember(took_s * 1000 / len(messages))
        given: dict[int, Verdict | Refusal] = {
            id(one.message): Refusal(reason=one.reason, detail=one.detail) for one in answer.buried
        }
        for result, _ in answer.results:
            verdict = verdict_of(self.name, result.kind, result.data, self._calibrations)
            if verdict is not None and result.message is not None:
                given.setdefault(id(result.message), verdict)
        silent = Refusal(reason="no_answer", detail="the handler gave no label")
        return [given.get(id(message), silent) for message in messages]

    async def close(self) -> None:
        """Nothing to let go of: the runner is stopped with its route."""

    def _remember(self, took_ms: float) -> None:
        usual_ms = self.usual_latency_ms
        self.usual_latency_ms = took_ms if usual_ms is None else usual_ms + _SMOOTHING * (took_ms - usual_ms)
