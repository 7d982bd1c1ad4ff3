"""A handler's options as rows of a table: for the reference and `gatewayd handlers NAME`. Pure."""

import msgspec
from msgspec import NODEFAULT
from msgspec import inspect as mi

from gatewayd.config.describe import allowed, bare, default, description, literal, struct_info, type_name


class OptionRow(msgspec.Struct, frozen=True, kw_only=True):
    """One option."""

    name: str  # `rules[].label` for one of a nested table
    type: str  # "integer, at least 1"
    default: str  # as TOML writes it; "required", or "unset" where the option may be left out
    description: str


def option_rows(cls: type[msgspec.Struct]) -> list[OptionRow]:
    """The struct's fields in order, each followed by those of its nested tables."""
    return _rows(struct_info(cls), "", ())


def _rows(info: mi.StructType, prefix: str, outer: tuple[type, ...]) -> list[OptionRow]:
    rows: list[OptionRow] = []
    for field in info.fields:
        name = prefix + field.encode_name
        rows.append(
            OptionRow(name=name, type=_type(field.type), default=_default(field), description=description(field))
        )
        for kind, suffix in _tables(field.type):
            if kind.cls not in outer:  # a struct that holds itself is shown once
                rows += _rows(kind, f"{name}{suffix}.", (*outer, info.cls))
    return rows


def _tables(info: mi.Type, suffix: str = "") -> list[tuple[mi.StructType, str]]:
    """The tables in a field, each with how its place is written."""
    kind = bare(info)
    if isinstance(kind, mi.StructType):
        return [(kind, suffix)]
    if isinstance(kind, mi.ListType | mi.VarTupleType):
        return _tables(kind.item_type, suffix + "[]")
    if isinstance(kind, mi.DictType):
        return _tables(kind.value_type, suffix + ".*")
    if isinstance(kind, mi.UnionType):
        return [table for one in kind.types for table in _tables(one, suffix)]
    return []


def _type(info: mi.Type) -> str:
    limits = allowed(info)
    name = _type_name(info)
    return name if not limits or limits == name else f"{name}, {limits}"


def _type_name(info: mi.Type) -> str:
    kind = bare(info)
    if isinstance(kind, mi.UnionType):
        return " or ".join(dict.fromkeys(_type_name(one) for one in kind.types))
    if isinstance(kind, mi.TupleType):
        return "list of " + ", ".join(_type_name(one) for one in kind.item_types)
    return type_name(kind)


def _default(field: mi.Field) -> str:
    value = default(field)
    if value is NODEFAULT:
        return "required"
    if value is None:
        return "unset"
    return "a table" if isinstance(value, msgspec.Struct) else literal(value)
