"""The wiring of cascades: a route's tiers, built. Knows concrete classes, as `gatewayd.wiring` does.

Invariant: a tier outside of this box has one client and one state for all the routes that ask it; a handler belongs to
one route, for it may keep state.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from gatewayd.api import Handler, Model
from gatewayd.cascade.escalation import Escalations
from gatewayd.cascade.handler import CascadeHandler
from gatewayd.cascade.ladder import FarTier, Ladder, LocalTier, Tier
from gatewayd.cascade.lessons import Lessons
from gatewayd.cascade.local import HandlerClient
from gatewayd.cascade.parts import CascadePart, Cascades
from gatewayd.cascade.policy import Rules, is_within
from gatewayd.cascade.post import Post
from gatewayd.cascade.reading import Calibrations
from gatewayd.cascade.recall import Recall
from gatewayd.cascade.redact import redaction
from gatewayd.cascade.trail import AuditTrail
from gatewayd.config import schema
from gatewayd.config.tiers import HandlerTier, HttpTier, KServeTier, OpenAITier
from gatewayd.errors import ConfigError
from gatewayd.models.store import ModelStore
from gatewayd.models.view import RouteModels
from gatewayd.ports import Clock, TierClient
from gatewayd.registry import Found, load_handler, make_handler
from gatewayd.route import RouteContext
from gatewayd.spool import SqliteSpool
from gatewayd.telemetry import Telemetry
from gatewayd.terms import Terms

if TYPE_CHECKING:
    from gatewayd.wiring import Ground

_LOCAL_BATCH = 8  # questions that a slow handler gets at once: a language model writes several answers side by side


def build_tier_handlers(config: schema.Config, name: str, found: Mapping[str, Found]) -> CascadeHandler:
    """The handlers of a route's tiers. Raises ConfigError naming the key that is wrong."""
    fast: list[LocalTier] = []
    slow: list[LocalTier] = []
    for index, tier_name in enumerate(config.routes[name].tiers):
        tier = config.tiers[tier_name]
        if not isinstance(tier, HandlerTier):
            if index == 0:
                raise ConfigError(f"routes.{name}.tiers", f"the first tier must be a handler: `{tier_name}` is none")
            continue
        key = f"tiers.{tier_name}"
        handler_class = load_handler(tier.handler, found, key=f"{key}.handler")
        make = partial(make_handler, handler_class, tier.options, key=f"{key}.options")
        handler = make()
        made = _local(tier_name, tier, handler, make)
        is_fast = not handler.journaled and len(fast) == index
        if not fast and not is_fast:
            problem = f"the first tier must answer in milliseconds: `{tier.handler}` works from the journal"
            raise ConfigError(f"routes.{name}.tiers", problem)
        if not is_fast and getattr(handler, "stateful", False):
            problem = f"`{tier_name}` keeps state and must see every message: put it before slow tiers and far ones"
            raise ConfigError(f"routes.{name}.tiers", problem)
        (fast if is_fast else slow).append(made)
    return CascadeHandler(fast, slow)


def _local(name: str, tier: HandlerTier, handler: Handler, make: Callable[[], Handler]) -> LocalTier:
    abstain = (tier.abstain[0], tier.abstain[1]) if tier.abstain else None
    return LocalTier(name, handler, make, accept=tier.accept, max_novelty=tier.max_novelty, abstain=abstain)


def rules_of(route: schema.Route) -> Rules:
    """What a route says about escalating. What expires by `ttl_s` is not worth an answer either."""
    escalation = route.escalation
    return Rules(
        privacy=escalation.privacy,
        max_latency_ms=escalation.max_latency_ms,
        max_age_s=min(escalation.max_age_s, route.ttl_s or escalation.max_age_s),
        when_spent=escalation.when_spent,
        max_waiting=escalation.max_waiting,
    )


@dataclass(frozen=True, slots=True)
class _Base:
    """What every cascade is built on."""

    config: schema.Config
    clock: Clock
    telemetry: Telemetry
    models: ModelStore
    may_ask: Callable[[str, int], None]
    posts: Mapping[str, Post]  # of the tiers outside of this box
    trail: AuditTrail | None
    lessons: Lessons | None


def build_cascades(
    ground: "Ground",
    spool: SqliteSpool,
    models: ModelStore,
    contexts: Mapping[str, RouteContext],
    clients: Mapping[str, TierClient] | None,
    may_ask: Callable[[str, int], None],
) -> Cascades:
    """A cascade for each route with tiers; its handler and its stages take part in it from now on. `clients`: in place
    of those of the config. `may_ask`: with a route and its priority, before each call of a language model."""
    config, clock, telemetry = ground.config, ground.clock, ground.telemetry
    handlers = {
        name: context.runner.handler
        for name, context in contexts.items()
        if isinstance(context.runner.handler, CascadeHandler)
    }
    posts = build_posts(config, build_clients(ground, spool) if clients is None else clients, clock, telemetry)
    base = _Base(config, clock, telemetry, models, may_ask, posts, _trail(ground), _lessons(ground))
    parts = {name: _build_cascade(base, contexts[name], handler) for name, handler in handlers.items()}
    return Cascades(parts, posts, [keeper for keeper in (base.trail, base.lessons) if keeper is not None])


def _trail(ground: "Ground") -> AuditTrail | None:
    """Started, where a route wants one."""
    if not any(route.tiers and route.escalation.audit for route in ground.config.routes.values() if route.enabled):
        return None
    trail = AuditTrail(ground.paths, ground.config.audit, ground.clock, ground.telemetry.audit_event)
    trail.start()
    return trail


