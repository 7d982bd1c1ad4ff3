"""The board's metrics: each read from the last look, and absent where the board does not offer it.

Names are those of OpenTelemetry's conventions for hardware (hw.*, in development) and of its host metrics receiver
(system.cpu.load_average.*); what feeds the whole board is hw.host.*, and not also hw.*, as the conventions ask.
"""

from functools import partial

from gatewayd.board.energy import WHOLE_BOARD
from gatewayd.board.sensors import THROTTLED_BITS
from gatewayd.board.watch import BoardWatch
from gatewayd.telemetry import Telemetry

_HOST = (*WHOLE_BOARD, "psys")
Labelled = dict[tuple[str, ...], float]


def observe_board(telemetry: Telemetry, watch: BoardWatch) -> None:
    """Register them. The callbacks run on other threads, and read what was last seen."""
    telemetry.observe("hw.temperature", lambda: {(one.id, one.name): one.value_c for one in watch.board.temperatures})
    telemetry.observe("hw.temperature.limit", lambda: _limits(watch))
    telemetry.observe("hw.power", lambda: _typed(_powers(watch, whole=False)))
    telemetry.observe("hw.host.power", lambda: _powers(watch, whole=True))
    telemetry.observe("hw.energy", lambda: _typed(_energies(watch, whole=False)))
    telemetry.observe("hw.host.energy", lambda: _energies(watch, whole=True))
    telemetry.observe("system.cpu.frequency", lambda: {(cpu,): hz for cpu, hz in watch.board.frequencies_hz.items()})
    for index, minutes in enumerate(("1m", "5m", "15m")):
        telemetry.observe(f"system.cpu.load_average.{minutes}", partial(_load, watch, index))
    telemetry.observe("gatewayd.board.hot", lambda: float(watch.heat.is_hot))
    telemetry.observe("gatewayd.board.throttled", lambda: _throttled(watch))
    telemetry.observe("gatewayd.model.refused", watch.shedding.refused)
    telemetry.observe("gatewayd.model.call.energy", lambda: _per(watch, "calls"))
    telemetry.observe("gatewayd.model.token.energy", lambda: _per(watch, "tokens"))


def _limits(watch: BoardWatch) -> Labelled:
    found: Labelled = {}
    for one in watch.board.temperatures:
        if one.passive_c is not None:
            found[one.id, one.name, "high.degraded"] = one.passive_c
        if one.critical_c is not None:
            found[one.id, one.name, "high.critical"] = one.critical_c
    return found


def _powers(watch: BoardWatch, *, whole: bool) -> Labelled:
    return {(one.id, one.name): one.watts for one in watch.board.powers if (one.name in _HOST) == whole}


def _energies(watch: BoardWatch, *, whole: bool) -> Labelled:
    names = watch.joules.names
    return {
        (id_, names[id_]): joules
        for id_, joules in watch.joules.totals.copy().items()
        if (names[id_] in _HOST) == whole
    }


def _typed(values: Labelled) -> Labelled:
    """With `hw.type`, one of those that the conventions list: RAPL counts processors, a rail is a supply."""
    return {(id_, name, "cpu" if "rapl" in id_ else "power_supply"): value for (id_, name), value in values.items()}


def _load(watch: BoardWatch, index: int) -> float | Labelled:
    load = watch.board.load
    return {} if load is None else load[index]


def _throttled(watch: BoardWatch) -> Labelled:
    now = watch.board.throttled
    return {} if now is None else {(cause,): float(cause in now) for cause in THROTTLED_BITS.values()}


def _per(watch: BoardWatch, what: str) -> Labelled:
    found: Labelled = {}
    for model, charge in watch.charges.by_model.copy().items():
        n = charge.calls if what == "calls" else charge.tokens
        if n and charge.joules:
            found[model,] = charge.joules / n
    return found
