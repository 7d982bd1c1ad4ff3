"""What `gatewayd check` says of tiers outside of this box and of what leaves it."""

from typing import Any

import pytest

from gatewayd.config import schema
from gatewayd.config.cross import cross_check
from gatewayd.config.tiers import Escalation, HttpTier, KServeTier, OpenAITier, Tier
from gatewayd.config.walk import clean


def found(tier: Tier | None = None, escalation: Escalation | None = None) -> dict[str, str]:
    """The findings by their place; a warning begins with !."""
    route = schema.Route(topics=["t"], handler="h", escalation=escalation or Escalation())
    config = schema.Config(routes={"r": route}, tiers={} if tier is None else {"far": tier})
    findings = cross_check(config, {"routes": {"r": {}}, "tiers": {"far": {}}})
    return {
        ".".join(map(str, each.path)): ("! " if each.is_warning else "") + each.problem
        for each in findings
        if "far" in each.path or "escalation" in each.path
    }


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("emial", "`emial` is no pattern's name: did you mean `email`?"),
        ("(", "is no regular expression"),
        ("(a+)+", "! a repetition within a repetition"),
    ],
)
def test_patterns_are_checked(pattern: str, problem: str) -> None:
    [(place, said)] = found(escalation=Escalation(redact=["email", pattern])).items()

    assert place == "routes.r.escalation.redact.1"
    assert said.startswith(problem)


@pytest.mark.parametrize(
    ("tier", "place", "problem"),
    [
        (HttpTier(url="http://x", place="cloud"), "url", "! all that is asked goes over the net as plain text"),
        (
            HttpTier(url="http://x", token=schema.Secret(env="T")),
            "url",
            "! the token and all that is asked go over the net as plain text",
        ),
        (HttpTier(url="https://x", max_cost_per_day=1.0), "max_cost_per_day", "! nothing costs anything"),
        (HttpTier(url="https://x", max_tokens_per_day=1), "max_tokens_per_day", "! the limit holds only where"),
        (KServeTier(url="https://x", model="m", labels=["a", "a"]), "labels.1", "names the label `a` a second time"),
        (KServeTier(url="https://x", model="m", labels=["a", "b"], field="a..b"), "field", "cannot be read"),
    ],
)
def test_mistakes_in_far_tiers_are_found(tier: Tier, place: str, problem: str) -> None:
    [(where, said)] = found(tier).items()

    assert where == f"tiers.far.{place}"
    assert said.startswith(problem)


@pytest.mark.parametrize(
    "tier",
    [
        HttpTier(url="http://box", place="site"),
        OpenAITier(url="https://x", model="m", labels={"a": "", "b": ""}, max_tokens_per_day=5),
        HttpTier(url="https://x", max_cost_per_day=1.0, cost_per_call=0.1),
    ],
)
def test_far_tiers_as_they_should_be_are_fine(tier: Tier) -> None:
    assert found(tier) == {}


@pytest.mark.parametrize(
    ("labels", "problem"),
    [({"a": ""}, "has 1 items"), ({str(n): "" for n in range(27)}, "has 27 items"), ({"a": "", "b": ""}, None)],
)
def test_a_table_has_as_many_entries_as_it_may(labels: dict[str, str], problem: str | None) -> None:
    from msgspec import inspect

    mistakes: list[Any] = []
    clean(inspect.type_info(OpenAITier), {"url": "http://x", "model": "m", "labels": labels}, ("t",), mistakes)

    assert [each.problem for each in mistakes] == ([] if problem is None else [problem])
    assert [each.allowed for each in mistakes] == ([] if problem is None else ["2 to 26 of them"])
