"""Decisions of a cascade, for the tests of what is done with them."""

from gatewayd.cascade.verdict import Decision, Verdict


def verdict(tier: str = "student", label: str = "normal", confidence: float = 0.97, **more: object) -> Verdict:
    """One tier's answer, by default one that is sure."""
    scores = {label: confidence, "other": round(1 - confidence, 6)}
    fields = {"model": "head", "model_version": "1", "scores": scores, **more}
    return Verdict(tier=tier, label=label, confidence=confidence, **fields)  # type: ignore[arg-type]


def decision(number: int, *, route: str = "logs", said: Verdict | None = None, **more: object) -> Decision:
    """A decision about the message with that number."""
    said = said or verdict()
    fields = {"asked": (said,), "accept": 0.9, "next_tier": "", "cause": "sure", **more}
    return Decision(route=route, key=f"0f-{number:010x}", time=1_763_724_000.0 + number, verdict=said, **fields)  # type: ignore[arg-type]
