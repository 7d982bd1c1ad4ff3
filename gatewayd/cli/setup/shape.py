"""What payloads are: their format, their fields, and what the values of each look like. Pure.

Invariant: whatever the bytes are, a look at them raises nothing, and what is kept of a field is bounded.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gatewayd.errors import RejectedError
from gatewayd.payloads.formats import cbor_value, json_value, msgpack_value, number_or_text
from gatewayd.ports import RawMessage

_MAX_DEPTH = 64
_MAX_NESTED = 3  # levels of objects whose fields are named
_MAX_FIELDS = 64  # of one payload
_MAX_TEXTS = 32  # different texts kept of a field
_MAX_TEXT = 200


@dataclass(slots=True)
class Field:
    """What was seen of one field, or of a payload that is a bare value (its name is then "")."""

    name: str
    n: int = 0
    numbers: list[float] = field(default_factory=list)  # in order of arrival, per topic mixed
    texts: dict[str, int] = field(default_factory=dict)  # how often each; at most _MAX_TEXTS
    n_texts: int = 0
    n_bools: int = 0
    longest: int = 0  # letters of the longest text

    @property
    def kind(self) -> str:
        """number, text, bool, mixed, or other."""
        counts = {"number": len(self.numbers), "text": self.n_texts, "bool": self.n_bools}
        seen = [name for name, n in counts.items() if n]
        return seen[0] if len(seen) == 1 else "mixed" if seen else "other"

    def add(self, value: Any) -> None:
        """One more value."""
        self.n += 1
        if isinstance(value, bool):
            self.n_bools += 1
        elif isinstance(value, int | float):
            number = _float(value)
            if number is not None:
                self.numbers.append(number)
        elif isinstance(value, str):
            self.n_texts += 1
            self.longest = max(self.longest, len(value))
            short = value[:_MAX_TEXT]
            if short in self.texts or len(self.texts) < _MAX_TEXTS:
                self.texts[short] = self.texts.get(short, 0) + 1


def _float(value: float) -> float | None:
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


@dataclass(frozen=True, slots=True)
class Look:
    """One payload looked at."""

    form: str  # "number", "json", "text", "cbor", "msgpack", "empty" or "bytes": what no decoder of ours reads
    value: Any = None

    @property
    def fields(self) -> Sequence[str]:
        """The names of an object's fields, dotted; empty for anything else."""
        return [name for name, _ in named_values(self.value)] if isinstance(self.value, Mapping) else []


def look_at(message: RawMessage) -> Look:
    """The format of a payload, in the order in which `payload.format = "auto"` tries them; and binary ones."""
    payload = message.payload
    if not payload:
        return Look("empty")
    for form, read in (("json", _json), ("text", number_or_text), ("cbor", _cbor), ("msgpack", _msgpack)):
        try:
            value = read(payload)
        except RejectedError:
            continue
        if isinstance(value, int | float) and not isinstance(value, bool) and form in ("json", "text"):
            return Look("number", float(value) if _float(value) is not None else 0.0)
        if form == "text" and not str(value).isprintable() and "\x00" in str(value):
            return Look("bytes")
        return Look(form, value)
    return Look("bytes")


def _json(payload: bytes) -> Any:
    return json_value(payload, _MAX_DEPTH)


def _cbor(payload: bytes) -> Any:
    return _container(cbor_value(payload, _MAX_DEPTH))


def _msgpack(payload: bytes) -> Any:
    return _container(msgpack_value(payload, _MAX_DEPTH))


def _container(value: Any) -> Any:
    """Binary formats find a number in nearly any byte: only an object or a list is believed."""
    if isinstance(value, Mapping | list):
        return value
    raise RejectedError("neither an object nor a list", reason="decode")


def named_values(value: Any, above: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """The leaves of an object with their dotted names; lists are leaves."""
    if not isinstance(value, Mapping) or depth > _MAX_NESTED:
        return
    for n, (name, inner) in enumerate(value.items()):
        if n >= _MAX_FIELDS:
            return
        path = f"{above}{name}"
        if isinstance(inner, Mapping) and inner:
            yield from named_values(inner, f"{path}.", depth + 1)
        else:
            yield path, inner


def fields_of(looks: Sequence[Look]) -> dict[str, Field]:
    """What was seen of each field, over several payloads; a bare value is the field ""."""
    found: dict[str, Field] = {}
    for look in looks:
        values = list(named_values(look.value)) if isinstance(look.value, Mapping) else [("", look.value)]
        for name, value in values[:_MAX_FIELDS]:
            found.setdefault(name, Field(name)).add(value)
    return found
