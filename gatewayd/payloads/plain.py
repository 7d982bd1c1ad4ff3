"""Make what CBOR and MessagePack can say plain: only what JSON can say too.

Invariant: the answer has no more values in it than the payload had bytes. CBOR's shared references can make a few
bytes stand for millions of values, or for a list that contains itself.
"""

from base64 import b64encode
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from fractions import Fraction
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from math import isfinite
from typing import Any
from uuid import UUID

import cbor2
import msgspec

from gatewayd.errors import RejectedError

_MAX_INT = 2**64 - 1  # what JSON encoders of 64 bits take
_MIN_INT = -(2**63)


def plain(value: Any, *, max_depth: int, max_nodes: int) -> Any:
    """`value` with names as str, byte strings as base64, dates as ISO 8601, other numbers as float.

    Raises RejectedError: `depth`, `number` (not finite, too large), `decode` (more than `max_nodes` values, or of a
    type that JSON has no word for).
    """
    return _Plain(max_depth, max_nodes).make(value, 0)


_COMPOSITE = (Mapping, list, tuple, set, frozenset, cbor2.CBORTag)


class _Plain:
    def __init__(self, max_depth: int, max_nodes: int) -> None:
        self._max_depth = max_depth
        self._nodes_left = max_nodes
        self._is_naming = False

    def make(self, value: Any, depth: int) -> Any:
        self._nodes_left -= 1
        if self._nodes_left < 0:
            raise RejectedError("shared references make it larger than its bytes", reason="decode")
        if value is None or isinstance(value, str | bool):
            return value
        if isinstance(value, int | float | Decimal | Fraction):
            return _number(value)
        if isinstance(value, Mapping):
            return self._mapping(value, depth + 1)
        if isinstance(value, list | tuple | set | frozenset):
            return self._list(value, depth + 1)
        if isinstance(value, cbor2.CBORTag):  # a tag nobody told us about: what it marks
            return self.make(value.value, depth + 1)
        return _scalar(value)

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        self._check(depth)
        made: dict[str, Any] = {}
        for name, child in value.items():
            made[name if isinstance(name, str) else self._name(name, depth)] = self.make(child, depth)
        return made

    def _list(self, value: Any, depth: int) -> list[Any]:
        self._check(depth)
        made: list[Any] = []
        for child in value:  # no comprehension: it would take a second frame a level
            made.append(self.make(child, depth))  # noqa: PERF401
        return made

    def _check(self, depth: int) -> None:
        if depth > self._max_depth:
            raise RejectedError(f"nested more than {self._max_depth} deep (payload.max_depth)", reason="depth")

    def _name(self, name: Any, depth: int) -> str:
        if not isinstance(name, _COMPOSITE):
            return _as_name(self.make(name, depth))
        if self._is_naming:
            # JSON in JSON in JSON: the quotes of each level double the backslashes of those within it, and 180 bytes of
            # CBOR become gigabytes. Found by `make faults`.
            raise RejectedError("a name within a name is a map or a list", reason="decode")
        self._is_naming = True
        made = self.make(name, depth)
        self._is_naming = False
        return _as_name(made)


def _as_name(made: Any) -> str:
    return made if isinstance(made, str) else msgspec.json.encode(made).decode()


def _number(value: int | float | Decimal | Fraction) -> int | float:
    if isinstance(value, int) and _MIN_INT <= value <= _MAX_INT:
        return value
    try:
        number = float(value)
    except (OverflowError, ValueError):
        number = float("inf")
    if not isfinite(number):
        raise RejectedError("a number is not finite or too large", reason="number")
    return number


def _scalar(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return b64encode(value).decode()
    if isinstance(value, date):  # datetime is one too
        return value.isoformat()
    if isinstance(value, UUID | IPv4Address | IPv6Address | IPv4Network | IPv6Network):
        return str(value)
    if isinstance(value, cbor2.CBORSimpleValue):
        return value.value
    if value is cbor2.undefined:
        return None
    raise RejectedError(f"{type(value).__name__} has no form in JSON", reason="decode")