def _lessons(ground: "Ground") -> Lessons | None:
    routes = {name: route for name, route in ground.config.routes.items() if route.tiers and route.escalation.lessons}
    return Lessons(ground.paths.state_dir / "lessons", routes, ground.telemetry.lessons_event) if routes else None


def build_clients(ground: "Ground", spool: SqliteSpool) -> dict[str, TierClient]:
    """A client for each tier outside of this box that may be asked. Raises ConfigError: a secret, a file for TLS."""
    asked = asked_tiers(ground.config)
    return {name: _remote_client(ground, spool, name, tier) for name, tier in asked.items()}


def _remote_client(
    ground: "Ground", spool: SqliteSpool, name: str, tier: OpenAITier | KServeTier | HttpTier
) -> TierClient:
    # Not at the top: a gateway without far tiers pays for no HTTP client.
    from gatewayd.cascade.remote.build import HELD, build_client

    held = HELD.format(name)
    return build_client(
        name,
        tier,
        gateway=ground.gateway,
        token=None if tier.token is None else ground.secret(tier.token, f"tiers.{name}.token"),
        book=spool.spending,
        clock=ground.clock,
        draw=random.random,
        report=ground.telemetry,
        repeat_s=ground.config.log.repeat_s,
        held_s=spool.held_s(held),
        hold=partial(spool.hold, held),
    )


def _build_cascade(ground: _Base, context: RouteContext, handler: CascadeHandler) -> CascadePart:
    slow = {tier.name: tier for tier in handler.slow}
    clients: list[HandlerClient] = []
    tiers: list[Tier] = [*handler.fast]
    for name in context.config.tiers:
        if name in slow:
            client = _client(ground, context, slow[name])
            slow[name].post = _local_post(ground, context.config, client)
            clients.append(client)
            tiers.append(slow[name])
        elif (far := _far(ground, name, context.config)) is not None:
            tiers.append(far)
    ladder = Ladder(
        context.name,
        rules_of(context.config),
        tiers,
        ground.telemetry,
        ground.clock,
        log=ground.trail if context.config.escalation.audit else None,
        lessons=ground.lessons if context.config.escalation.lessons else None,
    )
    handler.bind(ladder)
    context.cascade = ladder
    redact = redaction(
        context.config.escalation.redact,
        key=f"routes.{context.name}.escalation.redact",
        count=lambda pattern, n: ground.telemetry.redacted(context.name, pattern, n),
    )
    return CascadePart(ladder, Escalations(context, ladder, redact), clients)


def _far(ground: _Base, name: str, route: schema.Route) -> FarTier | None:
    """A tier outside of this box; None for a handler, and (in a replay) for one that there is nobody to ask for."""
    tier, post = ground.config.tiers[name], ground.posts.get(name)
    if isinstance(tier, HandlerTier) or (post is None and is_within(route.escalation.privacy, tier.place)):
        return None
    return FarTier(name, tier.place, post, accept=tier.accept)


def _client(ground: _Base, context: RouteContext, tier: LocalTier) -> HandlerClient:
    def started(calibrations: Calibrations) -> None:
        tier.calibrations = calibrations

    # Without the route's deadline: that was for the first answer, which is out.
    terms = Terms(context.name, context.config.priority, None, ground.clock)
    models = RouteModels(ground.models, terms, partial(ground.may_ask, context.name, terms.priority))
    is_stale = partial(_is_stale, ground.models)
    return HandlerClient(tier.name, context.name, tier.make, models, ground.clock, started, ground.telemetry, is_stale)


def _is_stale(store: ModelStore, held: Mapping[str, Model]) -> bool:
    """Whether a model that a handler holds was replaced by a newer version since."""
    in_use = store.in_use()
    return any(name in in_use and getattr(one, "bundle", None) is not in_use[name].bundle for name, one in held.items())


def _local_post(ground: _Base, route: schema.Route, client: HandlerClient) -> Post:
    return Post(
        client,
        ground.clock,
        random.random,
        max_batch=_LOCAL_BATCH,
        retry_max_s=route.retry_s,
        counts_attempts=True,
        start=client.start,
    )


def build_posts(
    config: schema.Config, clients: Mapping[str, TierClient], clock: Clock, telemetry: Telemetry
) -> dict[str, Post]:
    """What is known of each tier outside of this box, shared by the routes."""
    posts: dict[str, Post] = {}
    for name, client in clients.items():
        tier = config.tiers[name]
        assert not isinstance(tier, HandlerTier)
        post = Post(client, clock, random.random, max_batch=tier.max_batch, retry_max_s=tier.retry_max_s)
        if tier.recall != "off":
            post.recall = Recall(tier.recall, max_answers=tier.max_recalled, max_age_s=tier.max_recall_age_s)
            post.on_recalled = telemetry.tier_recalled
        posts[name] = post
    return posts


def asked_tiers(config: schema.Config) -> Mapping[str, OpenAITier | KServeTier | HttpTier]:
    """The tiers outside of this box that an enabled route may ask, by its `privacy`: no other gets a client."""
    found: dict[str, OpenAITier | KServeTier | HttpTier] = {}
    for route in config.routes.values():
        for name in route.tiers if route.enabled else ():
            tier = config.tiers[name]
            if not isinstance(tier, HandlerTier) and is_within(route.escalation.privacy, tier.place):
                found[name] = tier
    return found
