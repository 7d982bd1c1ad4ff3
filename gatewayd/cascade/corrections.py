"""The correction that follows a provisional answer. Pure.

Invariant: its key depends on the provisional answer's key alone, so that settling an escalation again after a crash
gives the same one, and the far side stores it once.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from gatewayd.cascade.note import Note
from gatewayd.cascade.verdict import Decision
from gatewayd.ports import NewResult, RawMessage

SUFFIX = ".final"


def correction_key(first_key: str) -> str:
    """The CloudEvents id of the correction of a provisional answer."""
    return first_key + SUFFIX


def is_changed(note: Note, decision: Decision) -> bool:
    """Whether the better answer is another one."""
    return decision.verdict.label != note.first.label


def correction(
    raw: RawMessage, note: Note, decision: Decision, *, now: float, extra: Mapping[str, Any] | None = None
) -> NewResult:
    """The correction: kind and subject of the provisional answer, the better answer's data, and what it corrects."""
    verdict = decision.verdict
    data: dict[str, Any] = {
        "label": verdict.label,
        "score": round(verdict.scores.get(verdict.label, verdict.confidence), 6),
        "scores": {label: round(score, 6) for label, score in verdict.scores.items()},
        "model": verdict.model,
        "model_version": verdict.model_version,
        "tier": verdict.tier,
        "confidence": round(verdict.confidence, 6),
        "provisional": False,
        "corrects": note.first_key,
        "changed": is_changed(note, decision),
        "cause": decision.cause,
        "asked": [each.tier for each in decision.asked],
        "latency_ms": round(max(0.0, now - note.born.time) * 1000, 3),
        **(extra or {}),
    }
    return NewResult(
        key=correction_key(note.first_key),
        kind=note.first.kind,
        subject=raw.topic,
        time=now,
        data=msgspec.json.encode(data),
        traceparent=raw.traceparent,
    )
