"""Which sessions are in memory: loaded when called, unloaded when idle or when another needs the room.

Invariants: a session is never unloaded while it is in a call, nor when its files are no longer there to load it from;
whoever calls never sees the difference, but for the time a load takes. The budget is kept by unloading what is idle,
never by refusing a call: while all that is loaded is in use, memory may be above it, and the log says so.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Literal

import structlog

from gatewayd.errors import TransientError
from gatewayd.memory import give_back_freed
from gatewayd.models.factories import GAUGES, Session

log = structlog.get_logger(__name__)

_LAST_CALL_S = 120.0  # how long the last calls of a version that was replaced may take
_LOOK_S = 0.02

Reason = Literal["idle", "budget", "swapped", "closed"]


class Resident:
    """One model's session, which may come and go. Called from any thread."""

    def __init__(
        self,
        name: str,
        open_session: Callable[[], tuple[Session, int]],
        residency: "Residency",
        *,
        file_bytes: int,
        may_unload: Callable[[], bool] = lambda: True,
    ) -> None:
        """`open_session` gives a session and what it takes, in bytes; `may_unload`: whether it could do so again."""
        self.name = name
        self.has_loaded = False
        self.last_used_s = 0.0
        self.expected_bytes = file_bytes  # until it was loaded once
        self._open_session = open_session
        self._residency = residency
        self._may_unload = may_unload
        self._session: Session | None = None
        self._n_in_call = 0
        self._is_loading = False
        self._closed_for: Reason | None = None
        self._past: Counter[str] = Counter()  # totals of the sessions there were
        self._passed_on: Counter[str] = Counter()  # of them: what a newer version counts by now
        self._state = threading.Lock()  # held for moments
        self._loading = threading.Lock()  # held while it loads: minutes, for a language model on a slow card

    def take(self) -> Session:
        """The session, loaded if need be; it stays until `give_back`. Raises ModelError as the first load does."""
        with self._state:
            if self._session is not None and self._closed_for is None:
                self._n_in_call += 1
                return self._session
        with self._loading:
            return self._load_and_take()

    def give_back(self) -> None:
        """The call is over. Once for each `take`."""
        with self._state:
            self._n_in_call -= 1
            self.last_used_s = self._residency.monotonic()

    def unload(self, reason: Reason) -> bool:
        """Close the session. False when there is none, it is in a call, or it could not be loaded again."""
        if not self.is_idle or not self._may_unload():
            return False
        with self._state:
            if self._n_in_call:
                return False
            session = self._let_go()
        return self._end(session, reason)

    def close(self, reason: Reason) -> None:
        """Close the session for good; calls after that raise TransientError.

        Those under way are waited for when a newer version has taken its place, and only then.
        """
        with self._state:
            self._closed_for = reason
        if reason == "swapped":
            self._wait_for_calls()
        with self._state:
            session = self._let_go()
        self._end(session, reason)

    @property
    def is_loaded(self) -> bool:
        return self._session is not None

    @property
    def is_swapped(self) -> bool:
        """Closed, because a newer version took its place."""
        return self._closed_for == "swapped"

    @property
    def is_idle(self) -> bool:
        """Loaded, and in no call."""
        return self._session is not None and not self._n_in_call

    def memory_bytes(self) -> int:
        """What the session takes: of a worker what it has now, of a tensor session what loading it took."""
        session = self._session
        if session is None:
            return self.expected_bytes if self._is_loading else 0
        measured = session.stats().get("resident_bytes")
        return self.expected_bytes if measured is None else int(measured)

    def stats(self) -> dict[str, float]:
        """Totals over all the sessions there were, `loads` among them, and the gauges of the one that is."""
        with self._state:
            now = {} if self._session is None else self._session.stats()
            totals = self._totals(now)
        return {key: float(total) for key, total in totals.items()} | {key: now[key] for key in GAUGES & now.keys()}

    def take_over(self, older: "Resident") -> None:
        """Go on counting from what an older version has come to; again, when its last call is over."""
        with older._state:
            totals = older._totals({} if older._session is None else older._session.stats())
            more = totals - older._passed_on
            older._passed_on = totals
        with self._state:
            self._past += more

    def _wait_for_calls(self) -> None:
        """A slow tier may be in the middle of an answer: minutes, at most, on a small box."""
        until_s = time.monotonic() + _LAST_CALL_S
        while self._n_in_call and time.monotonic() < until_s:
            time.sleep(_LOOK_S)

    def _totals(self, now: Mapping[str, float]) -> Counter[str]:
        return self._past + Counter({key: int(value) for key, value in now.items() if key not in GAUGES})

    def _load_and_take(self) -> Session:
        with self._state:
            if self._closed_for is not None:
                raise TransientError(f'model "{self.name}" was closed: a newer version took its place, or we stop')
            if self._session is not None:  # somebody else loaded it meanwhile
                self._n_in_call += 1
                return self._session
            self._is_loading = True
        try:
            self._residency.make_room(self, self.expected_bytes)
            session, measured_bytes = self._open_session()
        finally:
            self._is_loading = False
        with self._state:
            self._session = session
            self._n_in_call += 1
            self.has_loaded = True
            self._past["loads"] += 1
            self.expected_bytes = measured_bytes
            self.last_used_s = self._residency.monotonic()
        self._residency.make_room(self, 0)
        return session

    def _let_go(self) -> Session | None:
        session, self._session = self._session, None
        if session is not None:
            self._past = self._totals(session.stats())
        return session

    def _end(self, session: Session | None, reason: Reason) -> bool:
        if session is None:
            return False
        session.close()
        give_back_freed()
        self._residency.unloaded(self, reason)
        return True


