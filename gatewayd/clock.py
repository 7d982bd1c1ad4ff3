"""The real clock: `ports.Clock` as the machine has it. Wall time goes into data, monotonic time into decisions.

Invariant: a wall clock that is earlier than it can be is not believed. It cannot be earlier than the release of this
program, nor (unless it is synchronized) than the floor: the time at which it was last known to be right, plus what has
passed since. `now` then goes on from the floor. Nobody's word raises the floor faster than time passes but that of a
synchronized clock, so that a clock which once was ten years ahead does no harm later.
"""

import asyncio
import ctypes
import time
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

RELEASED = 1_763_000_000.0  # seconds since the epoch (November 2025): no clock that is right shows less

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_TIMESYNCD = Path("/run/systemd/timesync")  # its folder; the file is touched at each synchronization
_ASK_EVERY_S = 1.0
_BELIEVED_S = 0.1  # so long a time that was above the floor speaks for those after it
_SLACK_S = 2.0  # so far below the floor is no fault: a leap second, a small step
_LAST_YEAR = 253_402_300_799.0  # 9999: a floor beyond it is damage
_TIME_ERROR = 5  # adjtimex(2): "the system clock is not synchronized to a reliable server"
_TIMEX_BYTES = 512  # more than struct timex has anywhere; zeros: `modes` = 0 sets nothing and needs no right
# The seconds since boot, suspend included (clock_gettime(2)); where there is none, those without it.
_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boottime() -> float:
    """Seconds since boot, time in suspend included."""
    return time.clock_gettime(_BOOTTIME)


def read_boot_id() -> str:
    """What the kernel calls this boot; "" where it is not shown (systemd: ProcSubset=pid)."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def ask_system(sync_file: Path | None = None) -> bool | None:
    """Whether the wall clock is synchronized; None when nobody can say.

    Args:
        sync_file: `gateway.clock_sync_file`, which then alone decides.
    """
    if sync_file is not None:
        return _is_there(sync_file)
    known = _ask_kernel()
    return _ask_timesyncd() if known is None else known


def _ask_kernel() -> bool | None:
    # chronyd says it to the kernel only with `rtcsync`, which Debian's chrony.conf has.
    libc = _libc()
    if libc is None:
        return None
    state = libc.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    return None if state < 0 else state != _TIME_ERROR  # -1: a filter of system calls (systemd: ProtectClock=)


@lru_cache(maxsize=1)  # a new one each time is garbage in a cycle
def _libc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL(None)
    except OSError:
        return None
    return libc if hasattr(libc, "adjtimex") else None


def _ask_timesyncd() -> bool | None:
    if _is_there(_TIMESYNCD / "synchronized"):
        return True
    return False if _is_there(_TIMESYNCD) else None


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


class SystemClock:
    """Time of this machine. The arguments from `ask` on are for tests."""

    def __init__(
        self,
        *,
        sync_file: Path | None = None,
        boot_id: str = "",
        ask: Callable[[], bool | None] | None = None,
        wall: Callable[[], float] = time.time,
        boottime: Callable[[], float] = boottime,
    ) -> None:
        self._ask = ask or partial(ask_system, sync_file)
        self._wall = wall
        self.boottime = boottime
        self.boot_id = boot_id or read_boot_id()
        self._floor = (RELEASED, boottime())  # a time, and when it was that
        self._known: bool | None = None
        self._asked_at_s = float("-inf")
        self._was_wrong = False
        self._believed = 0.0  # a time of the wall clock that was above the floor

    def now(self) -> float:
        """Seconds since the epoch. Jumps when the clock is set."""
        wall = self._wall()
        if 0.0 <= wall - self._believed < _BELIEVED_S:  # asked for every message; nothing rises faster
            return wall
        if wall >= self.floor() - _SLACK_S:
            self._believed = wall
            return wall
        self._look()
        return self.floor() if self._is_wrong(wall) else wall

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait; 0 lets others run."""
        await asyncio.sleep(seconds)

    def is_synced(self) -> bool | None:
        """See ports.Clock. The system is asked at most once a second."""
        self._look()
        return False if self._is_wrong(self._wall()) else self._known

    def floor(self) -> float:
        """See ports.Clock."""
        right, at_s = self._floor
        return right + max(0.0, self.boottime() - at_s)

    def keep_above(self, floor: float) -> None:
        """See ports.Clock."""
        if self.floor() < floor <= _LAST_YEAR:
            self._floor = (floor, self.boottime())
            self._believed = 0.0
            self._asked_at_s = float("-inf")

    def _look(self) -> None:
        now_s = self.boottime()
        if 0 <= now_s - self._asked_at_s < _ASK_EVERY_S:
            return
        self._asked_at_s = now_s
        self._known = self._ask()
        wall = self._wall()
        is_wrong = self._is_wrong(wall)
        if is_wrong != self._was_wrong:
            self._was_wrong = is_wrong
            self._tell(wall, is_wrong=is_wrong)
        if self._known and not is_wrong:
            self._floor = (wall, now_s)  # in either direction: a floor that was too high is mended here

    def _is_wrong(self, wall: float) -> bool:
        if wall < RELEASED:
            return True
        return self._known is not True and wall < self.floor() - _SLACK_S

    def _tell(self, wall: float, *, is_wrong: bool) -> None:
        if is_wrong:
            hint = "set up time synchronization (systemd-timesyncd, chrony); see gateway.clock_sync_file"
            log.error(
                "the clock is behind, time goes on from when it was last right", clock=wall, now=self.floor(), hint=hint
            )
        else:
            log.info("the clock is believed again", moved_s=round(wall - self.floor(), 3), is_synced=self._known)
