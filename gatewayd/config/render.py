"""config.toml and docs/reference/config.md, made from the structs: neither can say what the code does not do."""

import textwrap
from collections.abc import Iterator, Sequence

from msgspec import NODEFAULT
from msgspec import inspect as mi

from gatewayd.config import example
from gatewayd.config.describe import (
    Path,
    allowed,
    bare,
    default,
    description,
    dotted,
    literal,
    struct_info,
    type_name,
    variants,
)
from gatewayd.config.schema import Config

_WIDTH = 118


def render_example() -> str:
    """The example config.toml: works as it stands, and has every key."""
    parts = [example.HEAD]
    for field in struct_info(Config).fields:
        kind = bare(field.type)
        if isinstance(kind, mi.StructType):
            parts.append("\n".join(_example_table(kind, (field.encode_name,))))
        elif field.encode_name == "routes":
            parts.append(_example_routes(kind))
        elif field.encode_name == "tiers":
            parts.append("\n".join(_example_variants(kind, "tiers", example.TIERS)))
        else:
            parts.append("\n".join(_example_variants(kind, "sinks", example.SINKS)))
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _example_routes(kind: mi.Type) -> str:
    route = _values(kind)
    if not isinstance(route, mi.StructType):
        raise TypeError("a route is a table")
    lines = _example_table(route, ("routes", "temperature"))
    return "\n".join([*lines, example.TEMPERATURE_OPTIONS, example.MORE_ROUTES])


def _example_variants(kind: mi.Type, table: str, shown: Sequence[tuple[str, str, bool]]) -> list[str]:
    """Tables of which `type` says what they are: (name, type, whether it is commented out)."""
    lines: list[str] = []
    for name, tag, is_off in shown:
        lines += [*_example_table(variants(_values(kind))[tag], (table, name), is_off=is_off), ""]
    return lines


def _values(kind: mi.Type) -> mi.Type:
    if not isinstance(kind, mi.DictType):
        raise TypeError("a table of tables was expected")
    return bare(kind.value_type)


def _example_table(kind: mi.StructType, path: Path, *, is_off: bool = False, about: str = "") -> list[str]:
    """The lines of a table, its keys first and then the tables in it. `is_off`: all of it is commented out."""
    off = "#" if is_off else ""
    lines = [*_comment(about or _first_line(kind)), f"{off}[{dotted(path)}]"]
    if kind.tag_field:
        lines.append(f"{off}{kind.tag_field} = {literal(kind.tag)}")
    inner: list[str] = []
    for field in kind.fields:
        here = (*path, field.encode_name)
        value = bare(field.type)
        if isinstance(value, mi.StructType):
            # A table whose presence means something is not there until somebody wants it.
            absent = is_off or default(field) is None
            inner += ["", *_example_table(value, here, is_off=absent, about=description(field))]
        elif here[-1] != "options":
            lines += [*_comment(_explained(field)), _example_key(field, here, is_off=is_off)]
    return [*lines, *inner]


def _example_key(field: mi.Field, path: Path, *, is_off: bool) -> str:
    key = dotted(path)
    if key in example.SET and not is_off:
        return f"{field.encode_name} = {literal(example.SET[key])}"
    value = default(field)
    if value is None or value is NODEFAULT:
        value = example.SAMPLES.get(f"{path[-2]}.{path[-1]}", example.SAMPLES.get(str(path[-1])))
    return f"#{field.encode_name} = {literal(value)}"


def _explained(field: mi.Field) -> str:
    """Description, then what is allowed and the default, where the line below does not show it."""
    parts = [description(field)]
    limits = allowed(field.type)
    if limits and not isinstance(bare(field.type), mi.BoolType):
        parts.append(f"Allowed: {limits}.")
    value = default(field)
    if value is None:
        parts.append("Not set by default.")
    elif value is NODEFAULT:
        parts.append("Required.")
    return " ".join(part for part in parts if part)


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False)


def _first_line(kind: mi.StructType) -> str:
    return (kind.cls.__doc__ or "").strip().split("\n")[0]


def render_reference() -> str:
    """docs/reference/config.md: every table, every key with its anchor."""
    parts = [
        "<!-- Generated from gatewayd/config: change it there, then `make docs`. -->\n\n# Config keys\n",
        "`gatewayd check` reports every mistake with its line; [config.toml](../../config.toml) is a working example.",
        "Durations end in `_s` or `_ms`, sizes in `_bytes`. A relative path starts from the folder of config.toml.\n",
    ]
    for field in struct_info(Config).fields:
        parts += _reference_of(field.type, (field.encode_name,), description(field))
    return "\n".join(parts).rstrip("\n") + "\n"


def _reference_of(info: mi.Type, path: Path, about: str) -> Iterator[str]:
    """The sections of a value that is a table, or tables by name, or one of several tables."""
    kind = bare(info)
    if isinstance(kind, mi.StructType):
        yield from _reference_table(kind, path, about)
    elif isinstance(kind, mi.DictType) and isinstance(bare(kind.value_type), mi.StructType):
        yield from _reference_of(kind.value_type, (*path, "<name>"), about)
    elif isinstance(kind, mi.DictType):
        for tag, each in variants(kind.value_type).items():
            yield from _reference_table(each, (*path, "<name>"), f'{_first_line(each)} `type = "{tag}"`', tag=tag)


def _reference_table(kind: mi.StructType, path: Path, about: str, *, tag: str = "") -> Iterator[str]:
    title = ".".join(str(part) for part in path)
    yield f"\n## `[{title}]`{f' of type {tag}' if tag else ''}\n\n{about or _first_line(kind)}\n"
    yield "| Key | Type | Default | Allowed | Meaning |\n| --- | --- | --- | --- | --- |"
    anchor = title.replace("<name>", tag) if tag else title
    if tag:
        sort = str(path[0]).removesuffix("s")
        yield f'| <a id="{anchor}.type"></a>`type` | text | required | `"{tag}"` | Which sort of {sort} this is. |'
    inner: list[tuple[mi.Field, Path]] = []
    for field in kind.fields:
        name = field.encode_name
        yield _reference_row(field, f"{anchor}.{name}")
        if isinstance(bare(field.type), mi.StructType):
            inner.append((field, (*path[:-1], tag or path[-1], name) if tag else (*path, name)))
    for field, where in inner:
        yield from _reference_of(field.type, where, description(field))


def _reference_row(field: mi.Field, anchor: str) -> str:
    value = default(field)
    if value is NODEFAULT:
        shown = "required"
    elif value is None:
        shown = "not set"
    else:
        shown = "" if isinstance(bare(field.type), mi.StructType) else f"`{literal(value)}`"
    limits = allowed(field.type)
    cells = [
        f'<a id="{anchor}"></a>`{field.encode_name}`',
        type_name(field.type),
        shown,
        f"`{limits}`" if "^" in limits else limits,
        description(field).replace("<", "&lt;"),
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
