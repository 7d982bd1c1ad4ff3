"""Learning from one's betters: what higher tiers answered is kept with the payload, for `gatewayd models distill`.

Invariants: only of routes whose `escalation.lessons` is true; what is kept stays on this box, within the route's
`max_lessons_bytes`. `keep` never waits and touches no file: a thread of its own writes, what it cannot write is dropped
and counted. For each lesson one answer that the student was sure of is kept beside it (a rehearsal): a student that
learned from its doubts alone would forget what it knows.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog

from gatewayd.cascade.lesson_files import Lesson, Segments
from gatewayd.cascade.verdict import Decision
from gatewayd.config.schema import Route

log = structlog.get_logger(__name__)

OnEvent = Callable[[str, str, int], None]  # (route, "kept" or why it was given up, n)

_GATHER_S = 0.2  # one write for what comes within it
_RETRY_S = 5.0


class Lessons:
    """All routes'. `wants` from any thread; `keep` from the event loop; `close` from a thread that may block."""

    def __init__(self, root: Path, routes: Mapping[str, Route], on_event: OnEvent = lambda _r, _e, _n: None) -> None:
        """`root` is `<state>/lessons`. `on_event` is called from the thread that writes, and from `keep`."""
        limits = {
            name: route.escalation.max_lessons_bytes for name, route in routes.items() if route.escalation.lessons
        }
        self._max_bytes = {name: limit for name, limit in limits.items() if limit > 0}
        self._files = {name: Segments(root / name, limit) for name, limit in self._max_bytes.items()}
        self._on_event = on_event
        self._owed = dict.fromkeys(self._max_bytes, 0)  # rehearsals, by route
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._waiting_bytes = dict.fromkeys(self._max_bytes, 0)
        self._lock = threading.Lock()
        self._wanted = threading.Event()
        self._ending = threading.Event()
        self._is_failing = False
        self._thread: threading.Thread | None = None

    def wants(self, route: str, decision: Decision) -> bool:
        """Whether this is something to learn from."""
        if route not in self._max_bytes or not decision.is_final or not decision.asked:
            return False
        if decision.verdict.tier != decision.asked[0].tier:
            return True
        return decision.cause == "sure" and self._owed[route] > 0

    def keep(
        self, route: str, decision: Decision, *, topic: str, time: float, value: Any, is_evidence: bool = False
    ) -> None:
        """Put it on its way to the disk, if it is wanted. `value`: the decoded payload, or the handler's evidence."""
        if not self.wants(route, decision):
            return
        verdict = decision.verdict
        lesson = Lesson(
            key=decision.key,
            topic=topic,
            time=time,
            value=value,
            student=decision.asked[0],
            label=verdict.label,
            tier=verdict.tier,
            confidence=verdict.confidence,
            model=verdict.model,
            is_evidence=is_evidence,
        )
        self._owed[route] += -1 if lesson.is_rehearsal else 1
        try:
            line = msgspec.json.encode(lesson) + b"\n"
        except (TypeError, ValueError, msgspec.MsgspecError):  # bytes of an own decoder, an integer beyond 64 bits
            self._on_event(route, "not_json", 1)
            return
        self._put(route, line)

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what waits. Blocks, for at most `timeout_s`."""
        self._ending.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _put(self, route: str, line: bytes) -> None:
        with self._lock:
            # What waits in memory is at most what one file on disk holds.
            is_full = self._waiting_bytes[route] + len(line) > self._max_bytes[route] // 8
            if not is_full:
                self._waiting.append((route, line))
                self._waiting_bytes[route] += len(line)
        if is_full:
            self._on_event(route, "full", 1)
            return
        if self._thread is None and not self._ending.is_set():
            self._thread = threading.Thread(target=self._run, name="lessons", daemon=True)
            self._thread.start()
        self._wanted.set()

    def _run(self) -> None:
        while not self._ending.is_set():
            self._wanted.wait()
            self._wanted.clear()
            self._ending.wait(_RETRY_S if self._is_failing else _GATHER_S)
            self._write()
        self._write()
        for files in self._files.values():
            try:
                files.sync()
            except OSError as error:
                log.warning("lessons could not be synced", cause=str(error))
            files.close()

    def _write(self) -> None:
        """All that waits, a write a route."""
        with self._lock:
            taken, self._waiting = self._waiting, deque()
            self._waiting_bytes = dict.fromkeys(self._max_bytes, 0)
        by_route: dict[str, list[bytes]] = {}
        for route, line in taken:
            by_route.setdefault(route, []).append(line)
        failure = ""
        for route, lines in by_route.items():
            try:
                n_given_up = self._files[route].append(b"".join(lines))
            except OSError as error:
                failure = str(error)
                self._on_event(route, "failed", len(lines))
                continue
            self._on_event(route, "kept", len(lines))
            if n_given_up:
                self._on_event(route, "oldest", n_given_up)
        if failure and not self._is_failing:
            log.warning("lessons cannot be written, they are dropped until they can", cause=failure)
        elif by_route and not failure and self._is_failing:
            log.info("lessons are written again")
        self._is_failing = bool(failure)
