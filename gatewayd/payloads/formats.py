"""Bytes of a payload to plain values, one function a format.

Invariant: whatever the bytes are, a function returns a value that is encodable as JSON (mapping with str keys, list,
str, int, finite float, bool, None) or raises RejectedError; it never hangs, recurses without end or allocates more
than a small multiple of the payload. Pure.

Formats: RFC 8259 (JSON), RFC 8949 (CBOR), the MessagePack specification, RFC 4180 (CSV).
"""

import csv
import io
import math
import re
from typing import Any

import cbor2
import msgpack
import msgspec

from gatewayd.errors import RejectedError
from gatewayd.payloads.plain import plain

_NUMBER = re.compile(r"[ \t\r\n]*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?[ \t\r\n]*", re.ASCII)
_CHARSETS = frozenset(
    {"us-ascii", "ascii", "iso-8859-1", "latin-1", "latin1", "iso-8859-15"}
    | {"windows-1252", "cp1252", "utf-16", "utf-16le", "utf-16be"}
)

_decode_json = msgspec.json.Decoder().decode


def json_value(payload: bytes, max_depth: int) -> Any:
    """JSON. NaN and Infinity are none; of equal names in an object the last one counts."""
    try:
        value = _decode_json(payload)
    except RecursionError:
        raise too_deep(max_depth) from None
    except msgspec.ValidationError as error:  # a number no float or integer of ours can hold
        raise RejectedError(f"JSON: {error}", reason="number") from None
    except UnicodeDecodeError:
        raise RejectedError("JSON with text that is not UTF-8", reason="encoding") from None
    except msgspec.DecodeError as error:
        raise RejectedError(str(error), reason="decode") from None
    # Opening brackets in strings are counted too: then the walk decides, and nearly no payload pays for it.
    if payload.count(b"[") + payload.count(b"{") > max_depth and is_deeper(value, max_depth):
        raise too_deep(max_depth)
    return value


def is_deeper(value: Any, max_depth: int) -> bool:
    """Whether mappings and lists are nested more than `max_depth` deep. Level by level: no recursion."""
    level = [value]
    for _ in range(max_depth + 1):
        level = [child for one in level if isinstance(one, dict | list) for child in _children(one)]
        if not level:
            return False
    return True


def _children(container: dict[str, Any] | list[Any]) -> Any:
    # An empty one counts as a level too.
    return (container.values() if isinstance(container, dict) else container) or (None,)


def too_deep(max_depth: int) -> RejectedError:
    """The error for a payload nested too deep."""
    return RejectedError(f"nested more than {max_depth} deep (payload.max_depth)", reason="depth")


def text_value(payload: bytes) -> str:
    """UTF-8 text, as it is."""
    try:
        return payload.decode()
    except UnicodeDecodeError as error:
        raise RejectedError(f"not UTF-8 at byte {error.start}", reason="encoding") from None


def number_value(payload: bytes) -> float:
    """A bare number, blanks around it allowed. NaN and infinity are refused."""
    value = number_or_text(payload)
    if isinstance(value, float):
        return value
    if value.strip().lower().lstrip("+-") in {"nan", "inf", "infinity"}:
        raise RejectedError("not a finite number", reason="number")
    raise RejectedError("not a number", reason="decode")


def number_or_text(payload: bytes) -> float | str:
    """A number when it reads as one, else UTF-8 text."""
    text = text_value(payload)
    return finite(float(text)) if _NUMBER.fullmatch(text) else text


def finite(value: float) -> float:
    """`value`, when it is finite."""
    if not math.isfinite(value):
        raise RejectedError("a number is not finite or too large", reason="number")
    return value


def csv_value(payload: bytes, columns: list[str], delimiter: str) -> Any:
    """One CSV line: a mapping by `columns`, a list when they are not named. Numbers become floats."""
    text = text_value(payload)
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if row]
    except csv.Error as error:
        raise RejectedError(f"not CSV: {error}", reason="decode") from None
    if len(rows) != 1:
        raise RejectedError(f"{len(rows)} lines of CSV where one is wanted", reason="columns")
    cells = [finite(float(cell)) if _NUMBER.fullmatch(cell) else cell for cell in rows[0]]
    if not columns:
        return cells
    if len(cells) != len(columns):
        raise RejectedError(f"{len(cells)} columns where {len(columns)} are named", reason="columns")
    return dict(zip(columns, cells, strict=True))


def cbor_value(payload: bytes, max_depth: int) -> Any:
    """CBOR, made plain: byte strings as base64, dates as ISO 8601, names as str."""
    try:
        decoder = cbor2.CBORDecoder(io.BytesIO(payload))
        value = plain(decoder.decode(), max_depth=max_depth, max_nodes=len(payload) + 1)
        if _goes_on(decoder):
            raise RejectedError("CBOR that goes on after its value", reason="decode")
        return value
    except RecursionError:
        raise too_deep(max_depth) from None
    except cbor2.CBORDecodeError as error:
        if "depth" in str(error):
            raise too_deep(max_depth) from None
        raise RejectedError(f"not CBOR: {error}", reason="decode") from None
    except (ValueError, TypeError, OverflowError, LookupError, ArithmeticError) as error:  # older cbor2 lets tags raise
        raise RejectedError(f"not CBOR: {type(error).__name__}", reason="decode") from None


def _goes_on(decoder: cbor2.CBORDecoder) -> bool:
    try:
        return bool(decoder.read(1))
    except cbor2.CBORDecodeEOF:
        return False


def msgpack_value(payload: bytes, max_depth: int) -> Any:
    """MessagePack, made plain as CBOR is."""
    try:
        value = msgpack.unpackb(payload, raw=False, strict_map_key=False, timestamp=3, ext_hook=_refuse_ext)
        return plain(value, max_depth=max_depth, max_nodes=len(payload) + 1)
    except (msgpack.StackError, RecursionError):
        raise too_deep(max_depth) from None
    except UnicodeDecodeError:
        raise RejectedError("MessagePack with text that is not UTF-8", reason="encoding") from None
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise RejectedError(f"not MessagePack: {error}", reason="decode") from None


def _refuse_ext(code: int, _data: bytes) -> Any:
    raise RejectedError(f"MessagePack extension type {code} has no form in JSON", reason="decode")


def to_utf8(payload: bytes, charset: str) -> bytes:
    """Text in another character set, as UTF-8."""
    if charset in {"", "utf-8", "utf8"}:
        return payload
    if charset not in _CHARSETS:
        raise RejectedError(f"charset {charset[:40]!r} is not known", reason="encoding")
    try:
        return payload.decode(charset).encode()
    except UnicodeError:
        raise RejectedError(f"not text in {charset}", reason="encoding") from None
