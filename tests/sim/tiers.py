"""Cascades in tests: students that say what their message tells them to, far tiers that a test switches on and off, and
the real stages around them. At the end of each run the books balance."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from gatewayd.cascade.ladder import Ladder
from gatewayd.cascade.verdict import Place, Question, Refusal, Verdict
from gatewayd.config import read_environment
from gatewayd.config.environment import resolve_paths
from gatewayd.config.schema import Config
from gatewayd.errors import TierUnavailable
from gatewayd.spool.reader import SpoolReader
from gatewayd.telemetry import Telemetry
from gatewayd.wiring import build, lay_ground
from tests.sim.clock import ManualClock
from tests.sim.source import MemorySource
from tests.sim.stages import Rig

# A message says what each tier answers: {"student": ["a", 0.6], "giant": ["b", 0.99]}; "raise", "reject", "busy".
SITE_HANDLERS = """
import msgspec
from gatewayd.api import ModelError, Rejection, Result, TransientError
from gatewayd.errors import GivesWay

class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: str = "student"

class Student:
    Config = Options
    journaled = False
    inline = False
    def __init__(self, config): self._name = config.name; self.seen = []
    def start(self, models): pass
    def stop(self): pass
    def handle(self, batch):
        self.seen.append([message.key for message in batch.messages])
        return [answer for answer in (self._one(m) for m in batch.messages) if answer is not None]
    def _one(self, message):
        said = message.value.get(self._name) if isinstance(message.value, dict) else None
        if said == "raise":
            raise ValueError("a bug")
        if said == "busy":
            raise TransientError("busy")
        if said == "hot 5 times":
            self.hot = getattr(self, "hot", 0) + 1
            if self.hot <= 5:
                raise GivesWay("hot")
            said = ["b", 0.99]
        if said == "reject":
            return Rejection(message=message, reason="no_field")
        if said is None:
            return None
        label, score = said
        other = "b" if label == "a" else "a"
        scores = {label: score, other: round(1 - score, 6)}
        return Result(kind="classification", data={"label": label, "score": score, "scores": scores}, message=message)

class Stateful(Student):
    stateful = True
    def evidence(self, message): return {"window": [1.0, 2.0], "of": message.key}

class Giant(Student):
    journaled = True

class Late(Student):
    n_starts = 0
    def start(self, models):
        Late.n_starts += 1
        if Late.n_starts == 1:
            raise ModelError("not there yet")

HANDLERS = {"late": Late, "student": Student, "stateful": Stateful, "giant": Giant}
"""


class FarTier:
    """Implements ports.TierClient. Answers what `answer` says; away while `is_away`."""

    def __init__(self, name: str = "cloud", place: Place = "cloud") -> None:
        self.name = name
        self.place: Place = place
        self.usual_latency_ms: float | None = None
        self.is_away = False
        self.retry_after_s: float | None = None
        self.raises: list[Exception] = []
        self.answer: Callable[[Question], Verdict | Refusal] = self.agree
        self.asked: list[list[Question]] = []
        self.n_calls = 0

    def agree(self, question: Question) -> Verdict:
        """What the local tier says, and surely."""
        return self.say(question.first.label)

    def say(self, label: str, confidence: float = 0.99) -> Verdict:
        """A verdict of this tier."""
        return Verdict(tier=self.name, label=label, scores={label: confidence}, confidence=confidence, model="large")

    async def ask(self, questions: Sequence[Question]) -> Sequence[Verdict | Refusal]:
        self.n_calls += 1
        if self.raises:
            raise self.raises.pop(0)
        if self.is_away:
            raise TierUnavailable("nobody there", retry_after_s=self.retry_after_s)
        self.asked.append(list(questions))
        return [self.answer(question) for question in questions]

    async def close(self) -> None:
        pass

    @property
    def keys(self) -> list[str]:
        """Of every question so far, in order."""
        return [question.key for questions in self.asked for question in questions]


def config_of(folder: Path, route: Mapping[str, Any], tiers: Mapping[str, Any], **sections: Any) -> Config:
    """One route `r` on `t/#` with these tiers, in their order, over the handlers above."""
    handlers = folder / "tiers_of_tests.py"
    if not handlers.exists():
        handlers.write_text(SITE_HANDLERS)
    plain = {"topics": ["t/#"], "sinks": ["cloud"], "tiers": list(tiers), "payload": {"format": "json"}}
    tables = {
        "gateway": {"id": "gw", "drain_s": 2.0},
        "routes": {"r": {**plain, **route}},
        "sinks": {"cloud": {"type": "http", "url": "http://127.0.0.1:1/"}},
        "handlers": {"paths": [str(handlers)]},
        "tiers": tiers,
        **sections,
    }
    return msgspec.convert(tables, Config)


STUDENT: Mapping[str, Any] = {"type": "handler", "handler": "student", "accept": 0.9}
CLOUD: Mapping[str, Any] = {"type": "http", "url": "http://127.0.0.1:1/ask", "retry_max_s": 10.0}
OPEN: Mapping[str, Any] = {"escalation": {"privacy": "cloud"}}


class CascadeRig(Rig):
    """One run of the stages with a cascade."""

    @property
    def ladder(self) -> Ladder:
        return self.parts.cascades.parts["r"].ladder

    async def results(self) -> dict[str, dict[str, Any]]:
        """Data of what waits for the sink, by key."""
        return {result.key: msgspec.json.decode(result.data) for result in await self.stored()}


@asynccontextmanager
async def cascade(
    folder: Path,
    far: Sequence[FarTier] = (),
    *,
    route: Mapping[str, Any] = OPEN,
    tiers: Mapping[str, Any] | None = None,
    clock: ManualClock | None = None,
    real: bool = False,
    **sections: Any,
) -> AsyncIterator[CascadeRig]:
    """The stages, running; by default with a student and `far` above it. `real`: the clients of the config, and no
    simulated ones."""
    known = tiers or {"student": STUDENT, **{one.name: {**CLOUD, "place": one.place} for one in far}}
    config = config_of(folder, {"live": False, **route}, known, **sections)
    environment = read_environment({"STATE_DIRECTORY": str(folder / "state")})
    paths = resolve_paths(config, environment, folder / "config.toml")
    telemetry = Telemetry.build(config.telemetry, environment, "gw", "0")
    ground = lay_ground(config, paths, environment, telemetry, clock or ManualClock())
    clients = None if real else {one.name: one for one in far}
    parts = await build(ground, source=lambda ground: MemorySource(ground.clock), sinks={}, clients=clients)
    rig = CascadeRig(parts, ground.clock, telemetry)  # type: ignore[arg-type]
    rig.start()
    try:
        yield rig
    finally:
        await rig.crash()
        telemetry.shutdown()
    with SpoolReader.open(paths.spool) as reader:
        assert reader.books().balanced
