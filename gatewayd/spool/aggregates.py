"""Aggregates: many results of a route as one, and many aggregates as one again. Pure.

Invariants: an aggregate's `count` is the number of results that went into it, directly or through other aggregates; its
window is theirs, united; its means are weighted by counts. Whatever the results' data is like, the number and length of
names in an aggregate is bounded, and what is beyond the bound is counted under "other".

Thinning replaces a chunk of rows by aggregates, by (kind, subject) or, when that does not halve the chunk, by kind
alone. Aggregates of former passes are merged a few at a time, so that the past gets coarser step by step, as in the
archives of a round-robin database (https://oss.oetiker.ch/rrdtool/doc/rrdtool.en.html).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from math import fsum
from typing import Annotated, NamedTuple

import msgspec

KIND = "aggregate"
KINDS_LEFT_ALONE = frozenset({"loss"})  # loss reports: they are what is left when everything else is gone
MAX_FIELDS = 24
MAX_LABELS = 32
OTHER = "other"
_MAX_NAME = 64  # characters
_MERGED_AT_A_TIME = 4
_ROW_BYTES = 128  # of one row beside its data: id, key, times and SQLite's own

_Count = Annotated[int, msgspec.Meta(ge=1)]


class Row(NamedTuple):
    """A row of `results`, as far as it matters here."""

    id: int
    key: str
    kind: str
    subject: str
    time: float
    data: bytes


class Field(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A numeric field over the results that had it. "other" has its count alone."""

    count: _Count
    min: float | None = None
    max: float | None = None
    mean: float | None = None

    def __post_init__(self) -> None:
        if len({self.min is None, self.max is None, self.mean is None}) > 1:
            raise ValueError("min, max and mean come together")