class Residency:
    """The sessions of a box, and the memory they may take together."""

    def __init__(
        self,
        max_bytes: int,
        idle_unload_s: float,
        on_unload: Callable[[str, Reason], None] = lambda _model, _reason: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`max_bytes`: 0 = no budget. `idle_unload_s`: 0 = never. `on_unload` is called from any thread."""
        self.monotonic = monotonic
        self.max_bytes = max_bytes
        self._idle_unload_s = idle_unload_s
        self._on_unload = on_unload
        self._residents: list[Resident] = []
        self._lock = threading.Lock()
        self._is_over = False  # above the budget, and said so

    def add(self, resident: Resident) -> None:
        """Count it in."""
        with self._lock:
            self._residents.append(resident)

    def remove(self, resident: Resident) -> None:
        """Count it no longer."""
        with self._lock:
            self._residents.remove(resident)

    def memory_bytes(self) -> int:
        """What all sessions take together."""
        return sum(resident.memory_bytes() for resident in self._all())

    def sweep(self) -> None:
        """Unload what has been idle for long, and what is too much by now: a worker grows with its context."""
        self.make_room(None, 0)
        if not self._idle_unload_s:
            return
        before_s = self.monotonic() - self._idle_unload_s
        for resident in self._all():
            if resident.is_idle and resident.last_used_s <= before_s:
                resident.unload("idle")

    def make_room(self, wanted_by: Resident | None, n_bytes: int) -> None:
        """Unload idle sessions, the least recently used first, until `n_bytes` more fit into the budget."""
        if not self.max_bytes:
            return
        others = [resident for resident in self._all() if resident is not wanted_by]
        own_bytes = 0 if wanted_by is None else max(n_bytes, wanted_by.memory_bytes())
        for resident in sorted(others, key=lambda one: one.last_used_s):
            if own_bytes + sum(one.memory_bytes() for one in others) <= self.max_bytes:
                break
            if resident.is_idle:
                resident.unload("budget")
        self._judge(own_bytes + sum(one.memory_bytes() for one in others))

    def unloaded(self, resident: Resident, reason: Reason) -> None:
        """Count and say that a session went."""
        self._on_unload(resident.name, reason)
        if reason in ("idle", "budget"):
            log.info("model unloaded, the next call loads it again", model=resident.name, reason=reason)

    def _judge(self, used_bytes: int) -> None:
        is_over = used_bytes > self.max_bytes
        if is_over and not self._is_over:
            log.warning(
                "models take more than their budget, all are in use or cannot be loaded again",
                used_bytes=used_bytes,
                max_resident_bytes=self.max_bytes,
                hint="raise models.max_resident_bytes, or choose smaller models",
            )
        self._is_over = is_over

    def _all(self) -> list[Resident]:
        with self._lock:
            return list(self._residents)
