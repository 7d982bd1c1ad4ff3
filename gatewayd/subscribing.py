"""What to subscribe to, so that no message comes twice where that can be helped. Pure.

Invariant: the subscriptions of a plan receive exactly the topics that the filters asked for receive. What is left
overlapping (`a/+/c` and `a/b/+`: neither covers the other) is named, for a broker may deliver a message once for each
matching subscription (MQTT 5.0, section 3.3.4; Mosquitto does on MQTT 5).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations, zip_longest

from gatewayd.routing import plain_filter, subscriptions


@dataclass(frozen=True, slots=True)
class Plan:
    """The subscriptions to make."""

    subscriptions: tuple[tuple[str, int], ...]  # (filter, QoS), in the order in which they were asked for
    overlaps: tuple[tuple[str, str], ...]  # those of them that match common topics, in pairs

    @property
    def has_overlap(self) -> bool:
        """Whether a broker may deliver a message more than once."""
        return bool(self.overlaps)


def plan_subscriptions(filters_with_qos: Iterable[tuple[str, int]]) -> Plan:
    """Equal filters are merged, a filter that another one covers is dropped; the one kept has the highest QoS."""
    asked = subscriptions(filters_with_qos)
    kept: list[tuple[str, int]] = []
    for index, (name, qos) in enumerate(asked):
        if any(_replaces(other, name, is_earlier=at < index) for at, (other, _) in enumerate(asked) if at != index):
            continue
        covered = [other_qos for other, other_qos in asked if _is_same_stream(name, other) and covers(name, other)]
        kept.append((name, max(qos, *covered)))
    names = [name for name, _ in kept]
    common = [(a, b) for a, b in combinations(names, 2) if _is_same_stream(a, b) and overlap(a, b)]
    return Plan(tuple(kept), tuple(common))


def _replaces(general: str, special: str, *, is_earlier: bool) -> bool:
    # `#` and `+/#` cover each other: the one named first stays.
    return (
        _is_same_stream(general, special) and covers(general, special) and (is_earlier or not covers(special, general))
    )


def share_of(topic_filter: str) -> str:
    """The group of a shared subscription; "" for a plain one."""
    return topic_filter.split("/", 2)[1] if topic_filter.startswith("$share/") else ""


def _is_same_stream(a: str, b: str) -> bool:
    # Each group gets its own share of the messages, and a plain subscription all of them: none stands for another.
    return share_of(a) == share_of(b)


def covers(general: str, special: str) -> bool:
    """Whether every topic that `special` matches is matched by `general` too. Share groups are not looked at."""
    wide, narrow = _levels(general), _levels(special)
    if not _may_share_first(wide[0], narrow[0]):
        return False
    for level, other in zip_longest(wide, narrow):
        if level == "#":
            return True
        if other in {None, "#"} or level not in {"+", other}:
            return False
    return True


def overlap(a: str, b: str) -> bool:
    """Whether some topic is matched by both filters. Share groups are not looked at."""
    left, right = _levels(a), _levels(b)
    if not _may_share_first(left[0], right[0]):
        return False
    for level, other in zip_longest(left, right):
        if "#" in (level, other):
            return True
        if level is None or other is None or not (level == other or "+" in (level, other)):
            return False
    return True


def _levels(topic_filter: str) -> list[str]:
    """The levels, in a form that tells what is matched.

    A topic has at least one character ([MQTT-4.7.3-1]): so `#` matches what `+/#` does, and `/#` what `/+/#` does.
    """
    levels = plain_filter(topic_filter).split("/")
    return {"#": ["+", "#"], "/#": ["", "+", "#"]}.get("/".join(levels), levels)


def _may_share_first(level: str, other: str) -> bool:
    # [MQTT-4.7.2-1]: a wildcard in the first level matches no topic that starts with `$`.
    return not ("+" in (level, other) and (level.startswith("$") or other.startswith("$")))
