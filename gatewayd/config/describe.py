"""What a key of config.toml takes, said in words. The check, the reference and the example all ask here.

Made from `msgspec.inspect`, so a struct's annotations are the single definition.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import NODEFAULT
from msgspec import inspect as mi

Path = tuple[str | int, ...]  # of a value: ("routes", "pumps", "topics", 0)

BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


def dotted(path: Path) -> str:
    """The path as TOML writes it: `routes.pumps.topics[0]`; names that need quotes get them."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if part and BARE.issuperset(part) else msgspec.json.encode(part).decode()
            text += f".{name}" if text else name
    return text


def struct_info(cls: type[msgspec.Struct]) -> mi.StructType:
    """The inspected struct."""
    info = mi.type_info(cls)
    if not isinstance(info, mi.StructType):
        raise TypeError(f"{cls!r} is no struct")
    return info


def bare(info: mi.Type) -> mi.Type:
    """Without the description, and without the `None` that stands for an absent key."""
    if isinstance(info, mi.Metadata):
        return bare(info.type)
    if isinstance(info, mi.UnionType):
        kept = tuple(kind for kind in info.types if not isinstance(kind, mi.NoneType))
        return bare(kept[0]) if len(kept) == 1 else mi.UnionType(kept)
    return info


def description(field: mi.Field) -> str:
    """The sentence of the field's annotation; for a table without one, its struct's docstring."""
    if isinstance(field.type, mi.Metadata):
        said = (field.type.extra_json_schema or {}).get("description", "")
        if said:
            return str(said)
    kind = bare(field.type)
    return (kind.cls.__doc__ or "").strip() if isinstance(kind, mi.StructType) else ""


def variants(info: mi.Type) -> dict[str, mi.StructType]:
    """The tables a tagged union chooses from, by the value of its tag; empty when it is none."""
    kind = bare(info)
    if not isinstance(kind, mi.UnionType):
        return {}
    return {str(each.tag): each for each in kind.types if isinstance(each, mi.StructType)}


def type_name(info: mi.Type) -> str:
    """What the value is: "integer", "list of text", "table"."""
    kind = bare(info)
    simple: Mapping[type, str] = {
        mi.BoolType: "true or false",
        mi.IntType: "integer",
        mi.FloatType: "number",
        mi.StrType: "text",
        mi.StructType: "table",
        mi.UnionType: "table",
        mi.AnyType: "any value",
    }
    if isinstance(kind, mi.ListType):
        return f"list of {type_name(kind.item_type)}"
    if isinstance(kind, mi.DictType):
        values = bare(kind.value_type)
        return "table" if isinstance(values, mi.AnyType) else f"table of {type_name(values)}"
    if isinstance(kind, mi.LiteralType):
        return "integer" if all(isinstance(value, int) for value in kind.values) else "text"
    return simple.get(type(kind), "value")


def allowed(info: mi.Type) -> str:
    """Which values are allowed: a range, choices, a length; "" when the type says it all."""
    kind = bare(info)
    if isinstance(kind, mi.LiteralType):
        return " or ".join(literal(value) for value in kind.values)
    if isinstance(kind, mi.BoolType):
        return "true or false"
    if isinstance(kind, mi.IntType | mi.FloatType):
        return _range(kind)
    if isinstance(kind, mi.StrType):
        return _text(kind)
    if isinstance(kind, mi.ListType | mi.DictType):
        return _count(kind)
    return ""


def _count(kind: mi.ListType | mi.DictType) -> str:
    low, high = kind.min_length, kind.max_length
    if low and high:
        return f"{low} to {high} of them" if low != high else f"{low} of them"
    return f"at least {low}" if low else f"at most {high}" if high else ""


def _range(kind: mi.IntType | mi.FloatType) -> str:
    low = f"more than {kind.gt:g}" if kind.gt is not None else ""
    low = f"at least {kind.ge}" if kind.ge is not None else low
    high = f"less than {kind.lt:g}" if kind.lt is not None else ""
    high = f"at most {kind.le}" if kind.le is not None else high
    if kind.ge is not None and kind.le is not None:
        return f"{kind.ge} to {kind.le}"
    return ", ".join(part for part in (low, high) if part)


def _text(kind: mi.StrType) -> str:
    if kind.pattern:
        return "text that matches " + kind.pattern.replace(r"\Z", "$")
    low, high = kind.min_length, kind.max_length
    if low and low == high:
        return f"{low} character" + ("s" if low > 1 else "")
    if low == 1:
        return "not empty" if high is None else f"1 to {high} characters"
    return f"at most {high} characters" if high is not None else ""


def default(field: mi.Field) -> Any:
    """The field's default; `NODEFAULT` when it is required."""
    if field.default is not NODEFAULT:
        return field.default
    if field.default_factory is not NODEFAULT:
        return field.default_factory()
    return NODEFAULT


def literal(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return msgspec.json.encode(value).decode()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(literal(item) for item in value) + "]"
    if isinstance(value, Mapping):
        inner = ", ".join(f"{dotted((str(key),))} = {literal(item)}" for key, item in value.items())
        return "{ " + inner + " }" if inner else "{}"
    return repr(value)
