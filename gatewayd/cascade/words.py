"""What was decided about a message, and why, in words for a person. Pure."""

from gatewayd.cascade.policy import Rules, TierView
from gatewayd.cascade.verdict import Cause, Verdict


def why_handed_on(cause: Cause, tier: TierView, verdict: Verdict) -> str:
    """Why this tier's answer was not enough."""
    match cause:
        case "novel":
            return f"unlike what it was calibrated on: novelty {_n(verdict.novelty)}, at most {_n(tier.max_novelty)}"
        case "abstained" if tier.abstain is not None:
            return f"its score lies in the abstain band, {_n(tier.abstain[0])} to {_n(tier.abstain[1])}"
        case "no_answer":
            return "it gave no answer that can be used"
        case _:
            return f"not sure enough: {_n(verdict.confidence)}, needed {_n(tier.accept)}"


def why_taken(cause: Cause, tier: TierView | None, verdict: Verdict, doubt: Cause | None) -> str:
    """Why the answer stands, although it may not be sure."""
    if cause == "sure" or tier is None or doubt is None:
        return f"sure enough: {_n(verdict.confidence)}" + (f", needed {_n(tier.accept)}" if tier else "")
    unsure = why_handed_on(doubt, tier, verdict)
    instead = {
        "last": "there is no tier above it",
        "privacy": "every tier above is beyond the route's `privacy`",
        "latency": "the tiers above take longer than the route's `max_latency_ms`",
        "budget": "the budget of the tiers above is spent for today",
        "full": "`max_waiting` escalations wait already",
        "refused": "the tier above refused it",
        "no_answer": "the tiers above gave no answer",
        "expired": "it waited longer than `max_age_s`",
    }
    return f"{unsure}; but {instead.get(cause, cause)}"


def why_passed_over(cause: Cause, rules: Rules, tier: TierView) -> str:
    """Why a tier above was not asked."""
    match cause:
        case "privacy":
            return f'the route says privacy = "{rules.privacy}", and this tier is at place = "{tier.place}"'
        case "latency":
            usual, most = tier.usual_latency_ms, rules.max_latency_ms
            return f"it usually takes {usual:.0f} ms, max_latency_ms = {most:g}"
        case "budget":
            return 'its budget of today is spent, and when_spent = "settle"'
        case "no_answer":
            return "asked, and gave no label"
        case _:
            return cause


def when_away(rules: Rules, next_tier: str) -> str:
    """What happens while the tier that is asked next cannot be reached."""
    spent = "waits for the next day" if rules.when_spent == "wait" else "is settled with the local answer"
    return (
        f"While {next_tier} is away: the local answer is out already, marked provisional; the message waits in the "
        f"journal (at most {rules.max_waiting} of this route) and is asked about when {next_tier} is back. After "
        f"{_duration(rules.max_age_s)} it is settled with the local answer; when the budget of the day is spent, it "
        f"{spent}. Either way one correction follows, which names the first answer."
    )


def _n(number: float | None) -> str:
    return "unknown" if number is None else f"{number:.4g}"


def _duration(seconds: float) -> str:
    for size, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {name}"
    return f"{seconds:.3g} s"
