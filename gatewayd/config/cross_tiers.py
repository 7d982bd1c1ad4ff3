"""Mistakes in cascades that show when a route and its tiers are looked at together. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

from gatewayd.config.describe import Path
from gatewayd.config.routes import Route
from gatewayd.config.tiers import HandlerTier, Tier
from gatewayd.config.walk import Finding

_REACH = {"local": 0, "site": 1, "cloud": 2}


def check_tiers(path: Path, route: Route, tiers: Mapping[str, Tier], written: Mapping[str, Any]) -> Iterator[Finding]:
    """Findings about one route. `tiers` are those that are right by themselves, `written` all that stand there."""
    if not route.tiers:
        if not route.handler:
            yield Finding(path=path, problem="nobody answers: neither `handler` nor `tiers`", allowed="one of them")
        return
    if route.handler:
        problem = f"`handler` and `tiers` both say who answers: make `{route.handler}` the first tier"
        yield Finding(path=(*path, "handler"), problem=problem, allowed="one of them")
    if route.options:
        problem = "the handlers of tiers have options of their own: [tiers.<name>.options]"
        yield Finding(path=(*path, "options"), problem=problem)
    if route.parallel > 1:
        problem = "instances of one handler share a route's work; the tiers of a cascade do not"
        yield Finding(path=(*path, "parallel"), problem=problem, allowed="1")
    if route.window is not None:
        problem = "a cascade judges one message at a time"
        yield Finding(
            path=(*path, "window"), problem=problem, allowed="`tiers` or `window`; two routes may have one each"
        )
    if route.mode == "journaled":
        problem = "a cascade answers at once, and keeps in the journal what waits for a better answer"
        yield Finding(path=(*path, "mode"), problem=problem, allowed='"auto" or "direct"')
    yield from _names(path, route, tiers, written)


def _names(path: Path, route: Route, tiers: Mapping[str, Tier], written: Mapping[str, Any]) -> Iterator[Finding]:
    for index, name in enumerate(route.tiers):
        place = (*path, "tiers", index)
        if name not in written:
            known = ", ".join(written) or "no tier is defined: add a table [tiers.<name>]"
            yield Finding(path=place, problem=f"there is no tier `{name}`", allowed=known)
        elif name in route.tiers[:index]:
            yield Finding(path=place, problem=f"names the tier `{name}` a second time")
        elif (tier := tiers.get(name)) is not None:
            yield from _tier(place, route, index, tier)


def _tier(place: Path, route: Route, index: int, tier: Tier) -> Iterator[Finding]:
    if isinstance(tier, HandlerTier):
        if tier.abstain is not None and tier.abstain[0] > tier.abstain[1]:
            problem = f"the abstain band of tier `{route.tiers[index]}` ends before it begins: {tier.abstain}"
            yield Finding(path=place, problem=problem)
        return
    if index == 0:
        problem = "the first tier answers every message, at once: it must be a handler on this box"
        yield Finding(path=place, problem=problem, allowed='a tier with type = "handler"')
    privacy = route.escalation.privacy
    if _REACH[tier.place] > _REACH[privacy]:
        problem = (
            f'escalation.privacy = "{privacy}" never lets a message go to this tier, which is in place "{tier.place}"'
        )
        yield Finding(path=place, problem=problem, allowed=f'privacy = "{tier.place}"', is_warning=True)
