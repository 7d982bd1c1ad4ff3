"""Topics that were seen, grouped into filters: one group is what one route would take. Pure.

Topics are alike when they have the same number of levels, the same first level and payloads of the same kind. A last
level that names what is measured (`temperature`) keeps groups apart; one that names a device (`oven-3`) does not.

Invariant: the filters of a group match every topic of it, and none of a group with another kind of payload.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gatewayd.cli.setup.shape import Field, Look, fields_of, look_at
from gatewayd.ports import RawMessage
from gatewayd.routing import matches

_MAX_LISTED = 16  # topics named one by one, where a filter would take others in
# Not measurements: our own, other programs' announcements, and binary protocols with a life of their own.
_PASSED_OVER = ("gatewayd/#", "homeassistant/#", "spBv1.0/#", "zigbee2mqtt/bridge/#", "+/+/results/+")
_MEASURES = re.compile(
    r"(?i)temp|hum|press|co2|voc|pm\d|power|volt|current|amps|energy|vibr|accel|speed|rpm|level|flow|weight|light|lux"
    r"|noise|battery|soc|rssi|state|status|log|event|alarm|message|text|value|cmd|set$|count|position|ph$"
)


@dataclass(slots=True)
class Stream:
    """Topics that one route would take."""

    filters: list[str]
    topics: list[str]
    form: str  # of nearly all payloads
    n: int  # samples
    per_s: float  # messages, retained ones left out
    retained_only: bool
    fields: dict[str, Field] = field(default_factory=dict)
    n_other: int = 0  # payloads of another form
    sample: RawMessage | None = None

    @property
    def name(self) -> str:
        """A name for a route: letters, digits, - and _, from the levels that say something."""
        words = [word for level in self.filters[0].split("/") if (word := re.sub(r"[^A-Za-z0-9_-]+", "-", level))]
        said = [word.strip("-_") for word in words if word.strip("-_")] or ["messages"]
        name = "_".join([said[0], *said[-1:]] if len(said) > 1 else said)[:48].strip("-_")
        return name if re.match(r"[A-Za-z0-9]", name) else f"route_{name}"


def streams_of(messages: Sequence[RawMessage], counts: Mapping[str, int], seconds: float) -> list[Stream]:
    """The groups, the busiest first.

    Args:
        messages: samples.
        counts: how many messages each topic had, retained ones left out.
        seconds: in how long.
    """
    by_topic: dict[str, list[RawMessage]] = {}
    for message in messages:
        if not is_passed_over(message.topic):
            by_topic.setdefault(message.topic, []).append(message)
    looks = {topic: [look_at(one) for one in some] for topic, some in by_topic.items()}
    groups = _grouped({topic: some for topic, some in looks.items() if any(look.form != "empty" for look in some)})
    filters = _filters(groups)
    streams = [
        _stream(group, wanted, by_topic, looks, sum(counts.get(topic, 0) for topic in group) / max(seconds, 1e-3))
        for group, wanted in zip(groups, filters, strict=True)
    ]
    return sorted(streams, key=lambda one: (-one.per_s, -one.n, one.filters))


def streams_under(
    filters: Sequence[str], messages: Sequence[RawMessage], counts: Mapping[str, int], seconds: float
) -> list[Stream]:
    """The same for filters that somebody named: one group a filter where its payloads are alike, or were not seen."""
    found: list[Stream] = []
    for name in filters:
        under = [message for message in messages if matches(name, message.topic)]
        streams = streams_of(under, counts, seconds)
        if len({stream.form for stream in streams}) <= 1 and len(streams) <= 1:
            stream = streams[0] if streams else Stream([name], [], "auto", 0, 0.0, retained_only=False)
            stream.filters = [name]
            found.append(stream)
        else:
            found += streams
    return found


def is_passed_over(topic: str) -> bool:
    """Whether a topic is another program's own affair."""
    return topic.startswith("$") or any(matches(one, topic) for one in _PASSED_OVER)


def _form(looks: Iterable[Look]) -> str:
    """The form of most; text where numbers and texts mix."""
    counts: dict[str, int] = {}
    for look in looks:
        if look.form != "empty":
            counts[look.form] = counts.get(look.form, 0) + 1
    if set(counts) == {"number", "text"}:
        return "text"
    return max(counts, key=lambda form: counts[form])


