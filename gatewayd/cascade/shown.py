"""What `/status` says of cascades. Reads plain numbers, changes nothing."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from gatewayd.cascade.budgets import Budget, Spending
from gatewayd.cascade.ladder import Ladder, by_cause
from gatewayd.cascade.post import Post
from gatewayd.cascade.remote.breaker import STATES
from gatewayd.otel import Reading


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
    if isinstance(post.client, Far):
        shown["circuit"] = post.client.state
        shown["reason"] = post.client.reason  # why it is not up
        shown["max_per_day"] = _limits(post.client)
    return shown


@runtime_checkable
class Far(Protocol):
    """A client with a circuit breaker and a budget."""

    @property
    def state(self) -> str: ...

    @property
    def reason(self) -> str: ...

    @property
    def budget(self) -> Budget: ...

    @property
    def sent_bytes(self) -> int: ...


def observe_clients(observe: Callable[[str, Callable[[], Reading]], None], posts: Mapping[str, Post]) -> None:
    """Register what circuit breakers and budgets read."""
    far = {name: post.client for name, post in posts.items() if isinstance(post.client, Far)}
    observe("gatewayd.tier.wire", lambda: {(name,): float(one.sent_bytes) for name, one in far.items()})
    observe(
        "gatewayd.tier.state",
        lambda: {(name, state): float(one.state == state) for name, one in far.items() for state in STATES},
    )
    observe(
        "gatewayd.tier.budget",
        lambda: {(name, kind): most for name, one in far.items() for kind, most in _limits(one).items()},
    )


def _limits(client: Far) -> dict[str, float]:
    """Those that a day has."""
    return {kind: most for kind, most in _by_kind(client.budget.limits).items() if most}


def tier_days(posts: Mapping[str, Post]) -> dict[tuple[str, ...], float]:
    """What each tier has cost today, by tier and kind."""
    return {(name, kind): amount for name, post in posts.items() for kind, amount in _today(post).items()}


def _today(post: Post) -> dict[str, float]:
    budget = getattr(post.client, "budget", None)  # a simulated tier has none
    if budget is None:
        return {}
    return _by_kind(budget.spent())


def _by_kind(spent: Spending) -> dict[str, float]:
    return {"calls": spent.n_calls, "tokens": spent.n_tokens, "bytes": spent.n_bytes, "cost": spent.cost}
