"""What `/status` says of cascades. Reads plain numbers, changes nothing."""

from collections.abc import Mapping
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
    if today := _today(post):
        shown["today"] = today
    return shown


def tier_days(posts: Mapping[str, Post]) -> dict[tuple[str, ...], float]:
    """What each tier has cost today, by tier and kind."""
    return {(name, kind): amount for name, post in posts.items() for kind, amount in _today(post).items()}


def _today(post: Post) -> dict[str, float]:
    budget = getattr(post.client, "budget", None)  # a simulated tier has none
    if budget is None:
        return {}
    spent = budget.spent()
    return {"calls": spent.n_calls, "tokens": spent.n_tokens, "bytes": spent.n_bytes, "cost": spent.cost}