def _grouped(looks: Mapping[str, Sequence[Look]]) -> list[list[str]]:
    """Lists of topics that are alike."""
    keeps = _telling_levels(looks)
    groups: dict[tuple[object, ...], list[list[str]]] = {}
    for topic, some in looks.items():
        levels = topic.split("/")
        last = levels[-1] if len(levels) > 1 and levels[-1] in keeps else ""
        key = (len(levels), levels[0], last, _form(some))
        for group in groups.setdefault(key, []):
            if _are_alike(_names(looks[group[0]]), _names(some)):
                group.append(topic)
                break
        else:
            groups[key].append([topic])
    return [group for alike in groups.values() for group in alike]


def _telling_levels(topics: Iterable[str]) -> set[str]:
    """Last levels that say what is measured, not who measures: known words, and those under several parents."""
    parents: dict[str, set[str]] = {}
    for topic in topics:
        above, _, last = topic.rpartition("/")
        if above:
            parents.setdefault(last, set()).add(above)
    return {
        last
        for last, above in parents.items()
        if _MEASURES.search(last) or (len(above) > 1 and not any(letter.isdigit() for letter in last))
    }


def _names(looks: Sequence[Look]) -> set[str]:
    return {name for look in looks for name in look.fields}


def _are_alike(some: set[str], others: set[str]) -> bool:
    """Whether two sets of fields share half of their names; bare values have none."""
    return not (some or others) or len(some & others) * 2 >= len(some | others)


def _filters(groups: Sequence[Sequence[str]]) -> list[list[str]]:
    """The filters of each group, which match no topic of another one."""
    found = []
    for index, group in enumerate(groups):
        others = [topic for at, other in enumerate(groups) if at != index for topic in other]
        found.append(_own_filters(list(group), others))
    return found


def _own_filters(topics: list[str], others: Sequence[str]) -> list[str]:
    wide = _common(topics)
    if not any(matches(wide, other) for other in others):
        return [wide]
    # By the level that differs most seldom: `a/x/+` and `a/y/+` instead of `a/+/+`.
    levels = [topic.split("/") for topic in topics]
    varying = [at for at in range(len(levels[0])) if len({one[at] for one in levels}) > 1]
    for at in sorted(varying, key=lambda at: len({one[at] for one in levels})):
        parts: dict[str, list[str]] = {}
        for topic, one in zip(topics, levels, strict=True):
            parts.setdefault(one[at], []).append(topic)
        narrow = [_common(part) for part in parts.values()]
        if len(narrow) <= _MAX_LISTED and not any(matches(one, other) for one in narrow for other in others):
            return narrow
    return topics[:_MAX_LISTED]


def _common(topics: Sequence[str]) -> str:
    """One filter for topics of as many levels: what differs becomes `+`."""
    columns = zip(*(topic.split("/") for topic in topics), strict=True)
    return "/".join(column[0] if len(set(column)) == 1 else "+" for column in columns)


def _stream(
    topics: Sequence[str],
    filters: list[str],
    by_topic: Mapping[str, Sequence[RawMessage]],
    looks: Mapping[str, Sequence[Look]],
    per_s: float,
) -> Stream:
    messages = [message for topic in topics for message in by_topic[topic]]
    all_looks = [look for topic in topics for look in looks[topic]]
    form = _form(all_looks)
    fresh = [message for message in messages if not message.retain]
    fitting = [look for look in all_looks if look.form == form or (form == "text" and look.form == "number")]
    return Stream(
        filters=filters,
        topics=list(topics),
        form=form,
        n=len(messages),
        per_s=per_s,
        retained_only=not fresh,
        fields=fields_of([_as_text(look) for look in fitting] if form == "text" else fitting),
        n_other=sum(look.form not in (form, "empty") for look in all_looks) if form != "text" else 0,
        sample=(fresh or messages)[-1],
    )


def _as_text(look: Look) -> Look:
    return Look("text", f"{look.value:g}") if look.form == "number" else look
