"""Joules out of what the board measures, and what of them a model's work took. Pure: looks come in, time with them.

Invariant: joules are those of a counter, or of power that was read at both ends of a stretch of time; nothing is
estimated from a load. Work is charged only where it is the only work: a stretch in which one model alone computed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gatewayd.board.sensors import Board

# The rail that feeds the whole board, by NVIDIA's names: Orin Nano and NX, Xavier NX; Nano, TX2.
WHOLE_BOARD = ("VDD_IN", "POM_5V_IN")
_PLATFORM = "psys"  # the RAPL domain of the whole machine
_MAX_STRETCH_S = 120.0  # power read further apart than this says little of the time between


@dataclass(slots=True)
class Joules:
    """Energy so far, by what measures it: "intel-rapl:0", "hwmon3/in1"."""

    totals: dict[str, float] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    _counters: dict[str, float] = field(default_factory=dict)
    _powers: dict[str, float] = field(default_factory=dict)
    _at_s: float | None = None

    def look(self, board: Board, now_s: float) -> None:
        """Add what was used since the last look."""
        stretch_s = 0.0 if self._at_s is None else now_s - self._at_s
        for counter in board.energies:
            before = self._counters.get(counter.id)
            if before is not None:
                used_j = counter.joules - before
                self._add(counter.id, used_j + counter.wraps_at_j if used_j < 0 else used_j)
            self._know(counter.id, counter.name)
        for rail in board.powers:
            before = self._powers.get(rail.id)
            if before is not None and stretch_s <= _MAX_STRETCH_S:
                self._add(rail.id, (before + rail.watts) / 2 * stretch_s)
            self._know(rail.id, rail.name)
        self._counters = {counter.id: counter.joules for counter in board.energies}
        self._powers = {rail.id: rail.watts for rail in board.powers}
        self._at_s = now_s

    @property
    def whole(self) -> tuple[str, float] | None:
        """What stands for the board, and its joules: the platform's counter, else the rail that feeds everything, else
        all processor packages together. None: it measures none of them."""
        for names in ((_PLATFORM,), WHOLE_BOARD):
            for id_, name in self.names.items():
                if name in names:
                    return name, self.totals[id_]
        packages = [self.totals[id_] for id_, name in self.names.items() if "package" in name]
        return ("packages", sum(packages)) if packages else None

    def _know(self, id_: str, name: str) -> None:
        self.names[id_] = name
        self.totals.setdefault(id_, 0.0)

    def _add(self, id_: str, joules: float) -> None:
        self.totals[id_] += max(0.0, joules)


@dataclass(slots=True)
class Charge:
    """What one model's work took, over the stretches in which it alone computed."""

    joules: float = 0.0
    calls: float = 0.0
    tokens: float = 0.0


@dataclass(slots=True)
class Charges:
    """What the work of each model took."""

    by_model: dict[str, Charge] = field(default_factory=dict)
    _before_j: float | None = None
    _work: dict[str, tuple[float, float]] = field(default_factory=dict)

    def look(self, whole_j: float | None, stats: Mapping[str, Mapping[str, float]]) -> None:
        """`stats` as of ModelStore.stats: `calls` and `tokens_out` so far. The joules of a stretch in which two models
        worked are nobody's."""
        work = {name: (one.get("calls", 0.0), one.get("tokens_out", 0.0)) for name, one in stats.items()}
        if whole_j is not None and self._before_j is not None:
            worked = [name for name, so_far in work.items() if so_far[0] > self._work.get(name, so_far)[0]]
            if len(worked) == 1:
                self._charge(worked[0], whole_j - self._before_j, work[worked[0]])
        self._before_j, self._work = whole_j, work

    def _charge(self, name: str, joules: float, so_far: tuple[float, float]) -> None:
        before = self._work[name]
        charge = self.by_model.setdefault(name, Charge())
        charge.joules += joules
        charge.calls += so_far[0] - before[0]
        charge.tokens += max(0.0, so_far[1] - before[1])
