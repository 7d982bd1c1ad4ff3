"""Which routes want a topic: MQTT topic filters, exactly as a broker matches them.

Invariant: for any valid filter `Router.match` and `matches` agree, and `Router.match` gives each target once, in the
order in which the targets were first named. Pure: no I/O, no clock. Rules: MQTT 5.0, section 4.7 (topic names and
filters) and 4.8.2 (shared subscriptions).
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

MAX_TOPIC_BYTES = 65535  # MQTT 5.0, [MQTT-4.7.3-3]: a UTF-8 string has a two-byte length
_SHARE = "$share/"


def validate_filter(filter: str) -> str | None:  # noqa: A002 - MQTT's own word
    """What is wrong with a topic filter, in words; None when nothing is."""
    if problem := _check_characters(filter):
        return problem
    if filter == "$share" or filter.startswith(_SHARE):
        _, _, shared = filter.partition("/")
        group, _, rest = shared.partition("/")
        if not group or "+" in group or "#" in group:
            return "$share needs a group name without + and #, as in $share/gateways/plant/#"
        if not rest:
            return "$share needs a topic filter after the group name, as in $share/gateways/plant/#"
        filter = rest  # noqa: A001
    return _check_levels(filter.split("/"))


def _check_characters(text: str) -> str | None:
    if not text:
        return "a topic filter must not be empty"
    if "\0" in text:
        return "a topic filter must not hold the character NUL"
    try:
        n_bytes = len(text.encode())
    except UnicodeEncodeError:
        return "a topic filter must be encodable as UTF-8 (it holds half of a surrogate pair)"
    if n_bytes > MAX_TOPIC_BYTES:
        return f"a topic filter must not be longer than {MAX_TOPIC_BYTES} bytes, this one has {n_bytes}"
    return None


def _check_levels(levels: Sequence[str]) -> str | None:
    for position, level in enumerate(levels):
        if "#" in level and level != "#":
            return f"# must be alone in its level, not {level!r}"
        if "+" in level and level != "+":
            return f"+ must be alone in its level, not {level!r}"
        if level == "#" and position != len(levels) - 1:
            return "# must be the last level"
    return None


def plain_filter(filter: str) -> str:  # noqa: A002
    """The filter that topics are compared with: without `$share/<group>/`."""
    if filter.startswith(_SHARE):
        return filter.split("/", 2)[2]
    return filter


def matches(filter: str, topic: str) -> bool:  # noqa: A002
    """Whether a valid topic filter matches a topic.

    A wildcard in the first level does not match a topic that starts with `$` ([MQTT-4.7.2-1]); `a/#` matches `a` too.
    """
    wanted = plain_filter(filter).split("/")
    levels = topic.split("/")
    if topic.startswith("$") and wanted[0] in {"+", "#"}:
        return False
    for position, level in enumerate(wanted):
        if level == "#":
            return True
        if position == len(levels) or level not in {"+", levels[position]}:
            return False
    return len(wanted) == len(levels)


def subscriptions(filters_with_qos: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """The subscriptions to make, in order: equal filters once, with the highest QoS asked for."""
    merged: dict[str, int] = {}
    for name, qos in filters_with_qos:
        merged[name] = max(qos, merged.get(name, 0))
    return list(merged.items())


@dataclass(slots=True)
class _Node:
    """One level of the tree of filters. Targets are kept as their rank."""

    children: dict[str, "_Node"] = field(default_factory=dict)
    plus: "_Node | None" = None
    here: list[int] = field(default_factory=list)  # of filters that end with this level
    below: list[int] = field(default_factory=list)  # of filters that go on with #


class Router(Generic[T]):
    """Topic to targets. A topic seen before costs one dict lookup, a new one a walk along its levels."""

    def __init__(self, targets: Mapping[str, Sequence[T]], *, max_cached_topics: int = 16384) -> None:
        """`targets`: valid topic filter -> who wants it. Raises ValueError for a filter that is not valid."""
        self._ranks: dict[T, int] = {}
        self._root = _Node()
        self._cache: dict[str, tuple[T, ...]] = {}
        self._max_cached_topics = max_cached_topics
        for name, wanting in targets.items():
            if problem := validate_filter(name):
                raise ValueError(f"{name!r}: {problem}")
            self._insert(name, [self._ranks.setdefault(target, len(self._ranks)) for target in wanting])
        self._targets = list(self._ranks)

    def _insert(self, name: str, ranks: list[int]) -> None:
        node = self._root
        for level in plain_filter(name).split("/"):
            if level == "#":
                node.below += ranks
                return
            if level == "+":
                node.plus = node.plus or _Node()
                node = node.plus
            else:
                node = node.children.setdefault(level, _Node())
        node.here += ranks

    def match(self, topic: str) -> tuple[T, ...]:
        """The targets whose filters match `topic`: each once, in the order they were first named."""
        found = self._cache.get(topic)
        if found is None:
            found = self._walk(topic)
            if len(self._cache) >= self._max_cached_topics:
                # Wholesale: a flood of new topics costs walks, and the hot path pays nothing for bookkeeping.
                self._cache.clear()
            self._cache[topic] = found
        return found

    def _walk(self, topic: str) -> tuple[T, ...]:
        levels = topic.split("/")
        ranks: set[int] = set()
        nodes = [self._root]
        if topic.startswith("$"):
            # [MQTT-4.7.2-1]: the first level must be named.
            nodes = [child for child in (self._root.children.get(levels[0]),) if child]
            levels = levels[1:]
        for level in levels:
            nodes = _step(nodes, level, ranks)
            if not nodes:
                break
        for node in nodes:
            ranks.update(node.here, node.below)  # `a/#` matches `a` itself
        return tuple(self._targets[rank] for rank in sorted(ranks))


def _step(nodes: list[_Node], level: str, ranks: set[int]) -> list[_Node]:
    """One level down from `nodes`; adds the ranks of filters that are satisfied whatever follows."""
    reached: list[_Node] = []
    for node in nodes:
        ranks.update(node.below)
        if (child := node.children.get(level)) is not None:
            reached.append(child)
        if node.plus is not None:
            reached.append(node.plus)
    return reached
