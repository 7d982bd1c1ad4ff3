"""Looks at the board every few seconds, and keeps what was seen: for metrics, /status, and who gives way while hot.

Invariant: a look happens on a thread, for a sensor on a slow bus takes milliseconds; it never raises, and nothing waits
for it. What is read here is as of the last look.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from gatewayd.board.energy import Charges, Joules
from gatewayd.board.heat import Heat, Shedding, hot_at_c, judged
from gatewayd.board.sensors import Board, look
from gatewayd.config import schema

log = structlog.get_logger(__name__)

Stats = Callable[[], Mapping[str, Mapping[str, float]]]


@dataclass(slots=True)
class BoardWatch:
    """The board as of the last look."""

    config: schema.Board
    heat: Heat
    shedding: Shedding
    board: Board = field(default_factory=Board)
    joules: Joules = field(default_factory=Joules)
    charges: Charges = field(default_factory=Charges)

    @classmethod
    def of(cls, config: schema.Board) -> "BoardWatch":
        """Not looked at yet."""
        heat = Heat(config)
        return cls(config, heat, Shedding(heat, config.shed_below_priority))

    def look(self, stats: Mapping[str, Mapping[str, float]], now_s: float) -> None:
        """One look; `stats` as of ModelStore.stats, `now_s` on the monotonic clock."""
        board = look(Path(self.config.root))
        self.heat.look(board)
        self.joules.look(board, now_s)
        whole = self.joules.whole
        self.charges.look(None if whole is None else whole[1], stats)
        self.board = board

    def status(self) -> dict[str, Any]:
        """For /status: what the board offers, and nothing else."""
        board, whole = self.board, self.joules.whole
        said: dict[str, Any] = {"hot": self.heat.is_hot, "causes": list(self.heat.causes)}
        if board.temperatures:
            said["temperatures_c"] = {one.id: {"name": one.name, "now": one.value_c} for one in board.temperatures}
        if board.throttled is not None:
            said["throttled"] = sorted(board.throttled)
            said["throttled_since_boot"] = sorted(board.throttled_since_boot)
        if board.load is not None:
            said["load"] = list(board.load)
        if board.powers:
            said["watts"] = {one.name: round(one.watts, 3) for one in board.powers}
        if whole is not None:
            said["joules"] = {whole[0]: round(whole[1], 3)}
        return said


async def run_board(watch: BoardWatch, stats: Stats) -> None:
    """Run until cancelled: look every `look_s`."""
    every_s = watch.config.look_s
    if not every_s:
        return
    while True:
        await asyncio.to_thread(watch.look, stats(), time.monotonic())
        await asyncio.sleep(every_s)


def in_words(config: schema.Board) -> tuple[str, str]:
    """What the board offers, for `gatewayd doctor`; and what could be done to see more."""
    board = look(Path(config.root))
    heat = Heat(config)
    heat.look(board)
    words = [_temperatures(board, config) or "no temperature"]
    if board.throttled is None:
        words.append("does not tell whether it is throttled")
    else:
        words.append("throttled: " + (", ".join(sorted(board.throttled)) or "no"))
        if board.throttled_since_boot:
            words.append("since boot: " + ", ".join(sorted(board.throttled_since_boot)))
    powers = [f"{one.name} {one.watts:.1f} W" for one in board.powers] + [one.name for one in board.energies]
    words.append("power: " + ", ".join(powers) if powers else "measures no power")
    hint = ""
    if board.unreadable:
        hint = f"{board.unreadable[0]} may be read by root alone; a udev rule or tmpfiles.d line can give it to us"
    elif heat.is_hot:
        hint = "more air or a better power supply; [board] says what gives way"
    return "; ".join(words), hint


def _temperatures(board: Board, config: schema.Board) -> str:
    said = []
    counted = {one.id for one in judged(board, config.zones)}
    for one in board.temperatures:
        at_c = hot_at_c(one, config.hot_c) if one.id in counted else None
        said.append(f"{one.name} {one.value_c:.1f} C" + (f" (hot at {at_c:g})" if at_c is not None else ""))
    return ", ".join(said)
