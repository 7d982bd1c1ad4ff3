"""Whether the board is hot, and who gives way then. Pure, but for the log.

Invariant: hot begins at one temperature and ends at a lower one, so that it does not flap. Whoever gives way loses the
language model and nothing else: a call is refused with GivesWay, and a message that needs it waits.
"""

import threading
from collections import Counter
from dataclasses import dataclass, field

import structlog

from gatewayd.board.sensors import Board, Temperature
from gatewayd.config import schema
from gatewayd.errors import GivesWay

log = structlog.get_logger(__name__)

_BELOW_CRITICAL_C = 5.0
_BAND_C = 5.0
_MISSED = 12  # looks in a row; a sensor that is gone for longer is gone
HOT = "hot"  # the reason that a refused call carries


def judged(board: Board, zones: list[str]) -> list[Temperature]:
    """The sensors that say whether it is hot: those named, else the thermal zones, else hwmon."""
    if zones:
        return [one for one in board.temperatures if one.name in zones or one.name.split()[0] in zones]
    own = [one for one in board.temperatures if one.is_zone and not one.is_dummy]
    return own or [one for one in board.temperatures if not one.is_zone]


def hot_at_c(one: Temperature, hot_c: float | None) -> float | None:
    """From where on this sensor is hot; None: it has no say."""
    if hot_c is not None:
        return hot_c
    if one.passive_c is not None:
        return one.passive_c
    return None if one.critical_c is None else one.critical_c - _BELOW_CRITICAL_C


@dataclass(slots=True)
class Heat:
    """Whether it is hot, from look to look."""

    config: schema.Board
    causes: tuple[str, ...] = ()  # why it is hot now; empty: it is not
    _hot: dict[str, int] = field(default_factory=dict)  # sensors that are hot until they are cool: looks they missed

    @property
    def is_hot(self) -> bool:
        return bool(self.causes)

    def look(self, board: Board) -> None:
        """Take one look into account."""
        causes: list[str] = []
        hot: dict[str, int] = {}
        seen = {one.id for one in board.temperatures}
        for id_, n_missed in self._hot.items():
            if id_ not in seen and n_missed < _MISSED:  # it did not answer: not a reason to call it cool
                hot[id_] = n_missed + 1
                causes.append(f"{id_} was hot, and does not answer")
        for one in judged(board, self.config.zones):
            at_c = hot_at_c(one, self.config.hot_c)
            if at_c is None:
                continue
            cool_c = at_c - _BAND_C if self.config.cool_c is None else self.config.cool_c
            if one.value_c >= at_c or (one.id in self._hot and one.value_c > cool_c):
                hot[one.id] = 0
                causes.append(f"{one.name} {one.value_c:.1f} C")
        self._hot = hot
        causes += sorted(board.throttled or ())
        self._tell(tuple(causes))

    def _tell(self, causes: tuple[str, ...]) -> None:
        before, self.causes = bool(self.causes), causes
        if causes and not before:
            log.warning(
                "board is hot or held back",
                causes=list(causes),
                sheds_below_priority=self.config.shed_below_priority,
                hint="more air or a better power supply; see [board] of config.toml for what gives way",
            )
        elif before and not causes:
            log.info("board is cool again")


class Shedding:
    """Refuses the calls of routes that give way. Asked from handlers' threads."""

    def __init__(self, heat: Heat, below_priority: int) -> None:
        self._heat = heat
        self._below = below_priority
        self._lock = threading.Lock()
        self._refused: Counter[tuple[str, str]] = Counter()  # by (route, reason)

    def check(self, route: str, priority: int) -> None:
        """Before a call of a language model. Raises GivesWay with the reason "hot" while the route gives way."""
        if priority >= self._below or not self._heat.is_hot:
            return
        with self._lock:
            self._refused[route, HOT] += 1
        raise GivesWay(f"the board is hot, and this route gives way: {', '.join(self._heat.causes)}", reason=HOT)

    def refused(self) -> dict[tuple[str, ...], float]:
        """Calls refused so far, by route and reason."""
        with self._lock:
            return {key: float(n) for key, n in self._refused.items()}
