"""What `/status` says of cascades. Reads plain numbers, changes nothing."""

from typing import Any

from gatewayd.cascade.ladder import Ladder, by_cause
from gatewayd.cascade.post import Post


def cascade_status(ladder: Ladder) -> dict[str, Any]:
    """One route's: its tiers, how many escalations wait, what was decided since the start."""
    return {
        "tiers": [tier.name for tier in ladder.tiers],
        "privacy": ladder.rules.privacy,
        "accept": {view.name: view.accept for view in ladder.views()},
        "waiting": ladder.n_waiting,
        "decisions": by_cause(ladder.decisions),
    }


def post_status(post: Post) -> dict[str, Any]:
    """A tier outside of this box: whether it answers, and what of today's budget it has used."""
    shown: dict[str, Any] = {
        "place": post.client.place,
        "state": post.state,
        "usual_latency_ms": round(post.usual_latency_ms, 1),
    }
    budget = getattr(post.client, "budget", None)
    if budget is not None:
        spent = budget.spent()
        shown["today"] = {
            "calls": spent.n_calls,
            "tokens": spent.n_tokens,
            "bytes": spent.n_bytes,
            "cost": spent.cost,
        }
    return shown
