"""Mistakes in what leaves this box: tiers outside of it, and what is blacked out before. Pure."""

from collections.abc import Iterator

from gatewayd.config.describe import Path
from gatewayd.config.tiers import Escalation, HandlerTier, KServeTier, OpenAITier, RemoteTier, Tier
from gatewayd.config.walk import Finding
from gatewayd.payloads.paths import compile_path


def check_redaction(path: Path, escalation: Escalation) -> Iterator[Finding]:
    """Of `[routes.<name>.escalation]`, which is at `path`."""
    for index, pattern in enumerate(escalation.redact):
        from gatewayd.cascade.redact import is_explosive, problem_of  # not at the top: most configs black out nothing

        place = (*path, "redact", index)
        if problem := problem_of(pattern):
            yield Finding(path=place, problem=problem)
        elif is_explosive(pattern):
            problem = (
                "a repetition within a repetition: on some texts it takes time that doubles with each character, and "
                "the gateway stands still meanwhile; say it without, or set redact_max_chars low"
            )
            yield Finding(path=place, problem=problem, is_warning=True)


def check_far(path: Path, tier: Tier) -> Iterator[Finding]:
    """Of `[tiers.<name>]`, which is at `path`."""
    if isinstance(tier, HandlerTier):
        return
    if tier.max_cost_per_day and not (tier.cost_per_call or tier.cost_per_1k_tokens_in or tier.cost_per_1k_tokens_out):
        problem = "nothing costs anything: the limit holds only where the answers name their cost"
        yield Finding(path=(*path, "max_cost_per_day"), problem=problem, allowed="cost_* beside it", is_warning=True)
    if isinstance(tier, KServeTier):
        yield from _kserve(path, tier)
    yield from _address(path, tier, tier.url)
    if tier.max_tokens_per_day and not isinstance(tier, OpenAITier):
        problem = "the limit holds only where the answers name their tokens"
        yield Finding(path=(*path, "max_tokens_per_day"), problem=problem, is_warning=True)


def _kserve(path: Path, tier: KServeTier) -> Iterator[Finding]:
    for index, label in enumerate(tier.labels):
        if label in tier.labels[:index]:
            yield Finding(path=(*path, "labels", index), problem=f"names the label `{label}` a second time")
    try:
        compile_path(tier.field or "$value")
    except ValueError as failure:
        yield Finding(path=(*path, "field"), problem=str(failure))


def _address(path: Path, tier: RemoteTier, url: str) -> Iterator[Finding]:
    if tier.place == "cloud" and url.startswith("http://"):
        what = "the token and all that is asked go" if tier.token is not None else "all that is asked goes"
        problem = f"{what} over the net as plain text"
        yield Finding(path=(*path, "url"), problem=problem, allowed='https://, or place = "site"', is_warning=True)