class Aggregate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The data of a result of kind "aggregate"."""

    of: str  # the kind of the results
    count: _Count  # results
    window_start: float  # time of the first of them, seconds since the epoch
    window_end: float
    labels: dict[str, int]  # label -> results
    fields: dict[str, Field]  # name, or name.inner for one in an object of the data -> its figures


class Thinning(NamedTuple):
    """What becomes of a chunk: the rows of `gone` are deleted, those of `made` take the ids of the last in each."""

    made: list[Row]
    gone: list[int]


_Read = tuple[Row, Aggregate | dict[str, object]]

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_decode_aggregate = msgspec.json.Decoder(Aggregate).decode


def thin(rows: Sequence[Row]) -> Thinning | None:
    """The rows of a chunk, in order, as fewer; None when that would not halve what they take."""
    read = [(row, content) for row in rows if (content := _content(row)) is not None]
    for subject_of in (_own_subject, _no_subject):
        groups = [group for group in _groups(read, subject_of) if len(group) > 1]
        made = [_merged(group, subject_of(group[0][0])) for group in groups]
        gone = [row for group in groups for row, _ in group]
        freed = _weight(gone) - _weight(made)
        if gone and 2 * freed >= _weight([row for row, _ in read]):
            return Thinning(sorted(made), sorted(row.id for row in gone))
    return None


def aggregate(kind: str, times: Sequence[float], contents: Iterable[Mapping[str, object]]) -> Aggregate:
    """Results of one kind: at least one, their times and their data."""
    labels: Counter[str] = Counter()
    values: dict[str, list[float]] = {}
    n_other = 0
    for content in contents:
        label = content.get("label")
        if isinstance(label, str):
            labels[label if len(label) <= _MAX_NAME else OTHER] += 1
        for name, value in _numbers(content):
            number = _finite(value)
            if number is None or name == OTHER or len(name) > _MAX_NAME:
                n_other += 1
            else:
                values.setdefault(name, []).append(number)
    fields = {name: _figures(found) for name, found in values.items()}
    if n_other:
        fields[OTHER] = Field(count=n_other)
    return Aggregate(
        of=kind,
        count=len(times),
        window_start=min(times),
        window_end=max(times),
        labels=_bounded_labels(labels),
        fields=_bounded_fields(fields),
    )


def merge(parts: Sequence[Aggregate]) -> Aggregate:
    """Aggregates of one kind as one."""
    labels: Counter[str] = Counter()
    fields: dict[str, list[Field]] = {}
    for part in parts:
        labels.update(part.labels)
        for name, field in part.fields.items():
            fields.setdefault(name, []).append(field)
    return Aggregate(
        of=parts[0].of,
        count=sum(part.count for part in parts),
        window_start=min(part.window_start for part in parts),
        window_end=max(part.window_end for part in parts),
        labels=_bounded_labels(labels),
        fields=_bounded_fields({name: _merge_fields(found) for name, found in fields.items()}),
    )


def read_aggregate(data: bytes) -> Aggregate | None:
    """The data of a result of kind "aggregate"; None when it is not one of ours."""
    try:
        return _decode_aggregate(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _content(row: Row) -> Aggregate | dict[str, object] | None:
    if row.kind == KIND:
        return read_aggregate(row.data)
    if row.kind in KINDS_LEFT_ALONE:
        return None
    try:
        content = _decode(row.data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _own_subject(row: Row) -> str:
    return row.subject


def _no_subject(_row: Row) -> str:
    return ""


def _groups(read: Sequence[_Read], subject_of: Callable[[Row], str]) -> Iterator[list[_Read]]:
    """Results of a kind and subject; aggregates by the same, but only a few in a row together."""
    groups: dict[tuple[bool, str, str], list[_Read]] = {}
    for row, content in read:
        is_merged = isinstance(content, Aggregate)
        kind = content.of if isinstance(content, Aggregate) else row.kind
        groups.setdefault((is_merged, kind, subject_of(row)), []).append((row, content))
    for (is_merged, _, _), group in groups.items():
        size = _MERGED_AT_A_TIME if is_merged else len(group)
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _merged(group: Sequence[_Read], subject: str) -> Row:
    last = group[-1][0]
    parts = [content for _, content in group if isinstance(content, Aggregate)]
    if parts:
        whole = merge(parts)
    else:
        contents = (content for _, content in group if not isinstance(content, Aggregate))
        whole = aggregate(last.kind, [row.time for row, _ in group], contents)
    key = blake2b("\0".join(row.key for row, _ in group).encode(), digest_size=16).hexdigest()
    return Row(id=last.id, key=key, kind=KIND, subject=subject, time=whole.window_end, data=_encode(whole))


def _weight(rows: Iterable[Row]) -> int:
    return sum(_ROW_BYTES + len(row.data) + len(row.subject) for row in rows)


def _numbers(content: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for name, value in content.items():
        if _is_number(value):
            yield name, value
        elif isinstance(value, dict):
            for inner, number in value.items():
                if _is_number(number):
                    yield f"{name}.{inner}", number


def _is_number(value: object) -> bool:
    return type(value) is float or type(value) is int  # not a bool, which is an int too


def _finite(value: object) -> float | None:
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:  # an integer of more than 308 digits
        return None


def _figures(values: Sequence[float]) -> Field:
    n = len(values)
    low, high = min(values), max(values)
    scale = _scale(low, high)
    mean = fsum(value * scale for value in values) / n / scale
    return Field(count=n, min=low, max=high, mean=min(high, max(low, mean)))


def _merge_fields(fields: Sequence[Field]) -> Field:
    n = sum(field.count for field in fields)
    known = [field for field in fields if field.mean is not None]
    if len(known) < len(fields):  # "other", which is never anything else
        return Field(count=n)
    low = min(field.min for field in known if field.min is not None)
    high = max(field.max for field in known if field.max is not None)
    scale = _scale(low, high)
    mean = fsum(field.mean * scale * (field.count / n) for field in known if field.mean is not None) / scale
    return Field(count=n, min=low, max=high, mean=min(high, max(low, mean)))


def _scale(low: float, high: float) -> float:
    """A power of two to sum with: the sum of very large values is no float, and fsum raises where rounding takes it."""
    return 1.0 if max(-low, high) < 1e300 else 2.0**-64


def _bounded_labels(labels: Mapping[str, int]) -> dict[str, int]:
    if len(labels) > MAX_LABELS:
        first = sorted((label for label in labels if label != OTHER), key=lambda label: (-labels[label], label))
        kept = {label: labels[label] for label in first[: MAX_LABELS - 1]}
        labels = {**kept, OTHER: sum(labels.values()) - sum(kept.values())}
    return dict(sorted(labels.items()))


def _bounded_fields(fields: Mapping[str, Field]) -> dict[str, Field]:
    if len(fields) > MAX_FIELDS:
        first = sorted((name for name in fields if name != OTHER), key=lambda name: (-fields[name].count, name))
        kept = {name: fields[name] for name in first[: MAX_FIELDS - 1]}
        n_all = sum(field.count for field in fields.values())
        fields = {**kept, OTHER: Field(count=n_all - sum(field.count for field in kept.values()))}
    return dict(sorted(fields.items()))
