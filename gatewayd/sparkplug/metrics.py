"""A Sparkplug B payload as a plain value: what a route with `payload.format = "sparkplug"` decodes to. Pure.

    {"timestamp": 1763700000000, "seq": 7,
     "metrics": {"Temperature": 20.5, "Motor/Running": true},
     "historical": ["Temperature"],                                where there are such
     "history": [{"name": "Temperature", "value": 20.4, "timestamp": 1763699999000}],     where a name comes twice
     "left_out": {"Table": "DataSet"}}                             what has no form here, and why

Names and data types that a payload leaves to the birth are filled in before (gatewayd.sparkplug.nodes); one that is
still without them is refused: an integer without its type may mean two numbers.
Source: the Eclipse Sparkplug specification 3.0.0, section 6.4.16 (data types).
"""

import base64
import math
import struct
from collections.abc import Callable
from typing import Any

from gatewayd.errors import RejectedError
from gatewayd.sparkplug.wire import parse

_COMPRESSED = b"SPBV1.0_COMPRESSED"
_NO_FORM = {16: "DataSet", 19: "Template", 20: "PropertySet", 21: "PropertySetList"}
_SIGNED_BITS = {1: 8, 2: 16, 3: 32, 4: 64}  # Int8 … Int64
_UNSIGNED_BITS = {5: 8, 6: 16, 7: 32, 8: 64, 13: 64}  # UInt8 … UInt64, DateTime in milliseconds
_TEXTS = {12, 14, 15}  # String, Text, UUID
_BYTES = {17, 18}  # Bytes, File
# Arrays are packed, little endian; those of booleans and strings have a form of their own.
_ARRAYS = {22: "b", 23: "h", 24: "i", 25: "q", 26: "B", 27: "H", 28: "I", 29: "Q", 30: "f", 31: "d", 34: "Q"}
_BOOLEANS, _STRINGS = 32, 33


def sparkplug_value(payload: bytes) -> dict[str, Any]:
    """The payload's value. Raises RejectedError."""
    read = parse(payload)
    if read.uuid == _COMPRESSED:
        raise RejectedError("a compressed Sparkplug payload is not read", reason="compression")
    metrics: dict[str, Any] = {}
    history: list[dict[str, Any]] = []
    times: dict[str, int] = {}
    historical: dict[str, None] = {}
    left_out: dict[str, str] = {}
    for metric in read.metrics:
        name = _name_of(metric)
        try:
            value = _value_of(metric)
        except _NoForm as why:
            left_out[name] = str(why)
            continue
        if name in metrics:
            history.append({"name": name, "value": metrics[name], "timestamp": times[name]})
        metrics[name], times[name] = value, metric.timestamp or read.timestamp
        if metric.is_historical:
            historical[name] = None
    if left_out and not metrics:
        said = ", ".join(sorted(set(left_out.values())))
        raise RejectedError(f"has no metric that can be read ({said})", reason="metric_type")
    found: dict[str, Any] = {"timestamp": read.timestamp, "seq": read.seq, "metrics": metrics}
    more = {"historical": list(historical), "history": history, "left_out": left_out}
    return found | {key: value for key, value in more.items() if value}


class _NoForm(Exception):  # noqa: N818 - no error: it stays within this file
    """A value that has no form as JSON; says what it is."""


def _name_of(metric: Any) -> str:
    if not metric.name:
        said = f"the alias {metric.alias}" if metric.HasField("alias") else "neither name nor alias"
        raise RejectedError(f"a metric with {said}, and no birth is known that names it", reason="birth")
    return _text(metric.name)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise RejectedError("a metric with text that is not UTF-8", reason="encoding") from None


def _value_of(metric: Any) -> Any:
    """A metric's value. Raises RejectedError, and _NoForm for what is right and cannot be shown."""
    kind = metric.datatype
    if kind in _NO_FORM:
        raise _NoForm(_NO_FORM[kind])
    if metric.is_null:
        return None
    field = metric.WhichOneof("value")
    if field is None:
        raise _NoForm("no value")
    if not kind:
        raise RejectedError(
            f"{metric.name[:60]!r} has no data type, and no birth is known that gives it", reason="birth"
        )
    read = _READERS.get(kind)
    if read is None:
        raise _NoForm(f"data type {kind}")
    try:
        return read(kind, getattr(metric, field))
    except (TypeError, struct.error, ValueError, IndexError):
        raise _NoForm(f"data type {kind} in a {field}") from None


def _signed(kind: int, value: int) -> int:
    bits = _SIGNED_BITS[kind]
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _unsigned(kind: int, value: int) -> int:
    return value & ((1 << _UNSIGNED_BITS[kind]) - 1)


def _real(_kind: int, value: float) -> float:
    if isinstance(value, bool) or not math.isfinite(value):
        raise _NoForm("not a finite number")
    return float(value)


def _boolean(_kind: int, value: int) -> bool:
    if not isinstance(value, int):
        raise TypeError
    return bool(value)


def _string(_kind: int, value: bytes) -> str:
    if not isinstance(value, bytes):
        raise TypeError
    return _text(value)


def _base64(_kind: int, value: bytes) -> str:
    return base64.b64encode(value).decode()


def _array(kind: int, value: bytes) -> list[Any]:
    found = [item for (item,) in struct.iter_unpack("<" + _ARRAYS[kind], value)]
    if kind in (30, 31) and not all(map(math.isfinite, found)):
        raise _NoForm("not a finite number")
    return found


def _booleans(_kind: int, value: bytes) -> list[bool]:
    (n,) = struct.unpack_from("<I", value)
    if n > 8 * (len(value) - 4):
        raise ValueError
    return [bool(value[4 + index // 8] >> (7 - index % 8) & 1) for index in range(n)]


def _strings(_kind: int, value: bytes) -> list[str]:
    return [_text(one) for one in value.split(b"\0")[:-1]]


_READERS: dict[int, Callable[[int, Any], Any]] = {
    **dict.fromkeys(_SIGNED_BITS, _signed),
    **dict.fromkeys(_UNSIGNED_BITS, _unsigned),
    9: _real,
    10: _real,
    11: _boolean,
    **dict.fromkeys(_TEXTS, _string),
    **dict.fromkeys(_BYTES, _base64),
    **dict.fromkeys(_ARRAYS, _array),
    _BOOLEANS: _booleans,
    _STRINGS: _strings,
}
