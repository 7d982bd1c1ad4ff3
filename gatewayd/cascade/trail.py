"""The audit trail: every decision of the cascade, hash-chained on disk, written by a thread of its own.

Invariant: `record` never waits, never raises and never touches a file; what cannot be written waits in bounded memory,
then is dropped, counted, and told in the trail itself. A line is handed to the kernel within milliseconds, so a process
that is killed loses next to nothing; it is synced every `flush_s`, which is what a power cut loses at most. Payloads
are never in it: a message is named by its key.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

import structlog

from gatewayd import __version__
from gatewayd.cascade.chain_files import Head
from gatewayd.cascade.chain_writer import ChainWriter, OnEvent, Record
from gatewayd.cascade.verdict import Decision, Verdict
from gatewayd.config.environment import Paths
from gatewayd.config.schema import Audit
from gatewayd.models.digest import ManifestDigests
from gatewayd.ports import Clock

log = structlog.get_logger(__name__)

FOLDER = "audit"
_GATHER_S = 0.01  # one write for what is decided within it
_CLOCK = {True: "synced", False: "unsynced", None: "unknown"}

DigestOf = Callable[[str, str], str]  # (model, version) -> SHA-256 of its manifest, "" where it is not known


class AuditTrail:
    """`record` from the event loop, `close` from any thread that may block."""

    def __init__(
        self,
        paths: Paths,
        config: Audit,
        clock: Clock,
        on_event: OnEvent = lambda _event, _n: None,
        digest_of: DigestOf | None = None,
    ) -> None:
        """`on_event(event, n)` is called from the trail's thread and from `record`, for counters."""
        self._config = config
        self._clock = clock
        self._on_event = on_event
        self._digest_of = digest_of or ManifestDigests(paths.models)
        self._writer = ChainWriter(paths.state_dir / FOLDER, config, self._stamp, on_event)
        self._waiting: deque[_Noted] = deque()
        self._lock = threading.Lock()
        self._n_dropped = 0
        self._has_started = False
        self._wanted = threading.Event()
        self._ending = threading.Event()
        self._is_started = False
        self._is_open = False
        self._is_failing = False
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)

    @property
    def head(self) -> Head:
        """Number and hash of the last line: whoever notes it elsewhere can prove later that none before was changed."""
        return self._writer.head

    def start(self) -> None:
        """Begin to write; the first `record` does it by itself, so that a box without cascades has no trail."""
        self._is_started = True
        self._thread.start()

    def record(self, decision: Decision, *, corrects: str = "") -> None:
        """Put a decision on its way into the trail. `corrects`: the key of the first result that this one corrects."""
        if not self._is_started:
            self.start()
        if len(self._waiting) >= self._config.max_waiting:
            with self._lock:
                self._n_dropped += 1
            self._on_event("dropped", 1)
            return
        self._waiting.append(_Noted(decision, corrects, _CLOCK[self._clock.is_synced()]))
        if not self._wanted.is_set():
            self._wanted.set()

    def close(self, timeout_s: float = 10.0) -> None:
        """Write and sync what waits. Blocks, for at most `timeout_s`: a disk that hangs must not hold up the stop."""
        self._ending.set()
        self._wanted.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        """Write what comes, at once; sync when `flush_s` has passed since the first line that is not synced."""
        flush_s, monotonic = self._config.flush_s, self._clock.monotonic
        self._turn(sync=True)
        due_s = monotonic() + flush_s if self._is_failing else None
        while not self._ending.is_set():
            self._wanted.wait(None if due_s is None else max(0.0, due_s - monotonic()))
            self._wanted.clear()
            self._ending.wait(_GATHER_S)
            now_s = monotonic()
            due_s = now_s + flush_s if due_s is None else due_s
            is_due = now_s >= due_s
            if is_due or not self._is_failing:  # what fails is tried again every `flush_s`
                self._turn(sync=is_due)
            if is_due:
                due_s = now_s + flush_s if self._is_failing else None
        self._turn(sync=False)
        self._writer.tell("stopped")
        self._turn(sync=True)
        self._writer.close()

    def _turn(self, *, sync: bool) -> None:
        """One attempt. What fails is said once, and tried again later: no message ever waits for it."""
        try:
            self._open()
            self._append()
            if sync:
                self._writer.sync()
        except OSError as error:
            self._on_event("failed", 1)
            self._writer.close()
            self._is_open = False
            if not self._is_failing:
                hint = "decisions wait in memory, up to audit.max_waiting, and are dropped beyond (counted)"
                log.error("the audit trail cannot be written", cause=str(error), hint=hint)
            self._is_failing = True
        else:
            if self._is_failing:
                log.info("the audit trail is written again")
            self._is_failing = False

    def _open(self) -> None:
        if self._is_open:
            return
        finding = self._writer.open()
        self._is_open = True
        if not self._has_started:
            self._has_started = True
            was_clean = finding.last is None or finding.last.event == "stopped"
            self._writer.tell("started", version=__version__, was_clean=was_clean)

    def _append(self) -> None:
        self._count(self._writer.append(self._waiting, self._record_of))
        with self._lock:
            n_dropped, self._n_dropped = self._n_dropped, 0
        if n_dropped:
            self._writer.tell("dropped", n=n_dropped)
            self._count(self._writer.append(self._waiting, self._record_of))

    def _count(self, n_written: int) -> None:
        if n_written:
            self._on_event("written", n_written)

    def _stamp(self) -> Record:
        return {"time": self._clock.now(), "clock": _CLOCK[self._clock.is_synced()]}

    def _record_of(self, noted: "_Noted") -> Record:
        return record_of(noted.decision, noted.corrects, noted.clock, self._digest_of, self._config.max_scores)


class _Noted(NamedTuple):
    decision: Decision
    corrects: str
    clock: str


def record_of(decision: Decision, corrects: str, clock: str, digest_of: DigestOf, max_scores: int) -> Record:
    """What the trail keeps of a decision. Pure but for `digest_of`."""
    verdict = decision.verdict
    others = [each for each in decision.asked if each != verdict]
    record: Record = {
        "route": decision.route,
        "key": decision.key,
        "time": decision.time,
        "clock": clock,
        **_said(verdict, digest_of, max_scores),
        "accept": decision.accept,
        "cause": decision.cause,
        "next_tier": decision.next_tier,
        "passed_over": dict(decision.passed_over),
    }
    if others:
        record["asked"] = [_said(each, digest_of, max_scores) for each in others]
    if corrects:
        record["corrects"] = corrects
    return record


def _said(verdict: Verdict, digest_of: DigestOf, max_scores: int) -> Record:
    """One tier's answer; `bundle` is the SHA-256 of its model.toml, "" for a tier that is not on this box."""
    said: Record = {
        "tier": verdict.tier,
        "model": verdict.model,
        "model_version": verdict.model_version,
        "bundle": digest_of(verdict.model, verdict.model_version),
        "label": verdict.label,
        "scores": _highest(verdict.scores, max_scores),
        "confidence": verdict.confidence,
        "novelty": verdict.novelty,
    }
    if len(verdict.scores) > max_scores:
        said["n_scores_left_out"] = len(verdict.scores) - max_scores
    return said


def _highest(scores: Mapping[str, float], n: int) -> dict[str, float]:
    if len(scores) <= n:
        return dict(scores)
    return dict(sorted(scores.items(), key=lambda item: -item[1])[:n])
